"""The pictures of a board, as plotly figures.

An entry has the same colour everywhere; models without semantic IDs are squares and dashed lines. The two protocols
stand side by side, never in one axis.
"""

from __future__ import annotations

import math

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from recbole_vsid.evaluation.breakdown import GROUPS
from recbole_vsid.evaluation.collector import PROTOCOL_NAMES
from recbole_vsid.leaderboard.labels import label_positions
from recbole_vsid.leaderboard.report import figure, metric_name

# Okabe and Ito's colours, which the colour-blind can tell apart, then darker and lighter ones.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#8E44AD", "#5F6B6D", "#B03A2E",
           "#1F8A70", "#34495E")  # fmt: skip
LEAST_COST = 1e-3  # what a logarithmic axis can show of nothing
CLEAR = "rgba(0,0,0,0)"  # the page's ground, light or dark


def figures(board):
    """Title and note → figure, for everything there are data for.

    Returns:
        list of (title, note, :class:`plotly.graph_objects.Figure`).
    """
    metric, grouped = metric_name(board.table_metrics[0]), by_popularity(board)
    found = [
        (
            f"{metric} against the time to train",
            "Tokenizer and training together. Up and to the left is better. Whiskers: 95 % intervals.",
            against_cost(board, "seconds of tokenizer and training", lambda row: row.seconds),
        ),
        (
            f"{metric} against the time of one request",
            "Median time to rank the catalogue for one user.",
            against_cost(board, "milliseconds for one user", lambda row: row.mean("request_ms")),
        ),
        (
            f"Whose targets are found: {metric} by popularity of the target",
            _group_note(board) if grouped else "",
            grouped,
        ),
        (
            "Tokens per item",
            "Positions that an event of a history takes in the model, on average over the training events.",
            tokens_per_item(board),
        ),
        (
            "Learning curves",
            "Validation score after each validation, one line per seed, against training time without the tokenizer. "
            "How each model is validated is said below; some on a sample of users with a narrower beam.",
            learning_curves(board),
        ),
    ]
    return [(title, note, chart) for title, note, chart in found if chart is not None]


def colours(board):
    """Entry → colour, the same whatever the order of the table."""
    return {entry: COLOURS[index % len(COLOURS)] for index, entry in enumerate(sorted(row.entry for row in board.rows))}


def _two_protocols(**axes):
    return make_subplots(1, len(PROTOCOL_NAMES), subplot_titles=list(PROTOCOL_NAMES.values()), **axes)


def _finish(chart, height=420, **layout):
    chart.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        modebar={"bgcolor": CLEAR},
        legend={"groupclick": "togglegroup"},
        font={"size": 13},
        **layout,
    )
    for axes in (chart.update_xaxes, chart.update_yaxes):
        axes(gridcolor="rgba(128,128,128,0.25)", zerolinecolor="rgba(128,128,128,0.4)")
    return chart


def against_cost(board, axis, cost):
    """NDCG against a cost on a logarithmic axis."""
    chart, colour, metric = _two_protocols(shared_xaxes=True), colours(board), board.table_metrics[0]
    costs = [max(cost(row), LEAST_COST) for row in board.rows]
    left, right = math.log10(min(costs)) - 0.4, math.log10(max(costs)) + 0.4
    for column, protocol in enumerate(PROTOCOL_NAMES, 1):
        estimates = [row.metrics[protocol, metric] for row in board.rows]
        top = 1.4 * max(estimate.mean for estimate in estimates) or 1  # a wide interval may leave the picture
        positions = label_positions(
            [(math.log10(value) - left) / (right - left) for value in costs],
            [estimate.mean / top for estimate in estimates],
            [(estimate.half_width or 0) / top for estimate in estimates],
            [row.entry for row in board.rows],
        )
        for row, x, estimate, position in zip(board.rows, costs, estimates, positions):
            symbol = "square" if row.is_baseline else "circle"
            chart.add_trace(
                go.Scatter(
                    x=[x], y=[estimate.mean], name=row.entry, mode="markers+text", text=[row.entry],
                    textposition=position,
                    marker={"color": colour[row.entry], "size": 12, "symbol": symbol},
                    error_y={"array": [estimate.half_width or 0], "thickness": 1.2},
                    hovertemplate=f"{row.entry}<br>%{{x:.3g}} {axis}<br>{metric_name(metric)} {figure(estimate.mean)}"
                    "<extra></extra>",
                ),
                1, column,
            )  # fmt: skip
        chart.update_yaxes(range=[0, top], col=column)
    chart.update_xaxes(type="log", title=axis, range=[left, right])
    chart.update_yaxes(title=metric_name(metric), col=1)
    return _finish(chart, showlegend=False)


def by_popularity(board):
    """NDCG for targets among head, mid and tail items; None if no record tells it."""
    chart, colour, metric = _two_protocols(shared_yaxes=True), colours(board), board.table_metrics[0]
    rows = _rows_with_groups(board)
    for column, protocol in enumerate(PROTOCOL_NAMES, 1):
        for row in rows:
            chart.add_trace(
                go.Bar(
                    x=GROUPS, y=[_group_mean(row, protocol, group, metric) for group in GROUPS], name=row.entry,
                    legendgroup=row.entry, showlegend=column == 1, marker={"color": colour[row.entry]},
                    hovertemplate=f"{row.entry}, %{{x}}<br>{metric_name(metric)} %{{y:.4f}}<extra></extra>",
                ),
                1, column,
            )  # fmt: skip
    chart.update_yaxes(title=metric_name(metric), col=1)
    return _finish(chart, barmode="group") if rows else None


def _group_mean(row, protocol, group, metric):
    values = [record["test_breakdown"][protocol][group].get(metric) for record in row.records]
    return None if None in values else sum(values) / len(values)


def _rows_with_groups(board):
    return [
        row
        for row in board.rows
        if all(record["test_breakdown"].get("cutoff") == board.cutoff for record in row.records)
    ]


def _group_note(board):
    groups = _rows_with_groups(board)[0].records[0]["test_breakdown"]["groups"]
    sizes = [f"{name} {size['items']:,} items, {size['targets']:,} targets" for name, size in groups.items()]
    return "Items by how many users had consumed them, each group a third of all consumption: " + "; ".join(sizes) + "."


def tokens_per_item(board):
    """Tokens that an event takes in the model."""
    colour = colours(board)
    rows = sorted(board.rows, key=lambda row: -row.mean("tokens_per_item"))
    chart = go.Figure(
        go.Bar(
            y=[row.entry for row in rows], x=[row.mean("tokens_per_item") for row in rows], orientation="h",
            marker={"color": [colour[row.entry] for row in rows]},
            text=[f"{row.mean('tokens_per_item'):.2f}" for row in rows], textposition="auto",
            hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        )
    )  # fmt: skip
    chart.update_xaxes(title="tokens per item of the history")
    chart.update_yaxes(automargin=True)
    return _finish(chart, height=80 + 28 * len(rows))


def learning_curves(board):
    """Validation score against training seconds or epochs; None if nothing was validated."""
    chart, colour, epochs = go.Figure(), colours(board), []
    for row in board.rows:
        for number, record in enumerate(row.records):
            points = record["learning_curve"]
            if points:
                epochs.append([point["epoch"] for point in points])
                chart.add_trace(
                    go.Scatter(
                        x=[point["seconds"] for point in points], y=[point["valid_score"] for point in points],
                        name=row.entry, legendgroup=row.entry, showlegend=number == 0,
                        mode="lines+markers" if len(points) < 30 else "lines", opacity=0.8, marker={"size": 5},
                        line={"color": colour[row.entry], "dash": "dash" if row.is_baseline else "solid"},
                        hovertemplate=f"{row.entry}, seed {record['seed']}<br>%{{y:.4f}}<extra></extra>",
                    )
                )  # fmt: skip
    if not epochs:
        return None
    seconds = [list(trace.x) for trace in chart.data]
    choices = [("training seconds", seconds, "log"), ("epochs", epochs, "linear")]
    buttons = [
        {"label": label, "method": "update", "args": [{"x": values}, {"xaxis.title.text": label, "xaxis.type": kind}]}
        for label, values, kind in choices
    ]
    chart.update_xaxes(title="training seconds", type="log")
    chart.update_yaxes(title="validation score")
    place = {"x": 0, "xanchor": "left", "y": 1.14, "yanchor": "top", "font": {"color": "#0072B2"}}
    return _finish(chart, updatemenus=[{"buttons": buttons, "type": "buttons", "direction": "right", **place}])
