"""Event logs, windows and batches, against plain loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_vsid.data.sequences import EventLog, PrefixLoader, WindowLoader, _equal_cost_bounds, windows

exactly = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def make_log(sequences):
    """An ``EventLog`` of one list of items per user; user 0 is RecBole's padding user."""
    users = np.array([user for user, items in enumerate(sequences) for _ in items], dtype=np.int64)
    return EventLog.from_columns(users, [item for items in sequences for item in items], len(sequences))


logs = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=6).map(lambda rest: [[], *rest])


@exactly
@given(logs, st.integers(1, 5), st.randoms(use_true_random=False))
def test_event_logs_against_loops(sequences, longest, random):
    log = make_log(sequences)
    assert log.items.dtype == log.offsets.dtype == np.int64
    assert log.counts().tolist() == [len(items) for items in sequences]
    assert log.users().tolist() == [user for user, items in enumerate(sequences) for _ in items]
    flat = [(user, place) for user, items in enumerate(sequences) for place in range(len(items))]
    targets = [position for position, (_, place) in enumerate(flat) if place > 0]
    assert log.target_positions().tolist() == targets

    kept = [random.randint(0, len(items)) for items in sequences]
    heads = log.heads(np.array(kept))
    assert [heads.items[a:b].tolist() for a, b in zip(heads.offsets, heads.offsets[1:])] == [
        items[:n] for items, n in zip(sequences, kept)
    ]

    positions = [random.randrange(len(flat)) for _ in range(5)] if flat else []
    rows, lengths = log.histories(np.array(positions, dtype=np.int64), longest)
    assert rows.shape == (len(positions), longest) and rows.dtype == lengths.dtype == np.int64
    for position, row, length in zip(positions, rows, lengths):
        user, place = flat[position]
        history = sequences[user][max(0, place - longest) : place]
        assert row.tolist() == history + [0] * (longest - len(history)) and length == len(history)


def timed_log(sequences, times):
    users = np.array([user for user, items in enumerate(sequences) for _ in items], dtype=np.int64)
    items = [item for items in sequences for item in items]
    return EventLog.from_columns(users, items, len(sequences), np.array([each for row in times for each in row]))


def test_only_events_of_a_user_at_the_same_time_change_places():
    sequences = [[], [1, 2, 3, 4, 5], [6, 7], [8]]
    log = timed_log(sequences, [[], [1, 1, 2, 3, 3], [3, 3], [3]])
    assert log.moments.tolist() == [0, 0, 1, 2, 2, 3, 3, 4]
    seen = set()
    for seed in range(100):
        shuffled = log.shuffled(np.random.default_rng(seed))
        assert shuffled.offsets is log.offsets
        assert sorted(shuffled.items[:2]) == [1, 2] and shuffled.items[2] == 3 and shuffled.items[7] == 8
        assert sorted(shuffled.items[3:5]) == [4, 5] and sorted(shuffled.items[5:7]) == [6, 7]
        seen.add(tuple(shuffled.items.tolist()))
    assert len(seen) == 8
    assert log.heads(np.array([0, 2, 1, 0])).moments.tolist() == [0, 0, 3]


def test_a_loader_shuffles_anew_every_epoch_and_from_the_same_start():
    log = timed_log([[], [1, 2, 3, 4, 5, 6]], [[], [1] * 6])
    loader = WindowLoader(settings_of(5), Part(log), np.ones(30, dtype=int), 12, 40, shuffle=True)
    epochs = [epoch_of(loader, epoch)[0][0][0].tolist() for epoch in (0, 1, 2, 1)]
    assert all(sorted(items) == [1, 2, 3, 4, 5, 6] for items in epochs)
    assert epochs[1] == epochs[3] and len({tuple(items) for items in epochs}) == 3


def test_a_log_without_times_keeps_its_order():
    log = make_log([[], [1, 2, 3]])
    assert log.shuffled(np.random.default_rng(0)) is log


@exactly
@given(logs, st.integers(0, 4), st.randoms(use_true_random=False))
def test_gather_against_a_loop(sequences, wider, random):
    log = make_log(sequences)
    starts = [random.randint(0, len(log.items)) for _ in range(4)] if len(log.items) else []
    lengths = [random.randint(0, len(log.items) - start) for start in starts]
    width = max(lengths, default=0) + wider
    rows = log.gather(np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64), width)
    expected = [
        log.items[start : start + length].tolist() + [0] * (width - length) for start, length in zip(starts, lengths)
    ]
    assert rows.shape == (len(starts), width) and rows.tolist() == expected


def test_a_log_without_events():
    log = make_log([[], []])
    assert log.target_positions().size == log.users().size == 0 and log.counts().tolist() == [0, 0]


@st.composite
def cut_problems(draw):
    sequences = draw(logs.filter(lambda log: sum(map(len, log)) > 0))
    costs = np.array([1, *draw(st.lists(st.integers(1, 5), min_size=9, max_size=9))])
    budget = draw(st.integers(int(costs.max()), 14))
    stride = budget - int(costs.max()) + 1
    phase = np.array(draw(st.lists(st.integers(0, stride - 1), min_size=len(sequences), max_size=len(sequences))))
    return sequences, costs, budget, phase


@exactly
@given(cut_problems())
def test_windows(problem):
    """Every event once and in order, within the budget, whole if it fits, never two users in a window."""
    sequences, costs, budget, phase = problem
    log = make_log(sequences)
    starts, lengths = windows(log, costs, budget, phase)
    covered = [position for start, length in zip(starts, lengths) for position in range(start, start + length)]
    assert covered == list(range(len(log.items)))
    users, of_user = log.users(), {}
    for start, length in zip(starts, lengths):
        assert length > 0 and len(set(users[start : start + length])) == 1
        assert costs[log.items[start : start + length]].sum() <= budget
        of_user[users[start]] = of_user.get(users[start], 0) + 1
    for user, items in enumerate(sequences):
        total = sum(costs[item] for item in items)
        if items and total <= budget:
            assert of_user[user] == 1
        elif items:
            # No more windows than a stride that leaves room for the dearest item asks for.
            assert of_user[user] <= (total + phase[user] - 1) // (budget - costs.max() + 1) + 1


def test_the_phase_moves_the_cuts():
    log = make_log([[], [1] * 10])
    cuts = {tuple(windows(log, np.array([1, 1]), 4, np.array([0, phase]))[0]) for phase in range(4)}
    assert cuts == {(0, 4, 8), (0, 3, 7), (0, 2, 6), (0, 1, 5, 9)}


def test_a_budget_below_one_item():
    with pytest.raises(ValueError, match="a window budget of 2 cannot hold one item of 3 tokens"):
        windows(make_log([[], [1, 2]]), np.array([1, 3, 1]), 2, np.array([0, 0]))


class Part:
    def __init__(self, log):
        self.training = log


def settings_of(seed):
    return {
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "LIST_SUFFIX": "_list",
        "ITEM_LIST_LENGTH_FIELD": "item_length",
        "seed": seed,
    }


def loader_of(log, costs, budget=12, batch_cost=40, seed=5):
    return WindowLoader(settings_of(seed), Part(log), costs, budget, batch_cost)


def epoch_of(loader, epoch, fields=("item_id_list", "item_length")):
    loader.set_epoch(epoch)
    return [tuple(batch[field] for field in fields) for batch in loader]


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for pair in zip(first, second) for a, b in zip(*pair))


@pytest.fixture(scope="module")
def zipf_log():
    rng = np.random.default_rng(0)
    return make_log([[], *(rng.integers(1, 30, length).tolist() for length in rng.integers(0, 60, 80))])


@pytest.fixture(scope="module")
def costs():
    return np.r_[1, np.random.default_rng(1).integers(1, 5, 29)]


def test_a_seed_and_an_epoch_give_the_same_batches(zipf_log, costs):
    loader, other = loader_of(zipf_log, costs), loader_of(zipf_log, costs)
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    assert same(first, epoch_of(loader, 0)), "again, after another epoch"
    assert same(second, epoch_of(other, 1)), "in another process, without epoch 0 before"
    assert not same(first, second)
    assert not same(first, epoch_of(loader_of(zipf_log, costs, seed=6), 0))
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(first, epoch_of(loader, 0)), "the global generators are no part of it"
    assert len(loader) == len(first)


def test_every_event_once_per_epoch(zipf_log, costs):
    for epoch in range(3):
        seen = []
        for items, lengths in epoch_of(loader_of(zipf_log, costs), epoch):
            assert items.dtype == lengths.dtype == torch.int64 and items.size(1) == lengths.max()
            for row, length in zip(items.tolist(), lengths.tolist()):
                assert all(row[:length]) and not any(row[length:])
                seen += row[:length]
        assert sorted(seen) == sorted(zipf_log.items.tolist())


def test_padding_and_batches_are_bounded(zipf_log, costs):
    real = padded = 0
    for items, lengths in epoch_of(loader_of(zipf_log, costs, batch_cost=60), 0):
        row_costs = [costs[row[:length].numpy()].sum() for row, length in zip(items, lengths)]
        assert max(row_costs) <= 12
        assert len(row_costs) * max(row_costs) <= 60 or len(row_costs) == 1
        real, padded = real + sum(row_costs), padded + len(row_costs) * max(row_costs)
    assert padded < 1.1 * real


@exactly
@given(st.lists(st.integers(1, 20), min_size=1, max_size=30).map(sorted), st.integers(1, 60))
def test_equal_cost_bounds_against_a_loop(cost, batch_cost):
    bounds, rows = [0], 0
    for position, one in enumerate(cost):
        if rows and (rows + 1) * one > batch_cost:
            bounds.append(position)
            rows = 0
        rows += 1
    assert _equal_cost_bounds(np.array(cost), batch_cost) == [*bounds, len(cost)]


def test_a_loader_whose_budget_holds_no_item(zipf_log, costs):
    with pytest.raises(ValueError, match="cannot hold one item"):
        len(loader_of(zipf_log, costs, budget=3))


# ------------------------------------------------------------------ windows that begin with the event before

learnable_logs = logs.filter(lambda log: any(len(items) > 1 for items in log))


def leading(log, budget, batch_cost=40, seed=5):
    costs = np.ones(log.items.max(initial=0) + 1, dtype=np.int64)
    return WindowLoader(settings_of(seed), Part(log), costs, budget, batch_cost, lead=True)


def numbered(sequences):
    """The log of the sequences, with the number of each event in place of its item."""
    log = make_log(sequences)
    return EventLog(np.arange(1, len(log.items) + 1), log.offsets)


@exactly
@given(learnable_logs, st.integers(1, 14), st.integers(1, 40), st.integers(0, 2**20))
def test_with_lead_every_event_but_the_first_is_a_target_once(sequences, budget, batch_cost, seed):
    log = numbered(sequences)
    loader = leading(log, budget, batch_cost, seed)
    targets, whole = [], set()
    for items, lengths in epoch_of(loader, 0):
        assert items.dtype == lengths.dtype == torch.int64 and items.size(1) == lengths.max()
        assert items.numel() <= batch_cost or len(items) == 1
        for row, length in zip(items.tolist(), lengths.tolist()):
            assert not any(row[length:]) and 2 <= length <= budget + 1
            assert row[:length] == list(range(row[0], row[0] + length)), "consecutive events"
            assert len(set(log.users_at(np.array(row[:length]) - 1))) == 1, "of one user"
            targets += row[1:length]
            whole.add(tuple(row[:length]))
    assert sorted(targets) == (log.target_positions() + 1).tolist() and loader.n_targets == len(targets)
    for first, n_events in zip(log.offsets[:-1].tolist(), log.counts().tolist()):
        if 1 < n_events <= budget:
            assert tuple(range(first + 1, first + 1 + n_events)) in whole, "what fits stays whole"


def test_with_lead_every_phase_keeps_the_targets():
    """A sequence of ten with windows of four: cuts differ from epoch to epoch, targets do not."""
    loader, cuts = leading(make_log([[], list(range(1, 11)), [11]]), 4), set()
    for epoch in range(30):
        rows = [row[:n].tolist() for items, lengths in epoch_of(loader, epoch) for row, n in zip(items, lengths)]
        assert sorted(event for row in rows for event in row[1:]) == list(range(2, 11))
        cuts.add(tuple(sorted(row[0] for row in rows)))
    # A first window of one event is no row of its own; that event still leads the next one.
    assert cuts == {(1, 4, 8), (1, 3, 7), (1, 2, 6), (1, 5, 9)}


def test_a_lone_event_is_no_row():
    loader = leading(make_log([[], [3], [4, 5], [], [6]]), 5)
    ((items, lengths),) = epoch_of(loader, 0)
    assert items.tolist() == [[4, 5]] and lengths.tolist() == [2] and loader.n_targets == 1


def test_without_lead_every_event_is_a_target():
    log = make_log([[], [3], [4, 5]])
    assert WindowLoader(settings_of(5), Part(log), np.ones(30, dtype=np.int64), 5, 40).n_targets == 3


@pytest.mark.parametrize("sequences", [[[], [1], [2]], [[], []]])
def test_with_lead_no_user_with_two_events(sequences):
    with pytest.raises(ValueError, match="no user has two training events, so there is nothing to learn from"):
        leading(make_log(sequences), 5)


# ------------------------------------------------------------------ prefixes and the event after each

PREFIX_FIELDS = ("user_id", "item_id_list", "item_length", "item_id")


def prefixes_of(log, max_length=5, batch_size=7, sampled=False, seed=5):
    return PrefixLoader(settings_of(seed), Part(log), max_length, batch_size, sampled)


def rows_of(batches):
    """``(user, history, target)`` of each row, the padding checked and taken away."""
    rows = []
    for users, items, lengths, targets in batches:
        assert users.dtype == items.dtype == lengths.dtype == targets.dtype == torch.int64
        assert users.shape == lengths.shape == targets.shape == items.shape[:1] and items.size(1) == lengths.max()
        for user, row, length, target in zip(*(column.tolist() for column in (users, items, lengths, targets))):
            assert not any(row[length:])
            rows.append((user, tuple(row[:length]), target))
    return rows


def naive_prefixes(sequences, max_length):
    """``(user, history, target)`` of every event but each user's first."""
    return [
        (user, tuple(items[max(0, place - max_length) : place]), items[place])
        for user, items in enumerate(sequences)
        for place in range(1, len(items))
    ]


@exactly
@given(learnable_logs, st.integers(1, 6), st.integers(1, 8), st.integers(0, 3))
def test_all_prefixes_against_a_loop_over_users(sequences, max_length, batch_size, epoch):
    loader = prefixes_of(make_log(sequences), max_length, batch_size)
    batches = epoch_of(loader, epoch, PREFIX_FIELDS)
    expected = naive_prefixes(sequences, max_length)
    assert sorted(rows_of(batches)) == sorted(expected), "each target exactly once"
    assert loader.n_targets == len(expected) and len(loader) == len(batches) == -(-len(expected) // batch_size)
    assert max(len(lengths) for _, _, lengths, _ in batches) <= batch_size


@exactly
@given(learnable_logs, st.integers(1, 6), st.integers(1, 8), st.integers(0, 3))
def test_sampled_prefixes_are_one_of_each_user_with_two_events(sequences, max_length, batch_size, epoch):
    loader = prefixes_of(make_log(sequences), max_length, batch_size, sampled=True)
    batches = epoch_of(loader, epoch, PREFIX_FIELDS)
    rows = rows_of(batches)
    users = [user for user, items in enumerate(sequences) if len(items) > 1]
    assert sorted(user for user, _, _ in rows) == users and loader.n_targets == len(users)
    assert set(rows) <= set(naive_prefixes(sequences, max_length))
    assert len(loader) == len(batches) and max(len(lengths) for _, _, lengths, _ in batches) <= batch_size


def test_every_position_is_sampled_equally_often():
    sequences = [[], [1, 2, 3, 4, 5], [6], [7, 8]]
    loader, seen = prefixes_of(make_log(sequences), sampled=True), Counter()
    for epoch in range(400):
        seen.update(rows_of(epoch_of(loader, epoch, PREFIX_FIELDS)))
    assert set(seen) == set(naive_prefixes(sequences, 5))
    assert seen.pop((3, (7,), 8)) == 400
    assert all(60 < times < 140 for times in seen.values()), "100 each, with a standard deviation of 9"


@pytest.mark.parametrize("sampled", [False, True])
def test_prefix_batches_follow_from_the_seed_and_the_epoch(zipf_log, sampled):
    def epoch(number, seed=5, loader=None):
        return epoch_of(loader or prefixes_of(zipf_log, sampled=sampled, seed=seed), number, PREFIX_FIELDS)

    loader = prefixes_of(zipf_log, sampled=sampled)
    first, second = epoch(0, loader=loader), epoch(1, loader=loader)
    assert same(first, epoch(0, loader=loader)), "again, after another epoch"
    assert same(second, epoch(1)), "in another process, without epoch 0 before"
    assert not same(first, second) and not same(first, epoch(0, seed=6))
    same_rows = sorted(rows_of(first)) == sorted(rows_of(second))
    assert same_rows is not sampled, "other targets only where they are drawn"
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(first, epoch(0, loader=loader)), "the global generators are no part of it"


def test_rows_of_a_batch_have_similar_lengths_and_the_batches_are_mixed(zipf_log):
    batches = epoch_of(prefixes_of(zipf_log, max_length=50, batch_size=64), 0, PREFIX_FIELDS)
    # In ascending order of length, the rows of a batch begin where those of the batch before end.
    ranges = sorted((int(lengths.min()), int(lengths.max())) for _, _, lengths, _ in batches)
    assert all(before[1] <= after[0] for before, after in zip(ranges, ranges[1:])) and ranges[-1][1] == 50
    assert [int(lengths.max()) for _, _, lengths, _ in batches] != sorted(high for _, high in ranges)
    assert sorted(len(lengths) for _, _, lengths, _ in batches)[1:] == [64] * (len(batches) - 1)


def test_rows_of_one_length_meet_others_in_every_epoch(zipf_log):
    loader = prefixes_of(zipf_log, max_length=3, batch_size=64)
    first, second = ({tuple(sorted(rows_of([batch]))) for batch in epoch_of(loader, e, PREFIX_FIELDS)} for e in (0, 1))
    assert not first & second


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("sequences", [[[], [1], [2]], [[], []]])
def test_no_user_with_two_events(sequences, sampled):
    with pytest.raises(ValueError, match="no user has two training events"):
        prefixes_of(make_log(sequences), sampled=sampled)
