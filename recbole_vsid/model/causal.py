"""What IntRR and its flattened twin share: windows of whole sequences, a causal backbone, and how it is set up."""

from __future__ import annotations

import numpy as np
from torch import nn

from recbole_vsid.data.sequences import WindowLoader
from recbole_vsid.model.base import GenerativeRecommender
from recbole_vsid.model.hstu import HSTU
from recbole_vsid.model.t5 import Stack

BACKBONES = ("transformer", "hstu")


class CausalRecommender(GenerativeRecommender):
    """A recommender whose causal backbone is trained at every position of a sequence in one pass.

    Args:
        config: reads ``backbone``, ``hidden_size``, ``n_layers``, ``n_heads``, ``head_size`` and ``inner_size`` (both
            for the transformer only), ``dropout_prob``, ``MAX_ITEM_LIST_LENGTH`` (most events of a history),
            ``train_batch_size`` (targets per update), ``renormalize`` and the keys of the base class.
        dataset: a built :class:`~recbole_vsid.data.dataset.SemanticIDDataset`.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.vocabularies = self.semantic_ids.vocabularies()
        self.renormalize = "all" if config["renormalize"] else "none"
        size = (config["hidden_size"], config["n_layers"], config["n_heads"])
        if config["backbone"] == "hstu":
            self.backbone = HSTU(*size, config["dropout_prob"])
        else:
            self.backbone = Stack(*size, config["head_size"], config["inner_size"], config["dropout_prob"], causal=True)

    @classmethod
    def check_settings(cls, config):
        super().check_settings(config)
        if config["backbone"] not in BACKBONES:
            raise ValueError(f"backbone={config['backbone']!r} is not usable: it must be one of {', '.join(BACKBONES)}")
        for key in ("hidden_size", "n_layers", "n_heads", "head_size", "inner_size"):
            if config[key] < 1:
                raise ValueError(f"{key}={config[key]!r} is not usable: it must be a whole number of at least 1")
        if config["backbone"] == "hstu" and config["hidden_size"] % config["n_heads"]:
            raise ValueError(
                f"hidden_size={config['hidden_size']} must be a multiple of n_heads={config['n_heads']} with "
                "backbone=hstu, whose heads share the width"
            )

    def train_loader(self, config, dataset):
        costs = np.ones(self.semantic_ids.n_items, dtype=np.int64)
        length = config["MAX_ITEM_LIST_LENGTH"]
        return WindowLoader(config, dataset, costs, length, config["train_batch_size"], lead=True)

    def hidden_matrices(self):
        return linear_weights(self.backbone)


def linear_weights(module):
    """The matrices of all linear layers in ``module``."""
    return [each.weight for each in module.modules() if isinstance(each, nn.Linear)]
