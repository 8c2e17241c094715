"""Is one trained model better than another? Paired bootstrap over test users, NDCG@10 under both protocols.

    python benchmarks/paired_bootstrap.py saved/SASRec-…/best.pth saved/VLSID-…/best.pth [--draws=10000]

The intervals cover the choice of users, not of the seed: two checkpoints are compared, not two methods.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from recbole_vsid import load
from recbole_vsid.evaluation.collector import KEPT, MASKED


@torch.no_grad()
def ndcg_per_user(checkpoint, cutoff=10):
    """NDCG of each test user, ``{protocol: float64 [n_users]}``, ordered by user id."""
    config, _, loaders, model = load(checkpoint, {"show_progress": False})
    consumed = loaders[2]._dataset.consumed
    users, values = [], {KEPT: [], MASKED: []}
    for rows, _, positive_u, targets in loaders[2]:
        scores = model.full_sort_predict(rows).view(-1, consumed.shape[1])
        scores[:, 0] = -torch.inf
        batch = rows[config["USER_ID_FIELD"]][positive_u].numpy()
        users.append(batch)
        target = scores.gather(1, targets.unsqueeze(1))
        seen = torch.from_numpy(consumed[batch].toarray())
        for name, candidates in ((KEPT, scores), (MASKED, scores.masked_fill(seen, -torch.inf))):
            rank = (candidates > target).sum(1) + 1
            hit = (rank <= cutoff) & target.squeeze(1).isfinite()
            values[name].append(torch.where(hit, 1 / torch.log2(rank + 1.0), 0.0).double().numpy())
    order = np.argsort(np.concatenate(users), kind="stable")
    return {name: np.concatenate(parts)[order] for name, parts in values.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline")
    parser.add_argument("candidate")
    parser.add_argument("--draws", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    baseline, candidate = ndcg_per_user(options.baseline), ndcg_per_user(options.candidate)
    rng = np.random.default_rng(0)
    for name in (KEPT, MASKED):
        pair = np.stack([baseline[name], candidate[name], candidate[name] - baseline[name]])
        draws = np.stack([pair[:, rng.integers(0, pair.shape[1], pair.shape[1])].mean(1) for _ in range(options.draws)])
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        print(f"{name}, {pair.shape[1]} users")
        for label, mean, lower, upper in zip(("baseline", "candidate", "difference"), pair.mean(1), low, high):
            print(f"  {label:<10} NDCG@10 {mean:+.4f}  95 % interval [{lower:+.4f}, {upper:+.4f}]")


if __name__ == "__main__":
    main()
