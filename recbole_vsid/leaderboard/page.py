"""``leaderboard.html``: tables, pictures and the protocol on one page that needs no network."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs

from recbole_vsid.evaluation.collector import PROTOCOL_NAMES
from recbole_vsid.leaderboard import report
from recbole_vsid.leaderboard.figures import figures
from recbole_vsid.leaderboard.summary import BETTER, UNCLEAR, WORSE, boards, published

MARKS = {
    BETTER: '<span class="better" title="better than the best baseline">▲</span>',
    WORSE: '<span class="worse" title="worse than the best baseline">▼</span>',
}


def write_reports(records, failures, output_dir, wanted=()):
    """Write ``leaderboard.md``, ``.csv`` and ``.html``.

    Args:
        records: of finished runs, in the order in which they were made.
        failures: run → reason.
        output_dir: where the files go.
        wanted: keys of runs to be shown where an entry was run with several settings.

    Returns:
        list of the paths written.
    """
    folder, found = Path(output_dir), boards(list(records), wanted)
    return [
        report.write(folder / "leaderboard.md", report.markdown(found, failures)),
        report.write(folder / "leaderboard.csv", report.plain(found).to_csv(index=False)),
        report.write(folder / "leaderboard.html", page(found, failures)),
    ]


def page(all_boards, failures):
    """The page as text."""
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    names = [(f"board{index}", board) for index, board in enumerate(all_boards)]
    links = "".join(f'<a href="#{name}">{escape(board.dataset)}</a>' for name, board in names)
    return template.substitute(
        navigation=f"<nav>{links}</nav>" if len(names) > 1 else "",
        legend=escape(report.LEGEND),
        boards="".join(_section(name, board) for name, board in names),
        failures=_failures(failures),
        plotly=get_plotlyjs(),
    )


def _section(name, board):
    parts = [
        f'<section id="{name}"><h2>{escape(board.dataset)}</h2>',
        _headline(board),
        _table(board),
        *(_figure(f"{name}-{index}", *found) for index, found in enumerate(figures(board))),
        _protocol(board),
        _entries(board),
        "</section>",
    ]
    return "".join(parts)


def _headline(board):
    """Who leads under each protocol, in a sentence, whoever it is."""
    sentences = []
    for protocol, label in PROTOCOL_NAMES.items():
        metric = board.table_metrics[0]
        first = max(board.rows, key=lambda row: row.metrics[protocol, metric].mean)
        best = board.best_baseline[protocol]
        sentence = f"{label}: {first.entry} leads with {report.metric_name(metric)} " + report.figure(
            first.metrics[protocol, metric].mean
        )
        if best is not None and first.entry != best:
            verdict = first.verdicts.get((protocol, metric))
            words = {
                BETTER: "by more than chance",
                UNCLEAR: "by no more than chance",
                None: "with too few seeds to test it",
            }
            sentence += f", ahead of {best}, the best baseline, {words[verdict]}"
        sentences.append(escape(sentence))
    return f'<p class="headline">{"; ".join(sentences)}.</p>'


def _table(board):
    costs = list(report.costs(board.rows[0]))
    spans = "".join(f'<th colspan="2">{label}</th>' for label in PROTOCOL_NAMES.values())
    metrics = [report.metric_name(metric) for metric in board.table_metrics]
    heads = ["model", *metrics * len(PROTOCOL_NAMES), *costs]
    spans += f'<th colspan="{len(costs)}">cost</th>'
    has_published = bool(report.sources(board))
    if has_published:
        heads.append(" / ".join(metrics))
        spans += '<th class="published">published, not measured here</th>'
    head = "".join(f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in heads)
    body = "".join(_row(board, row, has_published) for row in board.rows)
    return (
        f'<div class="wide"><table class="board"><thead><tr><th></th>{spans}</tr><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(board, row, has_published):
    cells = [f'<th scope="row" data-value="{escape(row.entry)}">{escape(row.entry)}</th>']
    for protocol in PROTOCOL_NAMES:
        for metric in board.table_metrics:
            estimate = row.metrics[protocol, metric]
            best = " best" if row.entry == board.best_baseline[protocol] else ""
            interval = "" if estimate.half_width is None else f"± {report.figure(estimate.half_width)}"
            interval += "°" if estimate.over == "users" else ""
            mark = MARKS.get(row.verdicts.get((protocol, metric)), "")
            most = max(each.metrics[protocol, metric].mean for each in board.rows)
            share = estimate.mean / most if most else 0
            cells.append(
                f'<td class="metric{best}" data-value="{estimate.mean}" style="--share:{100 * share:.1f}%">'
                f"{report.figure(estimate.mean)} <small>{interval}</small> {mark}</td>"
            )
    for text in report.costs(row).values():
        cells.append(f'<td data-value="{_sortable(text)}">{escape(text)}</td>')
    if has_published:
        source = escape((published(board.dataset, row.entry) or {}).get("source", ""))
        cells.append(f'<td class="published" title="{source}">{escape(report.published_figures(board, row))}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _sortable(text):
    """Seconds of a duration, the number at the start of another text, else the text."""
    units = {"s": 1, "min": 60, "h": 3600}
    times = re.fullmatch(r"(?:(\d+) h )?(\d+) (s|min)", text)
    if times:
        return int(times[1] or 0) * units["h"] + int(times[2]) * units[times[3]]
    number = re.match(r"[\d.]+", text)
    return number[0] if number else escape(text)


def _figure(name, title, note, chart):
    data = chart.to_json().replace("</", "<\\/")
    return (
        f'<figure><h3>{escape(title)}</h3><p class="note">{escape(note)}</p><div class="chart" id="{name}"></div>'
        f'<script type="application/json" data-chart="{name}">{data}</script></figure>'
    )


def _protocol(board):
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in report.facts(board).items())
    left_out = f"<p>{report.left_out(board)}</p>" if board.left_out else ""
    return f"<h3>The protocol</h3><dl>{rows}</dl>{left_out}"


def _entries(board):
    parts = []
    for entry, (how, command) in report.per_entry(board).items():
        parts.append(f"<dt>{escape(entry)}</dt><dd>{escape(how)}<br><code>{escape(command)}</code></dd>")
    sources = report.sources(board)
    note = f"<p>Published figures, under the papers' own settings: {escape(sources)}.</p>" if sources else ""
    return f"<h3>Each model</h3><dl>{''.join(parts)}</dl>{note}"


def _failures(failures):
    rows = "".join(f"<li>{escape(run.name)}: {escape(reason)}</li>" for run, reason in failures.items())
    return f"<section><h2>Failed</h2><ul>{rows}</ul></section>" if failures else ""
