"""MARIUS: a timeline of items made of codes, and a depth transformer that generates the next item's code.

S. Lepage, J. Mary, D. Picard, *Closing the Performance Gap in Generative Recommenders with Collaborative Tokenization
and Efficient Modeling*, arXiv 2508.14910: items are sums of code embeddings, a causal transformer runs over items, and
a small one over the codes of the next item, which starts from the timeline's state; embeddings are tied.

Differences from the paper, on purpose: the softmax of a code is over the codes that exist behind its prefix instead of
the whole codebook, codes without an alternative are left out, blocks are this package's (rotary positions, RMS norm),
and sizes are smaller by default.
"""

from __future__ import annotations

from recbole_vsid.model.timeline.base import TimelineRecommender


class MARIUS(TimelineRecommender):
    """The skeleton without own vectors and without a dense head; see ``properties/model/MARIUS.yaml``."""
