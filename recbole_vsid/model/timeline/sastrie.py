"""SASTrie: SASRec's timeline with the tree of semantic IDs as its output layer. This package's own; no paper.

What is taken from where: one vector per item and a loss at every position from SASRec (arXiv 1808.09781) and MARIUS
(arXiv 2508.14910), whose items are sums of code vectors; new are the own vectors of the tree's nodes, so that items and
groups of items that the data tell apart are told apart, and the dense head over the same vectors, which puts the items
that a beam search finds in order. The generative head is normalised among siblings, so what its loss computes does not
grow with the catalogue.
"""

from __future__ import annotations

from recbole_vsid.model.timeline.base import TimelineRecommender


class SASTrie(TimelineRecommender):
    """The skeleton with own vectors on all nodes, both heads and re-ranking; see ``properties/model/SASTrie.yaml``."""
