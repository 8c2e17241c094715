"""``content: text``: which texts are made, what happens to items without, and what the encoder is asked."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from recbole_vsid.config import Config
from recbole_vsid.data import dataset as dataset_module
from recbole_vsid.data.content import item_content
from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.data.text import item_texts, text, text_identity
from tests.conftest import item_texts as toy_columns
from tests.conftest import make_dataset, planted_events


class HashingEncoder:
    """Stands for ``sentence_transformers.SentenceTransformer``: counts letters, so equal texts get equal vectors."""

    made = []

    def __init__(self, name, device):
        if name == "nowhere/nothing":
            raise OSError("nowhere/nothing is not a local folder\nand not on the hub")
        self.name, self.device, self.seen = name, device, []
        self.made.append(self)

    def encode(self, texts, batch_size, show_progress_bar, convert_to_numpy):
        self.seen, self.batch_size, self.progress = list(texts), batch_size, show_progress_bar
        return np.array([[each.count(letter) for letter in "aeiounrstl0123456789"] for each in texts], dtype=np.float32)


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr(HashingEncoder, "made", [])
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = HashingEncoder
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    return HashingEncoder.made


@pytest.fixture
def built(monkeypatch, tmp_path):
    """``built(columns=None, **settings)``: toy's events with other item columns; no table is made."""

    def table(dataset):
        tokens = np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
        return types.SimpleNamespace(item_tokens=tokens, n_items=len(tokens)), {}

    def build(columns=None, **settings):
        own = toy_columns()
        own = {"item_id:token": own["item_id:token"], **columns} if columns else own
        make_dataset(tmp_path, "shop", *planted_events(), item_columns=own)
        given = {"data_path": str(tmp_path), "content": "text", "show_progress": False, **settings}
        dataset = SemanticIDDataset(Config("VLSID", "shop", config_dict=given))
        monkeypatch.setattr(dataset_module, "fit_semantic_ids", table)
        dataset.build()
        return dataset

    return build


def row(dataset, token):
    return int(np.flatnonzero(dataset.field2id_token["item_id"] == token)[0])


def columns_with_gaps():
    names = [f"Paste {i}" if i not in (3, 5) else "" for i in range(41)]
    return {
        "title:token": names,
        "brand:token": ["OPI" if i % 2 and i != 5 else "" for i in range(41)],
        "categories:token_seq": ["Make_up Nail_Polish" if i not in (5,) else "" for i in range(41)],
    }


def test_default_texts_name_the_columns_and_leave_gaps_out(built):
    dataset = built(columns_with_gaps())
    texts, template = item_texts(dataset)
    assert template == "title: {title}; brand: {brand}; categories: {categories}"
    assert texts[row(dataset, "i1") - 1] == "title: Paste 1; brand: OPI; categories: Make up, Nail Polish"
    assert texts[row(dataset, "i2") - 1] == "title: Paste 2; categories: Make up, Nail Polish"
    assert texts[row(dataset, "i5") - 1] == ""


def test_columns_and_template_are_the_users(built):
    assert item_texts(built(text_columns=["title"]))[0][0].startswith("title: shade")
    dataset = built(columns_with_gaps(), text_template="{title} by {brand}.")
    texts, template = item_texts(dataset)
    assert template == "{title} by {brand}." and texts[row(dataset, "i1") - 1] == "Paste 1 by OPI."
    assert texts[row(dataset, "i2") - 1] == "Paste 2 by ." and texts[row(dataset, "i5") - 1] == ""


def test_sequences_without_underscores_are_sentences(built):
    dataset = built({"title:token_seq": [f"a nice paste {i}" for i in range(41)]})
    assert item_texts(dataset)[0][row(dataset, "i7") - 1] == "title: a nice paste 7"


def test_items_without_text_are_counted_and_get_the_empty_vector(built, encoder):
    dataset = built(columns_with_gaps(), missing_content="zero")
    matrix, (facts,) = item_content(dataset)
    assert not matrix[row(dataset, "i5")].any() and (matrix[1:] != 0).any(1).sum() == 40
    assert facts["items_without_text"] == facts["items_without"] == 1
    assert facts["template"].startswith("title: {title}") and facts["model"].endswith("all-MiniLM-L6-v2")
    assert len(facts["matrix_hash"]) == 16
    np.testing.assert_allclose(np.linalg.norm(matrix[matrix.any(1)], axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="1 of 41 items have no content, item 'i5' first.*missing_content=zero"):
        item_content(built(columns_with_gaps()))


def test_the_encoder_gets_the_settings(built, encoder):
    text(built(text_model="some/model", text_batch_size=7, text_max_length=33, show_progress=True))
    (made,) = encoder
    assert (made.name, made.batch_size, made.max_seq_length, made.progress) == ("some/model", 7, 33, True)
    assert made.device == "cpu" and len(made.seen) == 41


def test_the_second_time_comes_from_the_cache(built, encoder):
    first, _ = item_content(built(cache_dir="kept"))
    second, _ = item_content(built(cache_dir="kept", text_batch_size=3))
    assert np.array_equal(first, second) and len(encoder) == 1
    for change in ({"text_model": "other"}, {"text_template": "{title}"}, {"text_max_length": 5}, {"text_bf16": False}):
        item_content(built(cache_dir="kept", **change))
    assert len(encoder) == 5


def test_a_local_model_is_known_by_its_files(built, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    identities = []
    for weights in ("one", "two", "one"):
        (folder / "model.safetensors").write_text(weights)
        identities.append(text_identity(built(text_model=str(folder))))
    assert identities[0] == identities[2] != identities[1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"text_columns": ["title", "size"]}, r"text_columns=\['title', 'size'\].*columns are \['title', 'category'\]"),
        ({"text_template": "{name}"}, r"text_template='\{name\}' is not usable for 'shop'"),
        ({"text_template": "always the same"}, "text_template='always the same' is not usable"),
        ({"text_model": "nowhere/nothing"}, "text_model='nowhere/nothing' cannot be loaded.*not on the hub"),
        ({"text_batch_size": 0}, "text_batch_size=0 is not usable"),
        ({"text_max_length": -1}, "text_max_length=-1 is not usable"),
    ],
)
def test_unusable_settings_are_named(built, encoder, settings, told):
    with pytest.raises(ValueError, match=told):
        text(built(**settings))


def test_no_text_at_all(built, encoder):
    with pytest.raises(ValueError, match="no item of 'shop' has any text"):
        text(built({"title:token": [""] * 41}))
    with pytest.raises(ValueError, match="columns are \\[\\]"):
        text(built({"price:float": [1] * 41}))


def test_a_missing_library_says_what_to_install(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r'pip install "recbole_vsid\[text\]"'):
        text(built())
