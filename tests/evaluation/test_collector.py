"""Both protocols from one pass, against full rankings written out by hand and against RecBole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.evaluator import Collector, Evaluator
from recbole.trainer import Trainer
from recbole.utils import init_seed
from scipy.sparse import csr_matrix

from recbole_vsid.config import Config
from recbole_vsid.evaluation.collector import KEPT, MASKED, FiniteCollector, ProtocolCollector
from recbole_vsid.quick_start import build_data, build_model, load, run
from recbole_vsid.recommendation import recommend
from recbole_vsid.trainer import trainer_class

TOPK = [1, 5, 10]
COVERAGE = ["ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage", "ShannonEntropy"]


def config_of(**settings):
    return Config("SASRec", "toy", config_dict={"topk": TOPK, "valid_metric": "NDCG@5", **settings})


def scored(collector, scores, targets, users=None, batch=7):
    """Hand ``scores`` [n, n_items] to ``collector`` in batches, as RecBole's trainer does."""
    users = torch.arange(len(scores)) if users is None else users
    for begin in range(0, len(scores), batch):
        part = scores[begin : begin + batch]
        interaction = Interaction({"user_id": users[begin : begin + batch]})
        collector.eval_batch_collect(part, interaction, torch.arange(len(part)), targets[begin : begin + batch])
    return collector.get_data_struct()


def both(scores, targets, consumed, users=None, **settings):
    """Results of both protocols by ``ProtocolCollector``, and the collector."""
    config = config_of(**settings)
    collector = ProtocolCollector(config)
    collector.start(consumed)
    selected = scored(collector, scores, targets, users)
    assert selected is collector.structs[MASKED if config["mask_history"] else KEPT]
    evaluator = Evaluator(config)
    return {name: evaluator.evaluate(struct) for name, struct in collector.structs.items()}, collector


def naive(scores, targets, hidden):
    """Recall, NDCG and MRR by sorting; ``hidden[r]`` are the items that row *r* may not rank."""
    totals = {f"{metric}@{k}": 0.0 for metric in ("recall", "ndcg", "mrr") for k in TOPK}
    for row, target, gone in zip(scores.tolist(), targets.tolist(), hidden):
        candidates = [item for item in range(1, len(row)) if item not in gone and row[item] > -math.inf]
        ranking = sorted(candidates, key=lambda item: -row[item])
        if target in ranking:
            rank = ranking.index(target) + 1
            for k in TOPK:
                if rank <= k:
                    totals[f"recall@{k}"] += 1
                    totals[f"ndcg@{k}"] += 1 / math.log2(rank + 1)
                    totals[f"mrr@{k}"] += 1 / rank
    return {name: round(total / len(scores), 6) for name, total in totals.items()}


@pytest.fixture
def problem():
    """Random scores of 30 rows by 25 users, with targets of which many have been consumed before."""
    rng = np.random.default_rng(0)
    n_users, n_items, n_rows = 25, 40, 30
    scores = torch.from_numpy(rng.normal(size=(n_rows, n_items)).astype(np.float32))
    scores[:, 0] = -torch.inf
    users, targets = (
        torch.from_numpy(rng.integers(1, n_users, n_rows)),
        torch.from_numpy(rng.integers(1, n_items, n_rows)),
    )
    consumed = rng.random((n_users, n_items)) < 0.4
    consumed[:, 0] = False
    hidden = [set(np.flatnonzero(consumed[user])) - {target} for user, target in zip(users.tolist(), targets.tolist())]
    assert 5 < sum(consumed[user, target] for user, target in zip(users, targets)) < 25
    return scores, targets, users, csr_matrix(consumed), hidden


@pytest.mark.parametrize("mask_history", [False, True])
def test_both_protocols_against_a_naive_ranking(problem, mask_history):
    scores, targets, users, consumed, hidden = problem
    before = scores.clone()
    results, collector = both(scores, targets, consumed, users, mask_history=mask_history)
    nothing = [set()] * len(scores)
    assert results[KEPT] == pytest.approx(naive(scores, targets, nothing), abs=1e-6)
    assert results[MASKED] == pytest.approx(naive(scores, targets, hidden), abs=1e-6)
    assert results[MASKED]["ndcg@10"] > results[KEPT]["ndcg@10"] > 0
    assert torch.equal(scores, before), "the model's scores are left alone"
    assert collector.filled_share == {KEPT: 1.0, MASKED: 1.0}


def test_a_partly_filled_ranking(problem):
    """Only every sixth score is finite, as after a narrow beam."""
    scores, targets, users, consumed, hidden = problem
    scores[torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) > 1 / 6] = -torch.inf
    results, collector = both(scores, targets, consumed, users)
    assert results[KEPT] == pytest.approx(naive(scores, targets, [set()] * len(scores)), abs=1e-6)
    assert results[MASKED] == pytest.approx(naive(scores, targets, hidden), abs=1e-6)
    finite = torch.isfinite(scores)
    left = [sum(finite[row, item] and item not in gone for item in range(40)) for row, gone in enumerate(hidden)]
    expected = {KEPT: finite.sum(1).clamp(max=10).sum() / 300, MASKED: sum(min(int(n), 10) for n in left) / 300}
    assert collector.filled_share == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-6)
    assert collector.filled_share[MASKED] < collector.filled_share[KEPT] < 1


def test_the_target_is_never_masked(problem):
    scores, targets, users, consumed, _ = problem
    everything = csr_matrix(np.ones(consumed.shape, dtype=bool))
    results, collector = both(scores, targets, everything, users)
    assert results[MASKED]["recall@1"] == 1.0, "alone it is first"
    assert collector.filled_share[MASKED] == pytest.approx(1 / 10)


def test_a_model_that_scores_nothing_finds_nothing():
    n_items = 40
    targets = torch.arange(1, n_items)
    scores = torch.full((len(targets), n_items), -torch.inf)
    consumed = csr_matrix(np.random.default_rng(0).random((len(targets), n_items)) < 0.3)
    results, collector = both(scores, targets, consumed)
    for result in results.values():
        assert set(result.values()) == {0.0}
    assert collector.filled_share == {KEPT: 0.0, MASKED: 0.0}


def test_recboles_own_collector_finds_something_in_nothing():
    """The evidence for the override: if this fails, RecBole or PyTorch has mended it."""
    targets = torch.arange(1, 40)
    scores = torch.full((39, 40), -torch.inf)
    config = config_of()
    stock = Evaluator(config).evaluate(scored(Collector(config), scores.clone(), targets))
    assert stock["recall@10"] > 0.1
    ours = Evaluator(config).evaluate(scored(FiniteCollector(config), scores.clone(), targets))
    assert ours["recall@10"] == 0.0


def test_nothing_is_left_over_from_one_evaluation_to_the_next(problem):
    scores, targets, users, consumed, _ = problem
    scores[:10, 5:] = -torch.inf
    config = config_of(metrics=["Recall", "ItemCoverage"], valid_metric="Recall@5")
    collector = ProtocolCollector(config)
    for each in collector.collectors.values():
        each.data_struct.set("data.num_items", 40)
    found = []
    for part in (slice(0, 10), slice(10, 30), slice(0, 10)):
        collector.start(consumed)
        scored(collector, scores[part], targets[part], users[part])
        found.append({name: Evaluator(config).evaluate(struct) for name, struct in collector.structs.items()})
        found[-1]["filled"] = dict(collector.filled_share)
    assert found[0] == found[2] != found[1]
    assert found[0]["filled"][KEPT] == 0.4 and found[1]["filled"][KEPT] == 1.0


def test_empty_slots_cover_nothing():
    scores = torch.full((4, 30), -torch.inf)
    scores[:, 7], scores[:2, 9] = 1.0, 0.5
    config = config_of(metrics=["Recall", "ItemCoverage"], valid_metric="Recall@5")
    collector = FiniteCollector(config)
    collector.data_struct.set("data.num_items", 30)
    result = Evaluator(config).evaluate(scored(collector, scores, torch.full((4,), 7)))
    assert result["itemcoverage@10"] == pytest.approx(2 / 30, abs=1e-6) and result["recall@1"] == 1.0


def test_coverage_metrics_through_run(small_settings):
    """In RecBole 1.2.1 they crash (its issue #2194)."""
    # RecBole's Pop counts an item once per batch, however often it occurs there, and sampled negatives too.
    counting = {"train_batch_size": 1, "train_neg_sample_args": None}
    settings = small_settings("Pop", metrics=["Recall", "NDCG", *COVERAGE], epochs=1, **counting)
    result = run("Pop", "toy", config_dict=settings)
    _, loaders = build_data(Config("Pop", "toy", config_dict=settings))
    counts = np.sort(np.bincount(loaders[0]._dataset.inter_feat["item_id"].numpy(), minlength=42))[::-1]
    for split in ("valid_result", "test_result"):
        kept, masked = result[split][KEPT], result[split][MASKED]
        assert set(kept) == set(masked) >= {f"{metric.lower()}@{k}" for metric in COVERAGE for k in (5, 10, 20)}
        assert all(math.isfinite(value) for value in [*kept.values(), *masked.values()])
        for k in (5, 10, 20):  # Pop gives everybody the same items
            assert kept[f"itemcoverage@{k}"] == pytest.approx(k / 42, abs=1e-6)
            assert kept[f"averagepopularity@{k}"] == pytest.approx(counts[:k].mean(), abs=1e-4)
            assert masked[f"itemcoverage@{k}"] > kept[f"itemcoverage@{k}"]
            assert masked[f"giniindex@{k}"] < kept[f"giniindex@{k}"]


@pytest.mark.parametrize("model", ["BPR", "EASE"])  # Pop's scores tie, and RecBole ranks ties in any order
def test_the_masked_protocol_is_recboles_evaluation_of_general_models(small_settings, model):
    config = Config(model, "toy", config_dict=small_settings(model, epochs=1))
    init_seed(config["seed"], True)
    _, loaders = build_data(config)
    recommender, train_data = build_model(config, loaders)
    trainer = trainer_class(config)(config, recommender)
    trainer.fit(train_data, loaders[1], saved=False, verbose=False)
    _, *stock_loaders = data_preparation(config, create_dataset(config))
    stock = Trainer(config, recommender)
    for ours, theirs in zip(loaders[1:], stock_loaders):
        results = trainer.evaluate_protocols(ours, load_best_model=False)
        reference = stock.evaluate(theirs, load_best_model=False)
        assert {name: results[MASKED][name] for name in reference} == dict(reference)
        assert results[KEPT]["ndcg@10"] != results[MASKED]["ndcg@10"]
        assert results[MASKED]["filled_share"] == 1.0


def test_mask_history_chooses_what_selects(small_settings):
    for mask, name in ((False, KEPT), (True, MASKED)):
        config = Config("BPR", "toy", config_dict=small_settings("BPR", epochs=1, mask_history=mask))
        _, loaders = build_data(config)
        recommender, train_data = build_model(config, loaders)
        trainer = trainer_class(config)(config, recommender)
        _, best = trainer.fit(train_data, loaders[1], saved=False, verbose=False)
        assert dict(best) == {key: trainer.best_protocols[name][key] for key in best}
        assert trainer.best_protocols[KEPT] != trainer.best_protocols[MASKED]


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_equal_scores_rank_in_the_order_of_their_ids(problem, levels):
    """Python's ``sorted`` in ``naive`` is stable, and walks the items in the order of their ids."""
    scores, targets, users, consumed, hidden = problem
    scores[:, 1:] = torch.randint(levels, (len(scores), 39), generator=torch.Generator().manual_seed(2)).float()
    results, _ = both(scores, targets, consumed, users)
    assert results[KEPT] == pytest.approx(naive(scores, targets, [set()] * len(scores)), abs=1e-6)
    assert results[MASKED] == pytest.approx(naive(scores, targets, hidden), abs=1e-6)


@pytest.mark.parametrize("decoding", ["beam", "exact"])
def test_items_that_share_a_code_rank_in_the_order_of_their_ids_everywhere(small_settings, tmp_path, decoding):
    """All items have one semantic ID, so every score is equal."""
    codes = tmp_path / "codes.json"
    codes.write_text(json.dumps({f"i{item}": [0] for item in range(41)}))
    settings = small_settings(
        tokenizer="vlsid", epochs=1, sid_file=str(codes), decoding=decoding, beam_width=41, topk=[5, 10, 20]
    )
    for key in ("sid_vocab_size", "sid_n_levels"):
        settings.pop(key)
    record = run("VLSID", "toy", config_dict=settings)
    (checkpoint,) = Path("saved").glob("VLSID-*/best.pth")
    config, dataset, loaders, model = load(checkpoint)
    test = loaders[2]._dataset
    targets = test.inter_feat["item_id"].numpy()
    assert record["test_result"][KEPT]["recall@5"] == pytest.approx((targets <= 5).mean(), abs=1e-6)
    consumed = test.consumed[test.inter_feat["user_id"].numpy()].toarray()
    consumed[np.arange(len(targets)), targets] = False
    before = [(~gone[1:target]).sum() for gone, target in zip(consumed, targets)]
    assert record["test_result"][MASKED]["recall@5"] == pytest.approx(np.mean(np.array(before) < 5), abs=1e-6)
    items, _ = model.topk(next(iter(loaders[2]))[0], 7)
    assert (items == torch.arange(1, 8)).all()
    table = recommend(checkpoint, k=5, keep_consumed=True)
    order = dict(zip(dataset.field2id_token["item_id"], range(dataset.item_num)))
    assert (table["item"].map(order) == table["rank"]).all()
