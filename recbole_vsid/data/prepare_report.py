"""The summary of ``prepare`` for the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from recbole_vsid.semantic_id.report import wide_console

EXAMPLE_WIDTH = 40


def print_summary(summary, console=None):
    """Print what :func:`~recbole_vsid.data.prepare.prepare` returned: events, item columns, notes, what is next.

    Args:
        summary: that dict.
        console: a ``rich.console.Console``; stdout by default.
    """
    console = console or wide_console()
    console.print(_events(summary))
    console.print(_spreads(summary))
    if "item_columns" in summary:
        console.print(_columns(summary))
    for note in summary["notes"]:
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written: {', '.join(summary['files'])}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Next: {summary['next']}", markup=False, highlight=False, soft_wrap=True)


def _events(summary):
    view = Table(title=f"Dataset {summary['dataset']}", title_justify="left", show_header=False)
    for label in ("users", "items", "events"):
        view.add_row(label, f"{summary[label]:,}")
    view.add_row("density", f"{summary['density']:.4%}")
    time = summary["time"]
    view.add_row("time", f"{time['first']} to {time['last']}")
    if time["row_order"]:
        view.add_row("… read as", "the order of the rows")
    elif time["unit"] is None:
        view.add_row("… read as", "numbers without a unit, kept as they are")
    else:
        decimals = "with up to 6 decimals" if time["fractions"] else "all of them whole"
        view.add_row("… read as", f"{time['unit']}, written as seconds, {decimals}")
    view.add_row("columns read as user, item, time", escape(", ".join(summary["columns"].values())))
    view.add_section()
    view.add_row("rows read", f"{summary['rows_read']:,}")
    for reason, count in summary["rows_dropped"].items():
        view.add_row(f"… dropped: {reason}", f"{count:,}")
    view.add_row("events with an item the user has had before", f"{summary['repeated_items']:.1%}")
    view.add_section()
    view.add_row("users that are tested (3 events or more)", f"{summary['users_tested']:.1%}")
    view.add_row("users that are validated (4 events or more)", f"{summary['users_validated']:.1%}")
    if "item_columns" in summary:
        view.add_section()
        view.add_row("items with events and no row in the item table", f"{summary['items_without_row']:,}")
        view.add_row("items with events and no text or category", f"{summary['items_without_text']:,}")
        view.add_row("items without events, left out", f"{summary['items_left_out']:,}")
    return view


def _spreads(summary):
    view = Table(title="Events", title_justify="left")
    view.add_column("")
    for name in summary["events_per_user"]:
        view.add_column(name, justify="right")
    for label in ("user", "item"):
        view.add_row(f"per {label}", *(f"{value:,.4g}" for value in summary[f"events_per_{label}"].values()))
    return view


def _columns(summary):
    view = Table(title="Item columns", title_justify="left")
    for name, justify in (
        ("column", "left"),
        ("type", "left"),
        ("filled", "right"),
        ("distinct values", "right"),
        ("example", "left"),
    ):
        view.add_column(name, justify=justify)
    for name, column in summary["item_columns"].items():
        example = column["example"]
        example = example if len(example) <= EXAMPLE_WIDTH else example[: EXAMPLE_WIDTH - 1] + "…"
        cells = (name, column["type"], f"{column['filled']:.1%}", f"{column['distinct']:,}", example)
        view.add_row(*map(escape, cells))
    return view
