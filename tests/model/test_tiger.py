"""TIGER's token streams, loss and decoding against plain re-computations, and what it trains on."""

from __future__ import annotations

import json
import zlib

import pytest
import torch
import yaml
from recbole.data.interaction import Interaction

from recbole_vsid.config import Config, properties_folder
from recbole_vsid.model.streams import token_stream
from recbole_vsid.model.t5 import Layer
from recbole_vsid.quick_start import build_data, build_model, run
from tests.model.tiny_tiger import flat_code, interaction_of, naive_log_probs, naive_stream, tiny_tiger
from tests.property.strategies import make_table

FIXED = make_table([(0, 2), (1, 0), (1, 2), (2, 1), (0, 0), (2, 2)], [3, 3])
OWN = make_table([(0, 2), (1, 0), (1, 3), (2, 1), (0, 0), (2, 2)], [3, 4], shared_vocabulary=False)
VARYING = make_table([(0, 1), (1,), (2, 0, 3), (2, 0, 1), (3, 3), (2, 1)], [4, 4, 4])
OWN_VARYING = make_table([(0, 1), (1,), (2, 0, 3), (2, 0, 1), (2, 1)], [3, 2, 5], shared_vocabulary=False)
TABLES = {"fixed": FIXED, "own": OWN, "varying": VARYING, "own_varying": OWN_VARYING}
USERS = ["ann", "bob", "cy"]
HISTORIES = [[2], [1, 5, 3, 4, 5], [4, 4], [3, 1, 2]]


@pytest.fixture(params=TABLES)
def table(request):
    return TABLES[request.param]


# ------------------------------------------------------------------ the encoder's input


class Recorded(torch.nn.Embedding):
    """An embedding that remembers the tokens it was asked for."""

    def forward(self, tokens):
        self.asked = getattr(self, "asked", []) + [tokens.clone()]
        return super().forward(tokens)


def encoder_tokens(model, rows):
    """``(tokens, padding)`` that the encoder reads."""
    recorded = Recorded(*model.token_embedding.weight.shape)
    recorded.weight = model.token_embedding.weight
    model.token_embedding = recorded
    memory, padding = model.encode(rows)
    (tokens,) = recorded.asked
    assert tokens.shape == padding.shape == memory.shape[:2]
    return tokens, padding


@pytest.mark.parametrize("user_tokens", [0, 7])
def test_the_encoder_reads_the_codes_of_the_history(table, user_tokens):
    model = tiny_tiger(table, USERS, user_tokens=user_tokens)
    users = [3, 1, 2, 1]
    tokens, padding = encoder_tokens(model, interaction_of(HISTORIES, users))
    expected = []
    for history, user in zip(HISTORIES, users):
        lead = [table.n_tokens + 1 + zlib.crc32(USERS[user - 1].encode()) % user_tokens] if user_tokens else []
        expected.append(naive_stream(table, history, lead))
    assert tokens.size(1) == max(map(len, expected))
    for row, hidden, stream in zip(tokens.tolist(), padding.tolist(), expected):
        assert row == stream + [model.start_token] * (len(row) - len(stream))
        assert hidden == [False] * len(stream) + [True] * (len(row) - len(stream))


def test_an_item_without_code_leaves_no_tokens():
    model = tiny_tiger(VARYING)
    tokens, padding = encoder_tokens(model, interaction_of([[4, 0, 2], [1]]))
    assert tokens[0].tolist() == naive_stream(VARYING, [4, 2]) and not padding[0].any()


def test_streams_leave_out_items_that_cost_nothing():
    codes = torch.tensor([[-1, -1], [5, -1], [6, 7]])
    items, costs = torch.tensor([[2, 1, 2], [1, 1, 0]]), torch.tensor([[2, 0, 2], [1, 1, 0]])
    tokens, lengths = token_stream(codes, items, costs, torch.tensor([[8, 9], [9, 8]]), 4)
    assert tokens.tolist() == [[8, 9, 6, 7, 6, 7], [9, 8, 5, 5, 4, 4]] and lengths.tolist() == [6, 4]
    tokens, lengths = token_stream(codes, items, 0 * costs, items[:, :0], 4)
    assert tokens.tolist() == [[4], [4]] and lengths.tolist() == [0, 0], "one column at least"


def test_users_hash_to_the_same_tokens_in_every_data_set():
    model = tiny_tiger(FIXED, USERS, user_tokens=1000)
    # Written down: another process, platform or order of the users must not change them.
    hashed = dict(zip(["[PAD]", *USERS], (model.user_token - FIXED.n_tokens - 1).tolist()))
    assert [hashed[name] for name in USERS] == [347, 104, 811]
    other = tiny_tiger(FIXED, ["dora", *reversed(USERS)], user_tokens=1000)
    assert other.user_token[2:].tolist() == model.user_token[1:].flip(0).tolist()
    few = tiny_tiger(FIXED, [f"user {i}" for i in range(50)], user_tokens=3)
    assert set((few.user_token - few.start_token - 1).tolist()) == {0, 1, 2}
    assert few.token_embedding.num_embeddings == FIXED.n_tokens + 1 + 3


def test_loaded_weights_leave_the_users_as_the_data_have_them():
    trained, fresh = (
        tiny_tiger(FIXED, USERS, user_tokens=9),
        tiny_tiger(FIXED, [*reversed(USERS), "dora"], user_tokens=9),
    )
    before = fresh.user_token.clone()
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.user_token, before) and not torch.equal(before[:4], trained.user_token)


def test_the_user_counts_if_there_are_user_tokens():
    model = tiny_tiger(FIXED, USERS, user_tokens=1000)
    rows = interaction_of([[1, 2]] * 3, [1, 2, 1], [3] * 3)
    scores = model.full_sort_predict(rows)
    assert torch.equal(scores[0], scores[2]) and not torch.allclose(scores[0, 1:], scores[1, 1:], atol=1e-4)
    model.calculate_loss(rows).backward()
    reached = model.token_embedding.weight.grad.abs().sum(1) > 0
    assert reached[model.user_token[[1, 2]]].all() and not reached[model.user_token[3]]


# -------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("user_tokens", [0, 5])
def test_the_loss_is_the_mean_over_every_token_of_the_targets(table, tied, user_tokens):
    model = tiny_tiger(table, USERS, tie_embeddings=tied, user_tokens=user_tokens, scale=0.4)
    users, targets = [1, 2, 3, 1], [3, 1, 5, 2]
    losses = []
    for history, user, target in zip(HISTORIES, users, targets):
        lead = model.user_token[[user]].tolist() if user_tokens else []
        # In training the first token competes with all of its position, also those that begin no code.
        losses += naive_log_probs(model, history, flat_code(table, target), lead, renormalise_first=False)
    loss = model.calculate_loss(interaction_of(HISTORIES, users, targets))
    assert loss.item() == pytest.approx(-sum(losses) / len(losses), abs=1e-5)


def test_a_tied_head_is_the_scaled_embedding():
    tied, untied = tiny_tiger(OWN, tie_embeddings=True), tiny_tiger(OWN)
    assert tied.head is None and untied.head.weight.shape == (OWN.n_tokens, 12)
    hidden = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(1))
    for position, own in enumerate([slice(0, 3), slice(3, 7)]):
        expected = hidden @ tied.token_embedding.weight[own].T * 12**-0.5
        torch.testing.assert_close(tied._logits(hidden, position), expected)
        torch.testing.assert_close(untied._logits(hidden, position), hidden @ untied.head.weight[own].T)


def test_an_untrained_model_finds_all_tokens_of_a_position_equally_likely():
    model = tiny_tiger(OWN)
    torch.nn.init.zeros_(model.head.weight)
    loss = model.calculate_loss(interaction_of([[1, 2]], targets=[3]))
    assert loss.exp().item() == pytest.approx((3 * 4) ** 0.5)


def test_the_matrices_of_both_stacks_are_the_hidden_ones():
    model = tiny_tiger(FIXED)
    hidden = {id(matrix) for matrix in model.hidden_matrices()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in hidden}
    others = {name for name, _ in model.named_parameters()} - names
    # Per layer q, k, v, o of each attention and the two of the feed-forward.
    assert len(names) == 2 * 6 + 2 * 10 and all(name.startswith(("encoder.layers", "decoder.layers")) for name in names)
    assert {name for name in others if "norm" not in name} == {
        "token_embedding.weight",
        "head.weight",
        "encoder.bias.table.weight",
        "decoder.bias.table.weight",
    }


# ---------------------------------------------------------------------------- decoding


def test_a_row_does_not_depend_on_its_batch(table):
    model = tiny_tiger(table, scale=0.4)
    together = model.full_sort_predict(interaction_of(HISTORIES))
    for row, history in enumerate(HISTORIES):
        alone = model.full_sort_predict(interaction_of([history]))[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoding", ["beam", "exact"])
def test_a_history_is_encoded_once_whatever_the_beam(decoding):
    table = make_table([(a, b, c) for a in range(4) for b in range(4) for c in range(4)], [4, 4, 4])
    model = tiny_tiger(table, scale=0.4, beam_width=6, decoding=decoding)
    encoded, memory_keys, widths = [], [], []
    model.encoder.register_forward_hook(lambda module, args, output: encoded.append(tuple(args[0].shape[:2])))
    for layer in model.decoder.layers:
        cross = layer.cross_attention
        for matrix in (cross.k, cross.v):
            matrix.register_forward_hook(lambda module, args, output: memory_keys.append(tuple(output.shape)))
        cross.q.register_forward_hook(lambda module, args, output: widths.append(tuple(output.shape[:2])))
    model.topk(interaction_of(HISTORIES), 3)
    longest = max(len(history) for history in HISTORIES) * 3
    assert encoded == [(4, longest)]
    assert memory_keys == [(4, longest, 2 * 8)] * 2 * 2, "keys and values of two layers, one row per user"
    assert widths[:2] == [(4, 1)] * 2, "the first step has one row per user"
    assert len(widths) == 2 * 3 and all(users == 4 for users, _ in widths)
    if decoding == "beam":
        assert max(width for _, width in widths) == 6
    else:
        assert [width for _, width in widths] == [1, 1, 4, 4, 16, 16]


def test_a_step_attends_to_the_same_memory_for_all_beams(monkeypatch):
    attended, attend_memory = [], Layer.attend_memory

    def recorded(layer, x, keys_values, bias):
        attended.append((x.size(1), keys_values))
        return attend_memory(layer, x, keys_values, bias)

    monkeypatch.setattr(Layer, "attend_memory", recorded)
    tiny_tiger(OWN, n_layers=1).topk(interaction_of(HISTORIES), 6)
    (first_width, first), (second_width, second) = attended
    assert (first_width, second_width) == (1, 3)
    assert [each.shape for each in first] == [(4, 2, 10, 8)] * 2, "[B, heads, S, size] whatever the beam"
    assert all(one is other for one, other in zip(first, second)), "the same tensors, no copies"


@pytest.mark.parametrize("user_tokens", [0, 5])
def test_an_empty_history_still_gets_a_ranking(user_tokens):
    model = tiny_tiger(VARYING, USERS, user_tokens=user_tokens)
    for histories in ([[]], [[], [1, 2]], [[0], [1, 2]]):
        items, scores = model.topk(interaction_of(histories, [1, 2][: len(histories)]), 6)
        assert all(sorted(row) == [1, 2, 3, 4, 5, 6] for row in items.tolist()) and scores.isfinite().all()


# ---------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_layers": 0}, "n_layers=0 is not usable: it must be a whole number of at least 1"),
        ({"n_heads": 0}, "n_heads=0 is not usable: it must be a whole number of at least 1"),
        ({"inner_size": 0}, "inner_size=0 is not usable: it must be a whole number of at least 1"),
        ({"user_tokens": -1}, "user_tokens=-1 is not usable: it must be a whole number of at least 0"),
        ({"train_rows": "windows"}, "train_rows='windows' is not usable: it must be all_prefixes or sampled_prefix"),
        ({"dropout_prob": 1.0}, r"dropout_prob=1.0 is not usable: it must be in \[0, 1\)"),
        ({"dropout_prob": -0.1}, r"dropout_prob=-0.1 is not usable: it must be in \[0, 1\)"),
        ({"decoding": "greedy"}, "decoding='greedy' is not usable"),
        ({"beam_width": 3}, "beam_width=3 is below the largest cut-off topk=20"),
    ],
)
@pytest.mark.parametrize("model", ["TIGER", "ReSID"])
def test_bad_settings_are_refused(small_settings, model, wrong, message):
    with pytest.raises(ValueError, match=message):
        Config(model, "toy", config_dict=small_settings(model, **wrong))


def test_resid_differs_from_tiger_in_the_semantic_ids_alone():
    tiger, resid = (
        yaml.safe_load((properties_folder() / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("TIGER", "ReSID")
    )
    assert tiger["tokenizer"] == "rqvae" and resid == {"tokenizer": "gaoq"}
    inherited, own = (Config(name, "ml-100k", config_dict={"tokenizer": "rkmeans"}) for name in ("ReSID", "TIGER"))
    different = {key for key, value in own.plain().items() if inherited.plain()[key] != value}
    assert set(own.plain()) == set(inherited.plain()) and different == {"model"}


# ---------------------------------------------------------------------- tokenizers, rows

SMALL_DVAE = {
    "tokenizer": "vlsid",
    "sid_vocab_size": 16,
    "sid_max_length": 3,
    "sid_hidden_size": 64,
    "sid_batch_size": 64,
    "sid_updates": 100,
    "sid_on_collapse": "warn",
}


@pytest.mark.parametrize(
    "changes",
    [
        {"train_rows": "sampled_prefix"},
        {"tokenizer": "gaoq", "content": "fields"},
        SMALL_DVAE,
        {"user_tokens": 10, "tie_embeddings": True, "dropout_prob": 0.1, "enable_amp": True, "learner": "muon"},
    ],
    ids=lambda changes: changes.get("tokenizer") or next(iter(changes)),
)
def test_trains_with(small_settings, changes):
    settings = small_settings("TIGER")
    if "tokenizer" in changes:  # the settings of rkmeans are no other's
        settings = {key: value for key, value in settings.items() if not key.startswith("sid_")}
    result = run("TIGER", "toy", config_dict={**settings, **changes})
    assert result["tokenizer"] == changes.get("tokenizer", "rkmeans")
    assert result["test_result"]["consumed_kept"]["recall@20"] > 0


def test_a_table_of_lengths_made_elsewhere(small_settings, tmp_path):
    """Item *i* of toy has one token, two or three."""
    lines = {f"i{i}": [i % 5] if i < 5 else [5 + i % 3, i] if i < 20 else [8, i % 7, i] for i in range(41)}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(lines), encoding="utf-8")
    result = run("TIGER", "toy", config_dict=small_settings("TIGER", sid_file=str(path)))
    assert result["test_result"]["consumed_kept"]["recall@20"] > 0


def test_resid_with_its_own_tokenizer(small_settings):
    changes = small_settings("ReSID", famae_width=16, famae_epochs=1, famae_layers=1)
    del changes["content"]
    result = run("ReSID", "toy", config_dict=changes)
    assert (result["model"], result["tokenizer"], result["semantic_ids"]["content"]) == ("ReSID", "gaoq", ["famae"])
    assert result["test_result"]["consumed_kept"]["recall@20"] > 0


@pytest.mark.parametrize(("train_rows", "expected"), [("all_prefixes", sum), ("sampled_prefix", len)])
def test_targets_per_epoch(small_settings, train_rows, expected):
    config = Config("TIGER", "toy", config_dict=small_settings("TIGER", train_rows=train_rows, train_batch_size=50))
    _, loaders = build_data(config)
    _, loader = build_model(config, loaders)
    counts = [count - 1 for count in loaders[0]._dataset.training.counts() if count > 1]
    batches = list(loader)
    assert loader.n_targets == expected(counts) == sum(len(batch) for batch in batches)
    assert all(isinstance(batch, Interaction) and len(batch) <= 50 for batch in batches)
