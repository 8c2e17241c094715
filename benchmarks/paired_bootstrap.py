"""Is one trained model better than another? Paired bootstrap over test users, NDCG@10 and Recall@10, both protocols.

    python benchmarks/paired_bootstrap.py saved/SASRec-…/best.pth saved/VLSID-…/best.pth [--draws=10000]
    python benchmarks/paired_bootstrap.py --baseline seed1.pth seed2.pth --candidate seed1.pth seed2.pth
    python benchmarks/paired_bootstrap.py saved/SASTrie-…/best.pth saved/SASTrie-…/best.pth --rank_by=generative

Of several checkpoints of a method, its seeds, each user's metric is averaged before users are drawn. The intervals
cover the choice of users, not of the seeds: checkpoints are compared, not methods.

``--baseline_rank_by`` and ``--rank_by`` (the candidate's) change how a model with several heads puts items in order.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from recbole_vsid import load
from recbole_vsid.evaluation.collector import KEPT, MASKED

NDCG, RECALL = METRICS = ("NDCG@10", "Recall@10")
RANK_BY = ("generative", "rerank", "dense")


@torch.no_grad()
def metrics_per_user(checkpoint, rank_by=None, cutoff=10):
    """Metrics of each test user, ``{(protocol, metric): float64 [n_users]}``, and the users' tokens, by user id."""
    changes = {"rank_by": rank_by} if rank_by else {}  # which a model without a choice refuses
    config, dataset, loaders, model = load(checkpoint, {"show_progress": False, **changes})
    consumed = loaders[2]._dataset.consumed
    users, values = [], {(protocol, metric): [] for protocol in (KEPT, MASKED) for metric in METRICS}
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
            values[name, NDCG].append(torch.where(hit, 1 / torch.log2(rank + 1.0), 0.0).double().numpy())
            values[name, RECALL].append(hit.double().numpy())
    users = np.concatenate(users)
    order = np.argsort(users, kind="stable")
    tokens = dataset.id2token(config["USER_ID_FIELD"], users[order])
    return {key: np.concatenate(parts)[order] for key, parts in values.items()}, tokens


def over_seeds(checkpoints, rank_by):
    """:func:`metrics_per_user`, averaged over checkpoints.

    Raises:
        SystemExit: they were tested on different users.
    """
    found = [metrics_per_user(checkpoint, rank_by) for checkpoint in checkpoints]
    for checkpoint, (_, tokens) in zip(checkpoints, found):
        check_users(tokens, found[0][1], checkpoint, checkpoints[0])
    return {key: np.mean([values[key] for values, _ in found], axis=0) for key in found[0][0]}, found[0][1]


def check_users(users, others, checkpoint, other):
    if not np.array_equal(users, others):
        raise SystemExit(f"{checkpoint} and {other} have different test users and cannot be paired")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", nargs="*", metavar="checkpoint", help="the baseline and the candidate, one of each")
    parser.add_argument("--baseline", nargs="+", default=[], help="instead of a pair: checkpoints, like seeds")
    parser.add_argument("--candidate", nargs="+", default=[], help="as many as there are, like seeds")
    parser.add_argument("--baseline_rank_by", choices=RANK_BY)
    parser.add_argument("--rank_by", choices=RANK_BY, help="of the candidate")
    parser.add_argument("--draws", type=int, default=10_000)
    options = parser.parse_args()
    if options.pair and not (options.baseline or options.candidate) and len(options.pair) == 2:
        options.baseline, options.candidate = ([checkpoint] for checkpoint in options.pair)
    elif options.pair or not (options.baseline and options.candidate):
        parser.error("name two checkpoints, or --baseline and --candidate with one or more each")
    return options


def main():
    options = arguments()
    torch.set_num_threads(1)
    baseline, users = over_seeds(options.baseline, options.baseline_rank_by)
    candidate, others = over_seeds(options.candidate, options.rank_by)
    check_users(others, users, options.candidate[0], options.baseline[0])
    rng = np.random.default_rng(0)
    for protocol in (KEPT, MASKED):
        pairs = np.stack([[baseline[protocol, metric], candidate[protocol, metric]] for metric in METRICS])
        pairs = np.concatenate([pairs, pairs[:, 1:] - pairs[:, :1]], axis=1)
        n_users = pairs.shape[2]
        draws = np.stack([pairs[..., rng.integers(0, n_users, n_users)].mean(2) for _ in range(options.draws)])
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        print(f"{protocol}, {n_users} users")
        for name, *rows in zip(METRICS, pairs.mean(2), low, high):
            for label, mean, lower, upper in zip(("baseline", "candidate", "difference"), *rows):
                print(f"  {label:<10} {name:<9} {mean:+.4f}  95 % interval [{lower:+.4f}, {upper:+.4f}]")


if __name__ == "__main__":
    main()
