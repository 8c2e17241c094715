"""What every generative recommender of the package must do; subclass it and name the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_vsid.config import Config
from recbole_vsid.quick_start import build_data, build_model, load, run
from recbole_vsid.registry import get_model
from recbole_vsid.trainer import GenerativeTrainer
from tests.conftest import item_texts, make_dataset, planted_events

BOTH = ("consumed_kept", "consumed_masked")


class Interrupted(Exception):
    """Stands for the end of the process."""


class ModelConformance:
    """What a subclass sets.

    Attributes:
        model: its name.
        tiny: settings for a catalogue of five items.
        learns: settings with which it must find the planted pattern.
        floor: recall@5 that it must then exceed.
    """

    model = None
    tiny = {"sid_vocab_size": 2}
    learns = {"epochs": 25, "stopping_step": 25}
    floor = 0.5

    @pytest.fixture
    def settings(self, small_settings):
        return lambda **changes: small_settings(self.model, **changes)

    def build(self, settings, dataset="toy", **changes):
        config = Config(self.model, dataset, config_dict=settings(**changes))
        data, loaders = build_data(config)
        model, train_data = build_model(config, loaders)
        return config, data, loaders, model.eval(), train_data

    def histories(self, *rows):
        width = max(map(len, rows))
        columns = {
            "user_id": range(1, len(rows) + 1),
            "item_id_list": [list(row) + [0] * (width - len(row)) for row in rows],
            "item_length": [len(row) for row in rows],
        }
        return Interaction({name: torch.tensor(column) for name, column in columns.items()})

    def disturb(self, model):
        """Move all weights: an untrained head scores all items alike, whatever the history."""
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        return model

    # ------------------------------------------------------------- determinism

    def test_same_seed_gives_same_ids_and_metrics(self, settings):
        first, second = (run(self.model, "toy", config_dict=settings(checkpoint_dir=name)) for name in ("a", "b"))
        assert first["test_result"] == second["test_result"]
        assert first["valid_result"] == second["valid_result"]
        tables = [torch.load(path, weights_only=True)["semantic_ids"] for path in self.files("best.pth")]
        assert torch.equal(tables[0]["codes"], tables[1]["codes"])

    def files(self, name):
        return sorted(Path(".").glob(f"*/*/{name}"))

    def test_load_equals_the_trained_model(self, settings):
        run(self.model, "toy", config_dict=settings())
        (best,) = self.files("best.pth")
        config, _, loaders, model = load(best)
        trainer = GenerativeTrainer(config, model)
        result = trainer.evaluate_protocols(loaders[2], load_best_model=False)
        record = json.loads(best.with_name("result.json").read_text())
        assert result == record["test_result"]

    def test_an_interrupted_run_resumes_to_the_same_metrics(self, settings, monkeypatch):
        changes = {"epochs": 4, "stopping_step": 4, "valid_users": 25}
        unbroken = run(self.model, "toy", config_dict=settings(checkpoint_dir="unbroken", **changes))

        save_last = GenerativeTrainer.save_last

        def save_and_die(trainer, epoch):
            save_last(trainer, epoch)
            if epoch == 1:
                raise Interrupted

        monkeypatch.setattr(GenerativeTrainer, "save_last", save_and_die)
        with pytest.raises(Interrupted):
            run(self.model, "toy", config_dict=settings(checkpoint_dir="broken", **changes))
        monkeypatch.setattr(GenerativeTrainer, "save_last", save_last)
        torch.manual_seed(12345)
        np.random.seed(12345)
        resumed = run(self.model, "toy", config_dict=settings(checkpoint_dir="broken", resume=True, **changes))
        for split in ("valid_result", "test_result"):
            assert resumed[split] == unbroken[split]
        assert resumed["cost"]["epochs"] == unbroken["cost"]["epochs"]

    @pytest.mark.parametrize(
        ("epochs", "eval_step", "validated"), [(1, 3, [0]), (4, 3, [1, 3]), (5, 3, [0, 1, 2, 3, 4])]
    )
    def test_the_last_epoch_is_validated(self, settings, epochs, eval_step, validated):
        config, _, loaders, model, train_data = self.build(
            settings, epochs=epochs, eval_step=eval_step, stopping_step=5
        )
        seen = []
        trainer = GenerativeTrainer(config, model)
        trainer.fit(train_data, loaders[1], saved=False, callback_fn=lambda epoch, score: seen.append(epoch))
        assert seen == validated

    # -------------------------------------------------------------- validation

    def test_validation_in_training_may_use_fewer_users_and_a_narrower_beam(self, settings, monkeypatch):
        widths, users = [], []
        model_class = get_model(self.model)
        search = model_class.full_sort_predict

        def watched(model, interaction):
            widths.append(model.beam_width)
            users.append(tuple(interaction["user_id"].tolist()))
            return search(model, interaction)

        monkeypatch.setattr(model_class, "full_sort_predict", watched)
        result = run(self.model, "toy", config_dict=settings(valid_users=15, valid_beam_width=20, beam_width=30))
        assert widths[:4] == [20, 20, 30, 30]  # two epochs, then validation and test of everybody
        assert set(map(len, users[4:])) == {1}  # then requests of one user each
        assert users[0] == users[1] and len(users[0]) == 15 and set(users[0]) < set(users[2])
        assert len(users[2]) == len(users[3]) == 60
        assert result["protocol"]["selected_by"].endswith("consumed kept, 15 of 60 users, beam 20")
        (best,) = self.files("best.pth")
        config, _, loaders, model = load(best)
        whole = GenerativeTrainer(config, model).evaluate_protocols(loaders[1], load_best_model=False)
        assert result["valid_result"] == whole

    @pytest.mark.parametrize(("asked", "used"), [(0, 40), (5, 20), (30, 30), (50, 40)])
    def test_the_validation_beam_fills_the_ranking_and_is_no_wider_than_the_test_s(self, settings, asked, used):
        config, _, loaders, model, _ = self.build(settings, beam_width=40, valid_beam_width=asked)
        trainer = GenerativeTrainer(config, model)
        selected_by = trainer.selected_by(loaders[1])
        assert selected_by == "NDCG@10 on validation, consumed kept" + (f", beam {used}" if used < 40 else "")

    def test_negative_validation_settings_are_refused(self, settings):
        for key in ("valid_users", "valid_beam_width"):
            with pytest.raises(ValueError, match=f"{key}=-1 is not usable"):
                self.build(settings, **{key: -1})

    # ---------------------------------------------------------------- ranking

    @pytest.mark.parametrize("decoding", ["beam", "exact"])
    def test_rankings_hold_each_real_item_at_most_once(self, settings, decoding):
        _, data, _, model, _ = self.build(settings, decoding=decoding)
        rows = self.histories([3], [1, 2, 3], [5, 0, 6], list(range(1, 40)) * 20)
        items, scores = self.disturb(model).topk(rows, 10)
        for row, row_scores in zip(items.tolist(), scores):
            assert len(set(row)) == 10 and all(1 <= item < data.item_num for item in row)
            assert torch.equal(row_scores, row_scores.sort(descending=True).values)
        dense = model.full_sort_predict(rows)
        assert dense.shape == (4, data.item_num) and (dense[:, 0] == -torch.inf).all()
        assert torch.allclose(dense.gather(1, items), scores, atol=1e-4)

    def test_a_beam_as_wide_as_the_catalogue_is_exact(self, settings):
        _, data, _, model, _ = self.build(settings, beam_width=60)
        rows = self.histories([1], [4, 5, 6])
        by_beam = self.disturb(model).full_sort_predict(rows)
        model.decoding = "exact"
        exact = model.full_sort_predict(rows)
        assert torch.allclose(by_beam, exact, atol=1e-4)
        assert exact[:, 1:].isfinite().all() and (exact[:, 1:].exp().sum(1) < 1 + 1e-4).all()

    @pytest.mark.parametrize("decoding", ["beam", "exact"])
    def test_a_ranking_restricted_to_some_items_is_complete(self, settings, decoding):
        _, _, _, model, _ = self.build(settings, decoding=decoding)
        self.disturb(model).trie = model.restricted_trie([2, 3, 11, 40])
        items, scores = model.topk(self.histories([1], [4, 5, 6]), 5)
        assert items.sort(1).values.tolist() == [[0, 2, 3, 11, 40]] * 2
        assert scores[:, :4].isfinite().all() and (scores[:, 4] == -torch.inf).all()

    def test_a_row_does_not_depend_on_its_batch(self, settings):
        _, _, _, model, _ = self.build(settings, decoding="exact")
        self.disturb(model)
        alone = model.full_sort_predict(self.histories([7, 8]))
        together = model.full_sort_predict(self.histories([7, 8], [1, 2, 3, 4, 5, 6], [9]))
        assert torch.allclose(alone[0], together[0], atol=1e-4)
        assert not torch.allclose(together[0, 1:], together[1, 1:], atol=1e-2)

    def test_predict_is_the_score_of_the_given_item(self, settings):
        _, _, _, model, _ = self.build(settings, decoding="exact")
        rows = self.histories([1, 2], [3])
        rows.update(Interaction({"item_id": torch.tensor([4, 5])}))
        dense = self.disturb(model).full_sort_predict(rows)
        assert torch.equal(model.predict(rows), dense[torch.arange(2), torch.tensor([4, 5])])

    # ----------------------------------------------------------------- limits

    def test_k_may_be_the_whole_catalogue(self, settings):
        _, data, _, model, _ = self.build(settings, decoding="exact")
        items, scores = model.topk(self.histories([1]), data.item_num + 3)
        assert sorted(items[0, : data.item_num - 1].tolist()) == list(range(1, data.item_num))
        assert (items[0, data.item_num - 1 :] == 0).all() and (scores[0, data.item_num - 1 :] == -torch.inf).all()

    def test_k_larger_than_the_catalogue_is_refused(self, settings):
        with pytest.raises(ValueError, match=r"topk=50 is larger than the catalogue: toy has 41 items"):
            self.build(settings, topk=[5, 50], valid_metric="NDCG@5", beam_width=60)

    def test_a_beam_below_the_largest_k_is_refused(self, settings):
        with pytest.raises(ValueError, match=r"beam_width=4 is below the largest cut-off topk=20"):
            self.build(settings, beam_width=4)

    def test_a_tiny_catalogue_works(self, settings, tmp_path):
        make_dataset(tmp_path, "tiny", *planted_events(20, 5), item_columns=item_texts(5))
        limits = {"topk": [1, 5], "valid_metric": "NDCG@5", "beam_width": 5}
        changes = settings(data_path=str(tmp_path), epochs=1, **self.tiny, **limits)
        result = run(self.model, "tiny", config_dict=changes)
        assert result["test_result"]["consumed_kept"]["recall@5"] == 1.0

    # --------------------------------------------------------------- learning

    def test_a_planted_pattern_is_learnt(self, settings):
        result = run(self.model, "toy", config_dict=settings(**self.learns))
        assert result["test_result"]["consumed_kept"]["recall@5"] > self.floor

    def test_bad_input_loses_nothing_already_written(self, settings):
        run(self.model, "toy", config_dict=settings())
        before = {
            path: path.read_bytes() for name in ("best.pth", "last.pth", "result.json") for path in self.files(name)
        }
        for wrong in ({"epochs": -1}, {"beam_width": 1}, {"content": "nothing"}, {"data_path": "nowhere"}):
            with pytest.raises((ValueError, FileNotFoundError)):
                run(self.model, "toy", config_dict=settings(**wrong))
        assert before == {path: path.read_bytes() for path in before} and len(before) == 3
