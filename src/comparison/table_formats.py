"""A comparison as CSV, JSON, Markdown or LaTeX. Names and values of runs are escaped as text."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from src.comparison.config_keys import format_value
from src.comparison.console_table import texts
from src.comparison.statistics import Sample
from src.comparison.view import Row, View
from src.core.escape import csv_cell, latex, markdown, markdown_table
from src.run_store.config_file import to_plain
from src.run_store.recorded_run import is_number

Tables = Sequence[tuple[View, Sequence[str]]]
"""Views, each with its columns."""


def to_csv(tables: Tables) -> str:
    """Return one table with a line for each config, in full precision.

    Text that begins like a formula of a spreadsheet gets an apostrophe in front.
    """
    rows = [_numbers(view, row, columns) for view, columns in tables for row in view.rows]
    heads = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([csv_cell(head) for head in heads])
    writer.writerows([_cell(row.get(head)) for head in heads] for row in rows)
    return text.getvalue()


def to_json(tables: Tables) -> str:
    """Return each view with its rows, and the runs of each row."""
    entries = [
        {
            "metric": view.metric,
            "mode": view.mode,
            "test": view.test or None,
            "rows": [
                _numbers(view, row, columns) | {"repetitions": [_run(run) for run in row.runs]} for row in view.rows
            ],
        }
        for view, columns in tables
    ]
    return json.dumps(to_plain(entries), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(tables: Tables) -> str:
    """Return a table for each view."""
    parts = []
    for view, columns in tables:
        head, *body = texts(view, columns, view.rows)
        heads, *lines = ([markdown(cell) for cell in cells] for cells in (head, *body))
        parts.append(f"{markdown(view.title)}\n\n" + markdown_table(heads, lines) + "\n")
    return "\n".join(parts)


def to_latex(tables: Tables) -> str:
    """Return a table for each view, in the style of booktabs; the best row is bold."""
    parts = []
    for view, columns in tables:
        head, *body = texts(view, columns, view.rows)
        lines = [[latex(cell) for cell in cells] for cells in body]
        lines = [
            [rf"\textbf{{{cell}}}" if cell else "" for cell in cells] if row.rank == 1 else cells
            for row, cells in zip(view.rows, lines, strict=True)
        ]
        rows = [" & ".join(cells) + r" \\" for cells in lines]
        parts.append(
            "\n".join(
                [
                    f"% {latex(view.title)}; needs \\usepackage{{booktabs}}",
                    rf"\begin{{tabular}}{{{'r' * 2}{'l' * (len(head) - 2)}}}",
                    r"\toprule",
                    " & ".join(map(latex, head)) + r" \\",
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    "",
                ]
            )
        )
    return "\n".join(parts)


WRITERS: dict[str, Callable[[Tables], str]] = {
    "csv": to_csv,
    "json": to_json,
    "markdown": to_markdown,
    "latex": to_latex,
}


def _numbers(view: View, row: Row, columns: Sequence[str]) -> dict[str, Any]:
    """Return a row in full precision."""
    score = row.score
    low, high = score.interval if score and score.interval else (None, None)
    cells: dict[str, Any] = {
        "rank": row.rank,
        "metric": view.metric,
        "mean": score.mean if score else None,
        "deviation": score.deviation if score else None,
        "low": low,
        "high": high,
        "p": row.p,
    }
    for column in columns:
        value = row.value(column)
        cells[column] = value.mean if isinstance(value, Sample) else value
    return cells


def _run(run: Any) -> dict[str, Any]:
    return {"run": run.name, "place": run.place, "status": run.status, "value": run.value, "seconds": run.seconds}


def _cell(value: Any) -> Any:
    """Return a number unchanged, and any other value as text that a spreadsheet does not read as a formula."""
    return value if value is None or is_number(value) else csv_cell(format_value(value))
