"""Balanced k-means: clusters whose sizes differ by at most one, without a flow solver.

The assignment step is the transport problem of ReSID's quantiser (arXiv 2602.02338): every cluster takes
floor(n / k) rows, and n mod k of them one more. It is solved exactly by the primal-dual method: prices on the
clusters are found that make the nearest clusters nearly balanced, then the remaining rows move along
successive shortest paths in the graph of the k clusters, which is small whatever n is.
"""

from __future__ import annotations

import numpy as np

# Row-cluster pairs that are looked at together: they stay in the processor's cache.
PAIRS_AT_ONCE = 2**18
# Steps of the search for prices; what is misplaced after them moves along shortest paths.
PRICE_STEPS = 60
# k-means has converged when fewer of the labels than this change.
LABEL_TOLERANCE = 0.001


# --------------------------------------------------------------- assignment


def balanced_assign(distances, prices=None):
    """The assignment with the smallest sum of distances in which cluster sizes differ by at most one.

    Args:
        distances: ``[n, k]`` with n >= k, finite.
        prices: ``[k]`` start of the search, for instance of a similar problem; they change the time, not the sum.

    Returns:
        labels int64 ``[n]``, each of 0..k-1 floor(n / k) or ceil(n / k) times, and the prices float64 ``[k]`` of
        the solution: every row is in the cluster with the smallest sum of distance and price.
    """
    n, k = distances.shape
    prices = np.zeros(k) if prices is None else np.array(prices, dtype=np.float64)
    labels, prices = _near_balance(distances, prices)
    return _move_excess(distances, labels, prices, *divmod(n, k))


def _cheapest(distances, prices):
    labels = np.empty(len(distances), dtype=np.int64)
    step = max(1, PAIRS_AT_ONCE // len(prices))
    for start in range(0, len(distances), step):
        labels[start : start + step] = (distances[start : start + step] + prices).argmin(1)
    return labels


def _near_balance(distances, prices):
    """Labels and prices after a search with signs of the excess only, each cluster with a step of its own (Rprop)."""
    n, k = distances.shape
    floor, ceil = n // k, -(-n // k)
    sample = distances[:: max(1, n // 1000)]
    step = np.full(k, float(sample.std()) / k)
    before = np.zeros(k)
    best, fewest = None, np.inf
    for _ in range(PRICE_STEPS):
        labels = _cheapest(distances, prices)
        counts = np.bincount(labels, minlength=k)
        excess = np.maximum(counts - ceil, 0) + np.minimum(counts - floor, 0)
        misplaced, direction = int(np.abs(excess).sum()), np.sign(excess)
        if misplaced < fewest:
            best, fewest = (labels, prices), misplaced
        if misplaced <= k // 2:
            break
        step = step * np.where(direction * before > 0, 1.3, np.where(direction * before < 0, 0.5, 1.0))
        prices = prices + step * direction
        before = direction
    return best


def _move_excess(distances, labels, prices, floor, n_larger):
    """Balance labels that are the cheapest ones at ``prices``, at the smallest cost.

    The nodes are the k clusters and, last, the pool of the ``n_larger`` places beyond ``floor``. An edge from
    cluster a to b moves the row of a for which that costs least; an edge to the pool takes a place from it, an
    edge from the pool gives one back; neither moves a row. At these prices no edge is below zero, and shortest paths
    keep it so: that is the certificate of the optimum.
    """
    k = len(prices)
    larger = np.zeros(k, dtype=bool)
    by_price = np.argsort(-prices, kind="stable")
    larger[by_price[:n_larger]] = True
    potential = np.append(prices, prices[by_price[max(n_larger - 1, 0)]])
    excess = np.bincount(labels, minlength=k) - floor - larger
    costs = np.full((k + 1, k + 1), np.inf)
    changed = range(k)
    while True:
        for cluster in changed:
            members = np.flatnonzero(labels == cluster)
            moves = distances[members] - distances[members, cluster, None]
            costs[cluster, :k] = moves.min(0) if len(members) else np.inf
        costs[:k, k] = np.where(larger, np.inf, 0)
        costs[k, :k] = np.where(larger, 0, np.inf)
        if not excess.any():
            return labels, potential[:k]
        lengths, before = _shortest_paths(
            np.maximum(costs + potential - potential[:, None], 0), np.append(excess > 0, False)
        )
        end = int(np.where(excess < 0, lengths[:k], np.inf).argmin())
        potential -= np.minimum(lengths, lengths[end])
        path = [end]
        while before[path[0]] >= 0:
            path.insert(0, int(before[path[0]]))
        changed = _move_along(path, distances, labels, larger, excess, costs)


def _move_along(path, distances, labels, larger, excess, costs):
    """Move rows one edge further along ``path``, in place; return the clusters that lost or gained rows.

    Rows with the same vector cost the same, so as many move at once as every edge and both ends allow.
    """
    pool, start, end = len(larger), path[0], path[-1]
    amount, movers = min(excess[start], -excess[end]), []
    for source, target in zip(path, path[1:]):
        if pool in (source, target):
            amount = 1
        else:
            members = np.flatnonzero(labels == source)
            move = distances[members, target] - distances[members, source]
            movers.append((members[move == costs[source, target]], target))
            amount = min(amount, len(movers[-1][0]))
    for rows, target in movers:
        labels[rows[:amount]] = target
    if pool in path:
        position = path.index(pool)
        larger[path[position - 1]], larger[path[position + 1]] = True, False
    excess[start] -= amount
    excess[end] += amount
    return [node for node in path if node != pool]


def _shortest_paths(edges, sources):
    """Bellman-Ford: length of the shortest path from any source to every node, and the node before it, or −1."""
    lengths = np.where(sources, 0.0, np.inf)
    before = np.full(len(edges), -1)
    while True:
        through = lengths[:, None] + edges
        nearest = through.argmin(0)
        candidates = through[nearest, np.arange(len(edges))]
        shorter = candidates < lengths
        if not shorter.any():
            return lengths, before
        lengths[shorter], before[shorter] = candidates[shorter], nearest[shorter]


# ------------------------------------------------------------------ k-means


def balanced_kmeans(x, k, rng, iterations=15, restarts=3):
    """k-means with clusters of floor(n / k) or ceil(n / k) rows, from k-means++ starts.

    Args:
        x: float32 ``[n, d]``.
        k: clusters; as many as rows if there are fewer rows.
        rng: ``numpy.random.Generator`` of the starts.
        iterations: most assignments per start.
        restarts: starts, of which the one with the smallest inertia is taken.

    Returns:
        labels int64 ``[n]`` and the means of the clusters, float32 ``[min(k, n), d]``.
    """
    if k >= len(x):
        return np.arange(len(x)), x.copy()
    squares = row_squares(x)
    best, lowest = None, np.inf
    for _ in range(restarts):
        centroids = kmeans_plus_plus(x, k, rng, squares)
        labels, prices = np.full(len(x), -1), None
        for _ in range(iterations):
            before = labels
            labels, prices = balanced_assign(squared_distances(x, centroids, squares), prices)
            members = cluster_members(labels, k)
            centroids = np.stack([x[rows].mean(0) for rows in members])
            if (labels != before).mean() < LABEL_TOLERANCE:
                break
        # Sum of squares minus that of the means, of which the first part is the same for every start.
        inertia = -float(np.dot([len(rows) for rows in members], row_squares(centroids)))
        if inertia < lowest:
            best, lowest = (labels, centroids), inertia
    return best


def kmeans_plus_plus(x, k, rng, squares):
    """Rows of ``x``, each drawn in proportion to its squared distance from those before, ``[k, d]``."""
    picks = [int(rng.integers(len(x)))]
    nearest = np.full(len(x), np.inf)
    while len(picks) < k:
        nearest = np.minimum(nearest, squared_distances(x, x[picks[-1:]], squares)[:, 0])
        mass = np.cumsum(np.maximum(nearest, 0), dtype=np.float64)
        picks.append(min(int(np.searchsorted(mass, rng.random() * mass[-1], side="right")), len(x) - 1))
    return x[picks]


def cluster_members(labels, k):
    """The rows of each of k clusters in ascending order, a list of k arrays."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=k))[:-1])


def row_squares(x):
    """Squared norms of the rows, ``[n]``."""
    return np.einsum("nd,nd->n", x, x)


def squared_distances(x, centroids, squares):
    """Squared distances ``[n, k]`` of rows ``[n, d]`` with the squared norms ``squares`` from ``[k, d]``."""
    distances = x @ (-2 * centroids.T)
    distances += row_squares(centroids)
    distances += squares[:, None]
    return distances
