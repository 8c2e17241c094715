"""What ``diagnose`` measured, for the terminal: one table of semantic IDs, or several side by side.

A value that a report does not hold, because it was not measured or there is nothing to measure, prints as –.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

NOTHING = "–"
# Positions, and sizes of collision groups, that are shown one by one.
SHOWN_POSITIONS, SHOWN_SIZES = 8, 4

TERMS = (
    "Perplexity: exp(entropy); so many equally frequent codes would be as hard to guess.",
    "Squared error: of the unit content vector rebuilt from the tokens; 0 is exact, 2 unrelated.",
    "Cosine: of content vectors; 1 is the same direction, unrelated items have about that of two random ones.",
    "Cosine under other prefixes: of vectors minus the mean of their prefix, between items with the same code here and "
    "different tokens before. Clearly above 0: the code means the same everywhere; about 0: it depends on the prefix.",
    "Neighbours: two different items in a row in a training sequence. Chance: two items drawn by popularity.",
)


def print_diagnostics(report, console=None):
    """Print what :func:`~recbole_vsid.semantic_id.diagnostics.diagnose` returned: overall, then by position.

    Args:
        report: that dict, perhaps with ``tokenizer``.
        console: a ``rich.console.Console``; stdout by default.
    """
    console = console or wide_console()
    console.print(_overall(report))
    console.print(_by_position(report))
    _explain(console)


def print_comparison_of_tables(reports, console=None):
    """Print the reports of several tokenizers on the same data side by side.

    Args:
        reports: name → report as for :func:`print_diagnostics`, perhaps with ``fit_seconds``, ``content_seconds`` and
            ``peak_memory_mb``.
        console: a ``rich.console.Console``; stdout by default.
    """
    console = console or wide_console()
    view = _new_table("Semantic IDs side by side (several numbers: by position)")
    for name in reports:
        view.add_column(name, justify="right")
    for section in COMPARISON:
        view.add_section()
        for label, cell in section:
            view.add_row(label, *(cell(report) for report in reports.values()))
    console.print(view)
    _explain(console)


# ------------------------------------------------------------------ one table


def _overall(report):
    name = _get(report, "tokenizer")
    view = _new_table(f"Semantic IDs of tokenizer {name}" if name else "Semantic IDs")
    for column in ("every item\ncounts once", "weighted by\ntraining events"):
        view.add_column(column, justify="right")

    def one(label, form, *path):
        view.add_row(label, _cell(form, *path)(report))

    def pair(label, form, *path):
        view.add_row(label, *(_cell(form, *path, key)(report) for key in ("items", "events")))

    view.add_row("items, training events", _cell("{:,}", "n_items")(report), _cell("{:,}", "n_events")(report))
    view.add_row("vocabulary of content positions 1, 2, …", _vocabulary(report))
    for setting, value in (_get(report, "found") or {}).items():
        view.add_row(f"{setting}, found while fitting", f"{value:.3g}")
    view.add_section()
    pair("content tokens per item", "{:.3f}", "length", "content")
    histogram = _get(report, "length", "histogram")
    if sum(count > 0 for count in histogram) > 1:
        for group, which in (("head", "most popular"), ("mid", "next"), ("tail", "least popular")):
            items, share = (_get(report, "length", "groups", group, key) for key in ("items", "event_share"))
            label = f"… in the {group}, the {items:,} {which}, {_show('{:.1%}', share)} of events"
            one(label, "{:.3f}", "length", "groups", group, "mean_length")
        one("… rank correlation with popularity", "{:+.3f}", "length", "popularity_correlation")
        view.add_row("items of 1, 2, … content tokens", _listed("{:,}", histogram))
        pair("squared error of the rebuilt content", "{:.4f}", "reconstruction", "chosen_length")
    if _get(report, "length", "with_suffix"):
        pair("tokens per item with the disambiguation token", "{:.3f}", "length", "full")
    view.add_section()
    view.add_row("different content codes (% of items)", _distinct(report))
    pair("items that share their content code", "{:.1%}", "collisions", "shared")
    one("most items with one content code", "{:,}", "collisions", "largest_group")
    view.add_row("content codes of 1, 2, 3, 4, more items", _group_sizes(report))
    before, after = (_get(report, "collisions", when, "items") for when in ("before", "after"))
    if before is not None:
        policy = _get(report, "collisions", "policy")
        view.add_row(f"items that share a code before, after sid_collisions={policy}", f"{before:,} → {after:,}")
    if _get(report, "collisions", "moved") is not None:
        one("… items moved to another code", "{:,}", "collisions", "moved")
    return view


def _by_position(report):
    positions = _get(report, "positions")
    shown = range(min(len(positions), SHOWN_POSITIONS))
    view = _new_table("By position of the content code")
    if len(positions) > SHOWN_POSITIONS:
        view.title += f" (the first {SHOWN_POSITIONS} of {len(positions)})"
    for t in shown:
        view.add_column(str(t + 1), justify="right")

    def row(label, form, *path):
        """``path`` ends in the key of a value; before it comes the position."""
        view.add_row(label, *(_cell(form, *path[:-1], t, path[-1])(report) for t in shown))

    sizes = _get(report, "vocab_sizes")
    row("items with a token here", "{:,}", "positions", "items")
    view.add_row("codes in use / in the vocabulary", *(f"{positions[t]['used']}/{sizes[t]}" for t in shown))
    row("dead codes, which no item has", "{:,}", "positions", "dead")
    row("share of the items with the most frequent code", "{:.1%}", "positions", "top_share")
    row("perplexity", "{:.1f}", "positions", "perplexity")
    row("perplexity given the tokens before", "{:.1f}", "positions", "conditional_perplexity")
    row("entropy, nats", "{:.3f}", "positions", "entropy")
    row("entropy given the tokens before, nats", "{:.3f}", "positions", "conditional_entropy")
    if _get(report, "reconstruction"):
        view.add_section()
        row("squared error after this token", "{:.4f}", "reconstruction", "prefixes", "items")
        row("squared error after this token, by events", "{:.4f}", "reconstruction", "prefixes", "events")
    if _get(report, "content_similarity"):
        view.add_section()
        row("items that share all tokens so far with another", "{:.1%}", "content_similarity", "prefixes", "items")
        random = _cell("{:.3f}", "content_similarity", "random")(report)
        row(f"… their cosine (two random items: {random})", "{:.3f}", "content_similarity", "prefixes", "cosine")
        aligned = (_alignment(t + 1)(report) for t in shown)
        view.add_row("cosine of items with this code under other prefixes", *aligned)
    if _get(report, "cooccurrence"):
        view.add_section()
        pairs = _cell("{:,}", "cooccurrence", "pairs")(report)
        row(f"neighbours ({pairs}) that share all tokens so far", "{:.2%}", "cooccurrence", "prefixes", "recall")
        row("… times as often as by chance", "{:.1f}", "cooccurrence", "prefixes", "lift")
    return view


# ---------------------------------------------------------------------- cells


def _new_table(title):
    view = Table(title=title, title_justify="left")
    view.add_column("")
    return view


def wide_console():
    """The terminal, or 120 columns where the output goes to a file, which rich would take for 80."""
    return Console(width=None if sys.stdout.isatty() else 120)


def _explain(console):
    for line in TERMS:
        console.print(line, style="dim", highlight=False)


def _get(report, *path):
    """The value at a path of keys and list positions; None where the path ends early."""
    for key in path:
        if isinstance(report, list):
            report = report[key] if key < len(report) else None
        elif report is not None:
            report = report.get(key)
    return report


def _show(form, value):
    return NOTHING if value is None else form.format(value)


def _listed(form, values):
    texts = [_show(form, value) for value in values[:SHOWN_POSITIONS]]
    return " ".join(texts + ["…"] * (len(values) > SHOWN_POSITIONS)) or NOTHING


def _cell(form, *path):
    """A function report → text of the value at ``path``."""
    return lambda report: _show(form, _get(report, *path))


def _levels(form, key):
    """A function report → text of the value ``key`` of every position."""
    return lambda report: _listed(form, [_get(each, key) for each in _get(report, "positions") or []])


def _alignment(position):
    return _cell("{:+.3f}", "code_alignment", position - 2, "cross_parent") if position > 1 else lambda report: NOTHING


def _neighbours(n_tokens):
    def cell(report):
        figures = _get(report, "cooccurrence", "prefixes", n_tokens - 1)
        recall, lift = (_get(figures, key) for key in ("recall", "lift"))
        return _show("{:.2%}", recall) + ("" if lift is None else f" ({lift:.1f}×)")

    return cell


def _vocabulary(report):
    sizes = _get(report, "vocab_sizes")
    return f"{sizes[0]} for all" if _get(report, "shared_vocabulary") else _listed("{}", sizes)


def _distinct(report):
    count, share = (_get(report, "collisions", key) for key in ("distinct_codes", "distinct_share"))
    return NOTHING if count is None else f"{count:,} ({share:.1%})"


def _group_sizes(report):
    counts = {each["size"]: each["groups"] for each in _get(report, "collisions", "group_sizes")}
    few = [counts.pop(size, 0) for size in range(1, SHOWN_SIZES + 1)]
    return _listed("{:,}", [*few, sum(counts.values())])


COMPARISON = (
    (
        ("item content", lambda report: " + ".join(_get(report, "content") or [NOTHING])),
        ("making the content, seconds", _cell("{:,.1f}", "content_seconds")),
        ("fitting the tokenizer, seconds", _cell("{:,.1f}", "fit_seconds")),
        ("peak memory of the process, MB", _cell("{:,}", "peak_memory_mb")),
    ),
    (
        ("vocabulary", _vocabulary),
        ("content tokens per item, by events", _cell("{:.3f}", "length", "content", "events")),
        ("all tokens per item, by events", _cell("{:.3f}", "length", "full", "events")),
        ("rank correlation of length and popularity", _cell("{:+.3f}", "length", "popularity_correlation")),
    ),
    (
        ("different content codes (% of items)", _distinct),
        ("items sharing a code before sid_collisions", _cell("{:.1%}", "collisions", "before", "item_share")),
        ("items sharing a code afterwards", _cell("{:.1%}", "collisions", "after", "item_share")),
        ("most items with one content code", _cell("{:,}", "collisions", "largest_group")),
    ),
    (
        ("codes in use", _levels("{:.0%}", "usage")),
        ("dead codes", _levels("{:,}", "dead")),
        ("items with the most frequent code", _levels("{:.1%}", "top_share")),
        ("perplexity", _levels("{:.1f}", "perplexity")),
        ("perplexity given the tokens before", _levels("{:.1f}", "conditional_perplexity")),
        ("entropy given the tokens before, nats", _levels("{:.2f}", "conditional_entropy")),
    ),
    (
        ("cosine of two random items", _cell("{:.3f}", "content_similarity", "random")),
        ("cosine of items that share 1 token", _cell("{:.3f}", "content_similarity", "prefixes", 0, "cosine")),
        ("cosine of items that share 2 tokens", _cell("{:.3f}", "content_similarity", "prefixes", 1, "cosine")),
        ("cosine, code 2 under other prefixes", _alignment(2)),
        ("squared error of the reconstruction", _cell("{:.4f}", "reconstruction", "chosen_length", "items")),
    ),
    (
        ("neighbours that share 1 token (× chance)", _neighbours(1)),
        ("neighbours that share 2 tokens (× chance)", _neighbours(2)),
    ),
)
