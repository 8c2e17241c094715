"""The ranked lists of the official search (github.com/KhrylchenkoKirill/varlen_semantic_ids).

The file holds a small random problem and what the authors' released code answers to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recbole_vsid.decoding.beam import constrained_beam_search
from recbole_vsid.decoding.trie import PrefixTrie
from recbole_vsid.layers import CachedDecoder, Transformer
from recbole_vsid.semantic_id.table import SemanticIDs

GOLDEN = Path(__file__).parent.parent / "golden" / "vlsid_beam.npz"


def test_ranks_as_the_official_search():
    with np.load(GOLDEN) as file:
        golden = dict(file)
    codes = np.concatenate([np.full((1, golden["codes"].shape[1]), -1), golden["codes"]])  # row 0: padding
    vocabulary = int(golden["vocabulary"])
    table = SemanticIDs(
        codes=codes,
        lengths=(codes >= 0).sum(1),
        vocab_sizes=[vocabulary] * codes.shape[1],
        shared_vocabulary=True,
        item_tokens=np.arange(len(codes)),
    )
    transformer = Transformer(width=128, n_layers=2, head_dim=128).eval()
    names = {f"blocks.{name[5:]}": value for name, value in golden.items() if name.startswith("block")}
    transformer.load_state_dict({name: torch.from_numpy(value) for name, value in names.items()})
    embedding = torch.from_numpy(golden["token_embedding"])
    head = torch.from_numpy(golden["head.weight"])
    context = torch.from_numpy(golden["context"])
    decoder = CachedDecoder(transformer)

    def step(tokens, parents):
        if tokens is None:
            lengths = torch.full((len(context),), context.size(1))
            hidden = decoder.prefill(embedding[context], lengths).unsqueeze(1)
        else:
            hidden = decoder.step(embedding[tokens], parents)
        return 30 * torch.sigmoid(hidden @ head.T / 7.5)

    with torch.no_grad():
        items, _ = constrained_beam_search(step, PrefixTrie.from_table(table), int(golden["beam_width"]), k=20)
    np.testing.assert_array_equal(items.numpy() - 1, golden["expected.ranked_items"])
