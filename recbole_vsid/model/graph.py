"""RecBole's graph models on today's SciPy: LightGCN, NGCF, NCL and GCMC fill a ``dok_matrix`` through a private method
that SciPy 1.13 removed. The same matrix, built from blocks instead.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import bmat, diags


class NormalisedAdjacency:
    """Mends ``get_norm_adj_mat`` of a RecBole model that has ``interaction_matrix``."""

    def get_norm_adj_mat(self):
        """D^-1/2 A D^-1/2 of the user–item graph, a sparse tensor ``[n_users + n_items, n_users + n_items]``."""
        matrix = (self.interaction_matrix.tocsr() > 0).astype(np.float32)
        adjacency = bmat([[None, matrix], [matrix.T, None]], format="csr")
        scale = diags(np.power(np.asarray(adjacency.sum(1)).ravel() + 1e-7, -0.5))
        normalised = (scale @ adjacency @ scale).tocoo()
        index = torch.from_numpy(np.stack([normalised.row, normalised.col]).astype(np.int64))
        values = torch.from_numpy(normalised.data.astype(np.float32))
        return torch.sparse_coo_tensor(index, values, normalised.shape)
