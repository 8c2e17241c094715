"""ReSID: TIGER's generator on semantic IDs made for recommendation instead of from text.

Liang et al., *Rethinking Generative Recommender Tokenizer: Recsys-Native Encoding and Semantic Quantization Beyond
LLMs*, arXiv 2602.02338. What is new in ReSID are its item encoder, FAMAE (``recbole_vsid/tokenizer/famae.py``), and its
quantiser, GAOQ (``gaoq.py`` beside it), the defaults of this model. As in the paper all generators are one: its sizes
(4 + 4 layers, width 128, 4 heads of 32) are TIGER's here too, so that differences come from the semantic IDs alone.

Differences from the paper, on purpose: Muon and AdamW with averaged weights and few epochs of batches of 256 (the
paper: AdamW, batches of 2,048, up to 500 epochs), histories of 20 events, one softmax per position of a code.
"""

from __future__ import annotations

from recbole_vsid.model.tiger import TIGER


class ReSID(TIGER):
    """TIGER's generator; ``properties/model/ReSID.yaml`` differs in the tokenizer only."""
