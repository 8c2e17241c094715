"""What is printed holds the figures, and – where there are none."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from recbole_vsid.semantic_id.collisions import resolve_collisions
from recbole_vsid.semantic_id.diagnostics import diagnose
from recbole_vsid.semantic_id.report import NOTHING, SHOWN_POSITIONS, print_comparison_of_tables, print_diagnostics
from tests.property.strategies import make_table, pad_codes

N = 40


def printed(function, *arguments, width=120):
    console = Console(file=io.StringIO(), width=width)
    function(*arguments, console)
    return console.file.getvalue()


def cells(text, label):
    """The cells of the one row that begins with ``label``."""
    rows = [line[1:-1].split("│") for line in text.splitlines() if line.startswith(f"│ {label}")]
    assert len(rows) == 1, f"{label!r} stands in {len(rows)} rows of\n{text}"
    return [cell.strip() for cell in rows[0][1:]]


def make_report(policy="suffix", fixed=True, **more):
    """Diagnostics of a random table with everything that can be measured."""
    rng = np.random.default_rng(0)
    lengths = np.full(N, 3) if fixed else rng.integers(1, 4, size=N)
    codes, lengths = pad_codes([tuple(rng.integers(4, size=n)) for n in lengths])
    sequences = SimpleNamespace(items=rng.integers(1, N + 1, size=200), offsets=np.arange(0, 201, 10))
    popularity = np.bincount(sequences.items, minlength=N + 1)
    tokens = np.array(["[PAD]"] + [f"i{row}" for row in range(N)])
    table = resolve_collisions(
        policy, codes, lengths, (5, 5, 5), False, popularity, tokens, {},
        distances=lambda rows, prefix, level: rng.random((len(rows), 5)),
    )  # fmt: skip
    embedding = rng.normal(size=(N + 1, 6))
    return {**diagnose(table, popularity, rng.random((N, 3)), embedding, sequences), **more}


def test_rows_hold_the_figures():
    report = make_report(fixed=False, tokenizer="some")
    text = printed(print_diagnostics, report)
    assert "Semantic IDs of tokenizer some" in text
    assert cells(text, "items, training events") == ["40", "200"]
    assert cells(text, "vocabulary of") == ["5 5 5", ""]
    length, collisions, positions = report["length"], report["collisions"], report["positions"]
    pair = [f"{length['content'][key]:.3f}" for key in ("items", "events")]
    assert cells(text, "content tokens per item") == pair
    assert cells(text, "tokens per item with")[0] == f"{float(pair[0]) + 1:.3f}"
    head = length["groups"]["head"]
    assert cells(text, f"… in the head, the {head['items']} most popular, {head['event_share']:.1%} of events") == [
        f"{head['mean_length']:.3f}",
        "",
    ]
    assert cells(text, "… rank correlation")[0] == f"{length['popularity_correlation']:+.3f}"
    assert cells(text, "items of 1, 2")[0] == " ".join(map(str, length["histogram"]))
    assert (
        cells(text, "different content codes")[0]
        == f"{collisions['distinct_codes']} ({collisions['distinct_share']:.1%})"
    )
    assert cells(text, "items that share their")[0] == f"{collisions['shared']['items']:.1%}"
    assert cells(text, "items that share a code before, after sid_collisions=suffix")[0] == (
        f"{collisions['before']['items']} → 0"
    )
    assert cells(text, "codes in use") == [f"{each['used']}/5" for each in positions]
    assert cells(text, "dead codes") == [str(each["dead"]) for each in positions]
    assert cells(text, "perplexity given") == [f"{each['conditional_perplexity']:.1f}" for each in positions]
    errors = report["reconstruction"]["prefixes"]
    assert cells(text, "squared error after this token, by events") == [f"{each['events']:.4f}" for each in errors]
    similarity = report["content_similarity"]
    label = f"… their cosine (two random items: {similarity['random']:.3f})"
    assert cells(text, label) == [f"{each['cosine']:.3f}" for each in similarity["prefixes"]]
    aligned = [f"{each['cross_parent']:+.3f}" for each in report["code_alignment"]]
    assert cells(text, "cosine of items with this code") == [NOTHING, *aligned]
    neighbours = report["cooccurrence"]
    shares = [f"{each['recall']:.2%}" for each in neighbours["prefixes"]]
    assert cells(text, f"neighbours ({neighbours['pairs']}) that share") == shares


def test_sizes_of_groups_add_up():
    report = make_report()
    report["collisions"]["group_sizes"] = [{"size": size, "groups": size + 10} for size in (1, 2, 4, 5, 9)]
    assert cells(printed(print_diagnostics, report), "content codes of 1, 2, 3, 4, more")[0] == "11 12 0 14 34"


def test_codes_of_one_length_have_no_rows_about_lengths():
    text = printed(print_diagnostics, make_report("nearest"))
    for label in ("… in the head", "… rank correlation", "items of 1, 2", "tokens per item with"):
        assert label not in text
    assert int(cells(text, "… items moved to another code")[0]) > 0


@pytest.mark.parametrize("width", [60, 120])
def test_what_was_not_measured_is_left_out_or_a_dash(width):
    table = make_table([(0,), (1,)], (2,))
    text = printed(print_diagnostics, diagnose(table, np.zeros(3)), width=width)
    assert cells(text, "content tokens per item") == ["1.000", NOTHING]
    for label in ("│ squared error", "│ neighbours", "│ … their cosine", "sid_collisions"):
        assert label not in text


def test_a_long_code_is_cut_and_says_so():
    n = SHOWN_POSITIONS + 4
    report = diagnose(make_table([(0,) * n, (1,) * n], (2,) * n, False), np.ones(3))
    text = printed(print_diagnostics, report)
    assert f"(the first {SHOWN_POSITIONS} of {n})" in text
    assert len(cells(text, "dead codes")) == SHOWN_POSITIONS
    side = printed(print_comparison_of_tables, {"one": report})
    assert cells(side, "dead codes")[0] == " ".join(["0"] * SHOWN_POSITIONS + ["…"])


def test_printed_tables_stay_short():
    text = printed(print_diagnostics, make_report(fixed=False))
    assert sum(line.startswith("│") for line in text.splitlines()) <= 40


def test_tables_side_by_side():
    cost = {"content": ["text", "famae"], "fit_seconds": 12.34, "content_seconds": 0.5, "peak_memory_mb": 1234}
    reports = {
        "full": make_report(**cost),
        "moved": make_report("nearest"),
        "bare": diagnose(make_table([(0,), (1,)], (2,)), np.zeros(3)),
    }
    text = printed(print_comparison_of_tables, reports)
    assert cells(text, "fitting the tokenizer, seconds") == ["12.3", NOTHING, NOTHING]
    assert cells(text, "item content") == ["text + famae", NOTHING, NOTHING]
    assert cells(text, "making the content, seconds") == ["0.5", NOTHING, NOTHING]
    assert cells(text, "peak memory of the process, MB") == ["1,234", NOTHING, NOTHING]
    assert cells(text, "vocabulary") == ["5 5 5", "5 5 5", "2 for all"]
    assert cells(text, "all tokens per item") == ["4.000", "3.000", NOTHING]
    share = f"{reports['full']['collisions']['before']['item_share']:.1%}"
    assert share != "0.0%"
    assert cells(text, "items sharing a code before") == [share, share, NOTHING]
    assert cells(text, "items sharing a code afterwards") == ["0.0%"] * 3
    assert cells(text, "codes in use")[2] == "100%"
    similarity = reports["full"]["content_similarity"]
    assert cells(text, "cosine of items that share 1 token")[0] == f"{similarity['prefixes'][0]['cosine']:.3f}"
    assert cells(text, "cosine of items that share 2 tokens")[2] == NOTHING
    assert cells(text, "cosine, code 2")[0] == f"{reports['full']['code_alignment'][0]['cross_parent']:+.3f}"
    first = reports["full"]["cooccurrence"]["prefixes"][0]
    assert cells(text, "neighbours that share 1 token")[0] == f"{first['recall']:.2%} ({first['lift']:.1f}×)"
    assert cells(text, "squared error of")[1:] == [
        f"{reports['moved']['reconstruction']['chosen_length']['items']:.4f}",
        NOTHING,
    ]
