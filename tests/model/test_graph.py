"""The adjacency matrix RecBole's graph models get on today's SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_matrix

from recbole_vsid.model.graph import NormalisedAdjacency
from recbole_vsid.quick_start import run


def test_adjacency_equals_the_dense_definition():
    rng = np.random.default_rng(0)
    dense = (rng.random((5, 7)) < 0.4).astype(np.float32)
    model = NormalisedAdjacency()
    model.interaction_matrix = coo_matrix(dense)
    adjacency = np.block([[np.zeros((5, 5)), dense], [dense.T, np.zeros((7, 7))]])
    scale = (adjacency.sum(1) + 1e-7) ** -0.5
    expected = scale[:, None] * adjacency * scale[None, :]
    assert np.allclose(model.get_norm_adj_mat().to_dense().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["LightGCN", "NGCF", "GCMC"])
def test_graph_models_run(small_settings, name):
    result = run(name, "toy", config_dict=small_settings(name, epochs=1))
    assert result["model"] == name and result["test_result"]["consumed_masked"]["recall@20"] > 0
