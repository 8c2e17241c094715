"""What every tokenizer of the package must do; subclass it and name the class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from recbole_vsid.config import properties_folder
from recbole_vsid.tokenizer.base import TokenizerInput


def clustered(n_items=60, n_clusters=4, d=12, seed=0, spread=0.15):
    """Items around a few centres, popularity falling with the row; row 0 is the padding item."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_clusters, d))
    cluster = np.r_[0, rng.integers(0, n_clusters, n_items)]
    embedding = (centres[cluster] + spread * rng.normal(size=(n_items + 1, d))).astype(np.float32)
    embedding[0] = 0
    popularity = np.r_[0, 1 + 200 // np.arange(1, n_items + 1)]
    tokens = np.array(["[PAD]"] + [f"item {i}" for i in range(1, n_items + 1)])
    return TokenizerInput(embedding, popularity, tokens), cluster


class TokenizerConformance:
    """Attributes: ``tokenizer``, the class; ``quick``, settings that fit in a second; ``tiny`` for three items;
    ``roomy``, settings with codes left for new items."""

    tokenizer = None
    quick = {}
    tiny = {}
    roomy = {}

    def fit(self, data, seed=1, **changes):
        return self.tokenizer(self.tokenizer.Settings(**{**self.quick, **changes}), seed=seed).fit(data)

    def test_refit_with_the_seed_equals_fit(self):
        data, _ = clustered()
        torch.manual_seed(1)
        first = self.fit(data).encode(data)
        torch.manual_seed(2)
        np.random.seed(7)
        assert self.fit(data).encode(data) == first

    def test_the_global_generators_are_left_alone(self):
        data, _ = clustered()
        torch.manual_seed(5)
        np.random.seed(5)
        expected = torch.rand(3), np.random.rand(3)
        torch.manual_seed(5)
        np.random.seed(5)
        self.fit(data)
        assert torch.equal(torch.rand(3), expected[0]) and np.array_equal(np.random.rand(3), expected[1])

    def test_a_restored_state_gives_the_same_codes(self):
        data, _ = clustered()
        fitted = self.fit(data)
        state = {name: tensor.clone() for name, tensor in fitted.state_dict().items()}
        restored = self.tokenizer(self.tokenizer.Settings(**self.quick), seed=99)
        restored.load_state_dict(state)
        assert restored.encode(data) == fitted.encode(data)

    def test_codes_do_not_depend_on_the_batch(self):
        data, _ = clustered()
        fitted = self.fit(data)
        codes, lengths = fitted.assign(data.embedding[1:])
        for rows in (slice(3, 4), slice(10, 31)):
            part, part_lengths = fitted.assign(data.embedding[1:][rows])
            assert np.array_equal(part, codes[rows]) and np.array_equal(part_lengths, lengths[rows])

    def test_new_items_get_valid_codes(self):
        data, _ = clustered()
        fitted = self.fit(data)
        new = np.random.default_rng(4).normal(size=(7, data.embedding.shape[1])).astype(np.float32)
        codes, lengths = fitted.assign(new)
        inside = np.arange(codes.shape[1]) < lengths[:, None]
        assert (lengths >= 1).all() and np.array_equal(codes != -1, inside)
        assert (codes < np.asarray(fitted.vocab_sizes)).all()

    def test_the_table_is_unique_prefix_free_and_names_its_origin(self):
        data, _ = clustered()
        table = self.fit(data).encode(data)
        assert table.unique and table.prefix_free and table.n_items == len(data.embedding)
        assert table.provenance["tokenizer"] == self.tokenizer.name and table.provenance["seed"] == 1

    def test_every_policy_for_collisions_gives_a_table(self):
        data, _ = clustered()
        for policy in self.tokenizer.Settings.policies:
            table = self.fit(data, collisions=policy).encode(data)
            assert table.provenance["collisions"]["policy"] == policy
            assert table.unique == (policy != "none") and table.suffix == (policy == "suffix")

    def test_a_size_of_suffixes_that_nothing_would_read_is_refused(self):
        for policy in set(self.tokenizer.Settings.policies) - {"suffix"}:
            with pytest.raises(ValueError, match=f"sid_suffix_size=9 is not usable.*sid_collisions={policy}"):
                self.tokenizer.Settings(**{**self.quick, "collisions": policy, "suffix_size": 9})

    def test_the_smallest_distance_is_at_the_code_of_the_item(self):
        if not {"nearest", "sinkhorn"} & set(self.tokenizer.Settings.policies):
            pytest.skip("its codes are never moved")
        data, _ = clustered()
        fitted = self.fit(data)
        codes, _ = fitted.assign(data.embedding[1:])
        for level, size in enumerate(fitted.vocab_sizes):
            distances = fitted.code_distances(data.embedding[1:], codes, level)
            assert distances.shape == (60, size)
            assert np.array_equal(distances.argmin(1), codes[:, level])

    def test_new_items_are_added_behind_the_old_ones(self):
        data, _ = clustered()
        fitted = self.fit(data, **self.roomy)
        table = fitted.encode(data)
        new = np.random.default_rng(4).normal(size=(2, data.embedding.shape[1])).astype(np.float32)
        extended = fitted.extend(table, new, ["new 1", "new 2"], grow=True)
        assert np.array_equal(extended.codes[:61, : table.max_length], table.codes) and extended.unique
        assert extended.item_tokens[61:].tolist() == ["new 1", "new 2"]

    def test_items_of_a_cluster_share_their_first_code(self):
        data, cluster = clustered()
        first = self.fit(data).assign(data.embedding[1:])[0][:, 0]
        same_code = first[:, None] == first[None, :]
        same_cluster = cluster[1:, None] == cluster[None, 1:]
        assert same_code[same_cluster].mean() > 3 * same_code[~same_cluster].mean()

    def test_errors_fall_with_the_prefix(self):
        data, _ = clustered()
        fitted = self.fit(data)
        errors = fitted.prefix_errors(data.embedding[1:], fitted.assign_full(data.embedding[1:]))
        assert errors.shape == (len(data.embedding) - 1, len(fitted.vocab_sizes))
        assert (errors >= 0).all() and (errors <= 4).all() and errors[:, -1].mean() < 1

    def test_a_tiny_catalogue_works(self):
        data, _ = clustered(n_items=3, n_clusters=3)
        table = self.fit(data, **self.tiny).encode(data)
        assert table.n_items == 4

    def test_a_vocabulary_larger_than_the_catalogue_is_refused(self):
        data, _ = clustered(n_items=10)
        with pytest.raises(ValueError, match="sid_vocab_size=32"):
            self.fit(data, vocab_size=32)

    def test_every_property_key_is_a_setting(self):
        values = yaml.safe_load((properties_folder() / "tokenizer" / f"{self.tokenizer.name}.yaml").read_text())
        own = [key for key in values if key.startswith("sid_")]
        assert sorted(own) == sorted(self.tokenizer.Settings.keys())
        assert self.tokenizer.Settings.from_config(values) == self.tokenizer.Settings()

    def test_nan_content_is_refused_by_name(self):
        data, _ = clustered()
        embedding = data.embedding.copy()
        embedding[5, 2] = np.nan
        with pytest.raises(ValueError, match="content of item 'item 5' holds NaN"):
            TokenizerInput(embedding, data.popularity, data.item_tokens)
