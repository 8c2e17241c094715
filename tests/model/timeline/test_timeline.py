"""Settings, batches and cached vectors of timeline models; their learning is tested with all other models."""

from __future__ import annotations

import pytest
import torch

from recbole_vsid.config import Config
from recbole_vsid.model.timeline.base import UPDATES_PER_EPOCH
from recbole_vsid.quick_start import build_data, build_model, run
from tests.model.timeline.tiny import HISTORIES, interaction_of, tiny_sastrie
from tests.model.tiny_intrr import FIXED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 30}, "hidden_size=30 must be a multiple of head_size=16"),
        ({"own_vectors": "some"}, "own_vectors='some' is not usable: it must be one of"),
        ({"depth_network": "deep"}, "depth_network='deep' is not usable"),
        ({"rank_by": "both"}, "rank_by='both' is not usable"),
        ({"dense_weight": 0}, "dense_weight=0 is not usable with rank_by='rerank'"),
        ({"generative_weight": 0}, "generative_weight=0 is not usable with rank_by='rerank'"),
        ({"generative_weight": 0, "rank_by": "generative"}, "generative_weight=0 is not usable"),
        ({"dense_weight": 0, "rank_by": "dense"}, "dense_weight=0 is not usable"),
        ({"dense_weight": -1}, "dense_weight=-1 is not usable: it must be at least 0"),
        ({"own_vectors": "none", "code_vectors": False}, "leaves items without vectors"),
        ({"uniform_negatives": 0}, "uniform_negatives=0 is not usable"),
    ],
)
def test_unusable_settings(small_settings, changes, message):
    with pytest.raises(ValueError, match=message):
        Config("SASTrie", "toy", config_dict=small_settings("SASTrie", **changes))


def test_marius_has_no_dense_head_unless_asked(small_settings):
    with pytest.raises(ValueError, match="dense_weight=0 is not usable with rank_by='rerank'"):
        Config("MARIUS", "toy", config_dict=small_settings("MARIUS", rank_by="rerank"))
    Config("MARIUS", "toy", config_dict=small_settings("MARIUS", rank_by="rerank", dense_weight=1.0))


def test_small_data_have_many_updates_and_large_ones_the_batches_asked_for(small_settings):
    for asked, least in ((2048, UPDATES_PER_EPOCH), (5, 100)):
        changes = small_settings("SASTrie", train_batch_size=asked, MAX_ITEM_LIST_LENGTH=5)
        config = Config("SASTrie", "toy", config_dict=changes)
        _, loaders = build_data(config)
        _, train_data = build_model(config, loaders)
        train_data.set_epoch(0)
        assert len(train_data) >= least
        costs = [batch["item_id_list"].numel() for batch in train_data]
        assert max(costs) <= max(asked, 6)


def test_the_record_says_how_items_were_ranked(small_settings):
    words = {
        "rerank": "beam 20, re-ranked by the dense head",
        "generative": "beam 20",
        "dense": "exact, by the dense head",
    }
    for ranking, expected in words.items():
        record = run("SASTrie", "toy", config_dict=small_settings("SASTrie", rank_by=ranking, epochs=1), saved=False)
        assert record["protocol"]["decoding"] == expected


def test_vectors_are_computed_anew_when_a_weight_has_changed():
    model = tiny_sastrie(FIXED)
    first = model.node_table()
    assert model.node_table() is first
    with torch.no_grad():
        model.node_vectors.code.weight[1:] += 1
    assert not torch.equal(model.node_table().vectors, first.vectors)
    again = model.node_table()
    model.train()
    model.eval()
    assert model.node_table() is not again


def test_the_timeline_sees_no_later_event():
    model = tiny_sastrie(FIXED)
    rows = interaction_of([[1, 5, 3], [1, 5, 3, 2]])
    with torch.no_grad():
        hidden = model._hidden(rows["item_id_list"], model.node_table())
    assert torch.allclose(hidden[0, :3], hidden[1, :3], atol=1e-12)


@pytest.mark.parametrize("own", ["all", "leaf", "none"])
def test_a_checkpoint_of_every_kind_of_own_vectors_loads(own):
    model = tiny_sastrie(FIXED, own_vectors=own)
    other = tiny_sastrie(FIXED, seed=1, own_vectors=own)
    other.load_state_dict(model.state_dict())
    rows = interaction_of(HISTORIES)
    assert torch.equal(model.full_sort_predict(rows), other.full_sort_predict(rows))
    n_own = 0 if own == "none" else len(model.node_vectors.own.weight) - 1
    assert n_own == {"all": model.tree.trie.n_nodes - 1, "leaf": 6, "none": 0}[own]
