"""Tokenizers: item content → semantic IDs, one method per file, no recommender known here."""
