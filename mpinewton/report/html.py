"""An HTML page about several runs in one file: figures, tables and settings, without scripts or external content."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from mpinewton.errors import DataError
from mpinewton.report.figures import draw
from mpinewton.report.reading import RunRecord
from mpinewton.report.tables import Table, rounds_to, summary

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #6b6b70; --line: #d9d9de; --paper: #ffffff; --code: #f5f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a0a0a8; --line: #3a3a40; --paper: #17171a; --code: #222226; }
}
body { margin: 2.5rem auto; max-width: 72rem; padding: 0 1.5rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 3rem; } p, caption { color: var(--soft); }
figure { margin: 1.5rem 0; background: #ffffff; border-radius: 6px; padding: 0.75rem; }
img { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1.5rem 0; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.5rem; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { white-space: nowrap; } .word { text-align: left; }
details { border-bottom: 1px solid var(--line); padding: 0.3rem 0; } summary { cursor: pointer; }
pre { background: var(--code); border-radius: 6px; padding: 1rem; overflow-x: auto; font-size: 0.8rem; }
@media print { body { margin: 0; max-width: none; } }
"""
DEFAULT_STARTS = ("auto", "zero")
# The page can neither run nor fetch anything, whatever a label or setting contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(runs: Sequence[RunRecord], title: str, bits_per_float: int | None = None) -> str:
    """The page as HTML, with a section for each problem.

    Parameters
    ----------
    runs : sequence of RunRecord
    title : str
    bits_per_float : int, optional
        Restate the bits as if a float had this many; by default as measured.
    """
    problems: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in runs:
        problems.setdefault(run.problem, []).append(run)
    sections = "\n".join(_section(group, bits_per_float) for group in problems.values())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{sections}
</body>
</html>
"""


def _section(runs: Sequence[RunRecord], bits_per_float: int | None) -> str:
    data, loss, l2, intercept, start = runs[0].problem
    words = [loss, f"l2 = {l2}", intercept, "" if start in DEFAULT_STARTS else f"start {Path(start).name}"]
    name = Path(str(runs[0].config.get("data", ""))).name
    heading = f"<h2>{escape(', '.join(filter(None, words)))}</h2>\n<p>data {escape(f'{name} {data}')}</p>"
    settings = "\n".join(map(_settings, runs))
    try:
        tables = _table(summary(runs, bits_per_float), "Status and cost of each run")
        tables += _table(rounds_to(runs), "Rounds to reach each value; - if it is not reached")
        return f"{heading}\n{_picture(runs, bits_per_float)}\n{tables}\n{settings}"
    except DataError as error:  # no run has recorded an iterate yet
        return f"{heading}\n<p>{escape(str(error))}</p>\n{settings}"


def _picture(runs: Sequence[RunRecord], bits_per_float: int | None) -> str:
    with TemporaryDirectory() as folder:
        figure, _ = draw(runs, Path(folder) / "figure.svg", bits_per_float=bits_per_float)
        content = base64.b64encode(figure.read_bytes()).decode()
    names = escape(", ".join(run.label for run in runs), quote=True)
    return f'<figure><img alt="Curves of {names}" src="data:image/svg+xml;base64,{content}"></figure>'


def _table(table: Table, caption: str) -> str:
    rows = "\n".join(f"<tr>{_cells(row, 'td', table.words)}</tr>" for row in table.rows)
    header = f"<thead><tr>{_cells(table.header, 'th', table.words)}</tr></thead>"
    return f'<div class="wide"><table><caption>{caption}</caption>{header}\n<tbody>{rows}</tbody></table></div>\n'


def _cells(cells: Sequence[str], tag: str, words: int) -> str:
    kinds = (' class="word"' if n < words else "" for n in range(len(cells)))
    return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells))


def _settings(run: RunRecord) -> str:
    content = json.dumps({"config": run.config, "result": run.result}, indent=2, default=str, ensure_ascii=False)
    return f"<details><summary>{escape(run.label)}: settings</summary><pre>{escape(content)}</pre></details>"
