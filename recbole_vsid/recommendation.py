"""``recommend``: the next items of users after all their known events, from the checkpoint of a trained model.

This is use, not evaluation: the history of a user ends with its last event, the one that the test held out.
"""

from __future__ import annotations

from logging import getLogger
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import ModelType
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.sparse import csr_matrix
from tqdm import tqdm

from recbole_vsid.data.sequences import EventLog
from recbole_vsid.decoding.ranking import best_items
from recbole_vsid.memory import is_out_of_memory, told_what_to_lower
from recbole_vsid.quick_start import load
from recbole_vsid.storage import atomic_path

MOST_SCORES = 2**25  # scores of users × items that are held at once
NAMED_AT_MOST = 5  # unknown ids that an error lists


def recommend(checkpoint, users=None, k=10, histories=None, keep_consumed=False, config_dict=None):
    """The ``k`` best next items of each user.

    A beam search finds about as many items as the beam is wide. For users of whom fewer than ``k`` are left when those
    already consumed are removed, it is repeated with a beam twice as wide, until it is as wide as the catalogue. So a
    user gets fewer than ``k`` items only if the catalogue has no more for it; a warning then counts such users.

    Args:
        checkpoint: path of a ``best.pth`` or ``last.pth``, of this package's models or of RecBole's.
        users: external ids of users in the data; one that is named twice counts once. By default all users who have
            events, or none if there are ``histories``.
        k: items per user.
        histories: name → list of external item ids, oldest first, for users who are not in the data. Only for
            sequential models that do not read the user's id; the last ``MAX_ITEM_LIST_LENGTH`` events are read.
        keep_consumed: whether items that a user has already consumed may be recommended again.
        config_dict: settings to change, for instance ``data_path`` or ``beam_width``.

    Returns:
        pandas.DataFrame: one row per recommendation, users in the order asked for, best first, of equal scores the item
        first that comes first in the data: ``user``, ``rank`` from 1, ``item`` (external ids), ``score`` (float32;
        log-probabilities of this package's models, whatever RecBole's models give) and, for this package's models,
        ``semantic_id`` like ``12-5-250``.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: unknown users or items, an empty history, ``k`` below 1, a damaged checkpoint, or a model that
            cannot do what is asked.
    """
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k={k!r} is not usable: it must be a whole number of at least 1")
    if not isinstance(keep_consumed, bool):
        raise ValueError(f"keep_consumed={keep_consumed!r} is not usable: it must be true or false")
    config, dataset, loaders, model = _load(checkpoint, config_dict)
    if config["num_threads"]:
        torch.set_num_threads(config["num_threads"])
    asked = []
    if users is not None or histories is None:
        asked.append(_known_users(dataset, users))
    if histories is not None:
        asked.append(_given_histories(config, dataset, histories))
    names = np.concatenate([queries.names for queries in asked])
    if len(np.unique(names)) < len(names):
        twice = set(asked[0].names) & set(asked[1].names)
        raise ValueError(f"{_listed(sorted(twice))} stand in users and in histories; name each of them once")

    ranker = _Ranker(config, dataset, loaders[2].transform, model, k, keep_consumed)
    with tqdm(total=len(names), desc="Recommend", unit="user", disable=not config["show_progress"]) as progress:
        ranked = [ranker.rank(queries, progress) for queries in asked]
    table = pd.concat(ranked, ignore_index=True)
    short = len(names) - int((table["rank"] == k).sum())
    if short:
        getLogger().warning(
            f"{short} of {len(names)} users get fewer than k={k} items: the catalogue has {dataset.item_num - 1}"
            + (", and those they consumed are left out" if not keep_consumed else "")
        )
    return table


class Queries(NamedTuple):
    """Whom to recommend to.

    Attributes:
        names: external ids ``[n]``.
        log: their events, row *i* those of ``names[i]``.
        users: RecBole's user ids int64 ``[n]``; None for histories that are not in the data.
    """

    names: np.ndarray
    log: EventLog
    users: np.ndarray | None


def _load(checkpoint, config_dict):
    try:
        return load(checkpoint, config_dict)
    except RuntimeError as error:  # PyTorch's, when weights are of other shapes than the model's
        raise ValueError(
            f"{checkpoint} does not fit the data or the settings: {error}; train the model again"
        ) from error


def _known_users(dataset, users):
    """:class:`Queries` for users of the data, by default for all who have events."""
    counts = dataset.events.counts()
    if users is None:
        ids = np.flatnonzero(counts)
    else:
        if isinstance(users, (str, bytes)):
            raise ValueError(f"users={users!r} is not usable: it must be a list of ids")
        wanted = list(dict.fromkeys(map(str, users)))
        if not wanted:
            raise ValueError("users names nobody; leave it out for all users")
        numbers = dataset.field2token_id[dataset.uid_field]
        ids = np.array([numbers.get(name, 0) for name in wanted])
        unknown = [name for name, known in zip(wanted, counts[ids] > 0) if not known]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(wanted)} users have no events in {dataset.dataset_name}: {_listed(unknown)}; "
                "a sequential model takes their events as histories={name: [items]}"
            )
    offsets = np.r_[0, np.cumsum(counts[ids])]
    moved = np.repeat(dataset.events.offsets[ids] - offsets[:-1], counts[ids])
    log = EventLog(dataset.events.items[moved + np.arange(offsets[-1])], offsets)
    return Queries(np.asarray(dataset.field2id_token[dataset.uid_field], dtype=object)[ids], log, ids)


def _given_histories(config, dataset, histories):
    """:class:`Queries` for histories of external item ids."""
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise ValueError(
            f"histories are for sequential models; {config['model']} knows the users of its training data only"
        )
    numbers = dataset.field2token_id[dataset.iid_field]
    lists = {str(name): items for name, items in dict(histories).items()}
    if not lists:
        raise ValueError("histories is empty; leave it out, or give name → list of item ids")
    found = {}
    for name, items in lists.items():
        if isinstance(items, (str, bytes)) or not len(items):
            raise ValueError(f"the history of {name!r} is {items!r}; it must be a list of at least one item id")
        found[name] = [numbers.get(str(item), 0) for item in items]
        unknown = [str(item) for item, number in zip(items, found[name]) if number == 0]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(items)} items in the history of {name!r} are not in {dataset.dataset_name}: "
                f"{_listed(unknown)}; leave them out"
            )
    offsets = np.r_[0, np.cumsum([len(items) for items in found.values()])]
    return Queries(np.array(list(found), dtype=object), EventLog(np.concatenate(list(found.values())), offsets), None)


def _listed(names):
    more = len(names) - NAMED_AT_MOST
    return ", ".join(map(repr, names[:NAMED_AT_MOST])) + (f" and {more} more" if more > 0 else "")


class _Ranker:
    """Scores of a model → tables of recommendations."""

    def __init__(self, config, dataset, transform, model, k, keep_consumed):
        self.config, self.dataset, self.transform, self.model = config, dataset, transform, model
        self.k, self.keep_consumed = k, keep_consumed
        self.item_tokens = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=object)
        self.searches = config.is_generative and config["decoding"] == "beam"
        self.beam_width = max(config["beam_width"], k) if self.searches else None
        self.by_pairs = type(model).full_sort_predict is AbstractRecommender.full_sort_predict
        self.rows_at_once = max(1, min(config["eval_batch_size"], MOST_SCORES // dataset.item_num))
        if self.searches:  # as many beams at once as in an evaluation
            self.rows_at_once = max(1, self.rows_at_once * config["beam_width"] // self.beam_width)
        if self.by_pairs:
            self.rows_at_once = max(1, config["eval_batch_size"] // dataset.item_num)

    def rank(self, queries, progress):
        """The table of ``queries``; ``progress`` counts those that are done."""
        n_items = self.dataset.item_num
        log = queries.log
        # A copy, for adding up what was consumed twice would sort the events in place.
        events = (np.ones(len(log.items), dtype=bool), log.items, log.offsets)
        consumed = csr_matrix(events, shape=(len(queries.names), n_items), copy=True)
        consumed.sum_duplicates()
        if self.keep_consumed:
            consumed = csr_matrix(consumed.shape, dtype=bool)
        reachable = np.minimum(self.k, n_items - 1 - consumed.getnnz(1))
        left, rows_at_once, parts = np.arange(len(queries.names)), self.rows_at_once, []
        width = self.beam_width
        while len(left):
            if self.searches:
                self.model.beam_width = width
            short = []
            for rows in np.split(left, range(rows_at_once, len(left), rows_at_once)):
                place, items, scores = self._best(self._scores(queries, rows), consumed[rows])
                few = np.bincount(place, minlength=len(rows)) < reachable[rows]
                if not self.searches or width >= n_items - 1:
                    few[:] = False  # no search would find more
                done = ~few[place]
                parts.append((rows[place[done]], items[done], scores[done]))
                short.append(rows[few])
                progress.update(len(rows) - few.sum())
            left = np.concatenate(short)
            if self.searches:
                width, rows_at_once = 2 * width, max(1, rows_at_once // 2)
        rows, items, scores = (np.concatenate(column) for column in zip(*parts))
        order = np.argsort(rows, kind="stable")
        return self._table(queries.names, rows[order], items[order], scores[order])

    def _scores(self, queries, rows):
        """Scores of all items, ``[len(rows), n_items]``; if memory runs out, made in two halves."""
        try:
            return self._scores_at_once(queries, rows)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # not in the handler, which would keep all that the error's frames hold
        beam = f", beam_width={self.config['beam_width']}" if self.searches else ""
        settings = f"eval_batch_size={self.config['eval_batch_size']}{beam}"
        with told_what_to_lower("recommend, even with half of the users at once,", settings):
            halves = filter(len, np.array_split(rows, 2))
            return torch.cat([self._scores_at_once(queries, half).cpu() for half in halves])

    @torch.no_grad()
    def _scores_at_once(self, queries, rows):
        interaction = self.transform(self.dataset, self._interaction(queries, rows)).to(self.config["device"])
        try:
            if not self.by_pairs:
                return self.model.full_sort_predict(interaction).view(len(rows), -1)
            pairs = interaction.repeat_interleave(self.dataset.item_num)
            pairs.update(self.dataset.get_item_feature().to(self.config["device"]).repeat(len(rows)))
            return self.model.predict(pairs).view(len(rows), -1)
        except KeyError as error:
            given = "histories give no" if queries.users is None else "recommend gives no"
            raise ValueError(f"{self.config['model']} reads the field {error}, and {given} such field") from error

    def _interaction(self, queries, rows):
        """What RecBole's evaluation would hand to the model if one more event came."""
        config, columns = self.config, {}
        if queries.users is not None:
            columns[config["USER_ID_FIELD"]] = queries.users[rows]
        if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            longest, ends = config["MAX_ITEM_LIST_LENGTH"], queries.log.offsets[rows + 1]
            lengths = np.minimum(queries.log.counts()[rows], longest)
            columns[config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]] = queries.log.gather(
                ends - lengths, lengths, longest
            )
            columns[config["ITEM_LIST_LENGTH_FIELD"]] = lengths
        return self.dataset.join(Interaction({name: torch.from_numpy(column) for name, column in columns.items()}))

    def _best(self, scores, consumed):
        """The ``k`` best items of each row of ``scores`` ``[B, n_items]`` that are not ``consumed`` (CSR).

        Returns:
            rows, items int64 and scores float32 ``[n]``, by row, then from best to worst. Only finite scores count.
        """
        scores = scores.float().cpu()
        scores[:, 0] = -torch.inf
        consumed = consumed.tocoo()
        scores[torch.from_numpy(consumed.row).long(), torch.from_numpy(consumed.col).long()] = -torch.inf
        items, scores = best_items(scores, self.k)
        rows, places = scores.isfinite().nonzero(as_tuple=True)
        return rows.numpy(), items[rows, places].numpy(), scores[rows, places].numpy()

    def _table(self, names, rows, items, scores):
        columns = {"user": names[rows], "rank": _position(rows) + 1, "item": self.item_tokens[items], "score": scores}
        if self.config.is_generative:
            ids, place = np.unique(items, return_inverse=True)
            codes, lengths = self.model.semantic_ids.codes[ids], self.model.semantic_ids.lengths[ids]
            texts = ["-".join(map(str, code[:length])) for code, length in zip(codes, lengths)]
            columns["semantic_id"] = np.array(texts, dtype=object)[place]
        return pd.DataFrame(columns)


def _position(rows):
    """How many entries of the same row stand before each; ``rows`` are sorted."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def read_users(file):
    """The user ids of a text file, one per line; blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no UTF-8 text.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"users_file: there is no file {str(file)!r}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"users_file={str(file)!r} is not UTF-8 text: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def write_recommendations(table, file):
    """Write what :func:`recommend` returned as CSV, atomically."""
    with atomic_path(file) as temporary:
        table.to_csv(temporary, index=False)


def print_recommendations(table, n_users=3, console=None):
    """Print the recommendations of the first ``n_users`` users."""
    users = table["user"].unique()
    of_all = f"the first {n_users} of " if len(users) > n_users else ""
    shown = Table(title=f"Recommendations, {of_all}{len(users):,} users")
    for column in table.columns:
        shown.add_column(column, justify="right" if column in ("rank", "score") else "left")
    for row in table[table["user"].isin(users[:n_users])].itertuples(index=False):
        cells = (f"{value:.4f}" if name == "score" else str(value) for name, value in zip(table.columns, row))
        shown.add_row(*map(escape, cells))  # an id may hold brackets
    (console or Console()).print(shown)
