"""Semantic-ID tables: the table itself, how collisions are resolved, how a table is judged."""

from recbole_vsid.semantic_id.table import SemanticIDs

__all__ = ["SemanticIDs"]
