"""An HTML page about several runs in one file, without external content: figures, tables, claims and settings."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from mpinewton.errors import DataError
from mpinewton.report.chart import chart, is_installed, library
from mpinewton.report.curves import AXES
from mpinewton.report.figures import draw
from mpinewton.report.provenance import provenance
from mpinewton.report.reading import RunRecord
from mpinewton.report.tables import Table, tables

PLAIN = "Figures to zoom, hover and filter need plotly: pip install mpinewton[report]"
NONE = "Figures need plotly or matplotlib: pip install mpinewton[report]"
FILTER = '<label>Filter <input id="filter" type="search" placeholder="labels, such as newton lbfgs"></label>'
STYLES = {"holds": "good", "does not hold": "bad"}


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Attributes
    ----------
    title, text : str
        Heading and introduction.
    problems : dict of str to list of RunRecord
        The runs of each problem, a section each.
    claims : sequence of (str, Table)
        Headings and tables: the first one above the problems, the others below.
    axes : sequence of str
        Horizontal axes of the figures.
    quantity : str, optional
        Of the figures; by default see `curves.choose_quantity`.
    bits_per_float : int, optional
        Restate the bits as if a float had this many; by default as measured.
    command, digest : str
        The command that generates the page, and the digest of the experiment.
    """

    title: str
    problems: Mapping[str, Sequence[RunRecord]]
    text: str = ""
    claims: Sequence[tuple[str, Table]] = ()
    axes: Sequence[str] = tuple(AXES)
    quantity: str | None = None
    bits_per_float: int | None = None
    command: str = ""
    digest: str = ""

    def html(self, live: bool = False) -> str:
        """The page as HTML. A live one asks its server for `main` every 2 s.

        Scripts run only if their digest is in the policy of the page, whatever a label or a setting contains.
        """
        style, script = (Path(__file__).with_name(f"page.{end}").read_text(encoding="utf-8") for end in ("css", "js"))
        scripts = [*([library()] if is_installed() else []), script]
        allowed = " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts
        )
        policy = f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"
        policy += "; connect-src 'self'" if live else ""
        alive = '<span id="live">Updated every 2 s.</span>' if live else ""
        return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(self.title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{escape(self.title)}</h1>
<div class="filter">{FILTER}{alive}</div>
<main>
{self.main()}
</main>
{"".join(f"<script>{s}</script>" for s in scripts)}
</body>
</html>
"""

    def main(self) -> str:
        """What changes while runs are in progress."""
        parts = [f"<p>{escape(block)}</p>" for block in self.text.strip().split("\n\n") if block]
        if not is_installed():
            parts.append(f"<p>{PLAIN if _has_matplotlib() else NONE}</p>")
        if len(self.problems) > 1:
            links = "".join(f'<li><a href="#p{n}">{escape(name)}</a></li>' for n, name in enumerate(self.problems))
            parts.append(f"<nav><ul>{links}</ul></nav>")
        for heading, table in self.claims[:1]:
            parts += [f"<h2>{escape(heading)}</h2>", _table(table, "claims")]
        parts += [self._section(f"p{n}", name, runs) for n, (name, runs) in enumerate(self.problems.items())]
        for heading, table in self.claims[1:]:
            parts += [f"<h2>{escape(heading)}</h2>", _table(table, "claims")]
        facts = provenance([run for runs in self.problems.values() for run in runs], self.digest, self.command)
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
        return "\n".join([*parts, f"<h2>Provenance</h2>\n<dl>{rows}</dl>"])

    def _section(self, anchor: str, name: str, runs: Sequence[RunRecord]) -> str:
        parts = [f'<h2 id="{anchor}">{escape(name)}</h2>']
        try:
            parts.append(self._figure(name, runs))
            for heading, group in tables(runs, self.bits_per_float).items():
                parts += [f"<h3>{escape(heading)}</h3>"] if heading else []
                parts += map(_table, group)
        except DataError as error:  # no run has recorded an iterate yet
            parts.append(f"<p>{escape(str(error))}</p>")
        return "\n".join([*parts, *(_settings(f"{anchor}-{n}", run) for n, run in enumerate(runs))])

    def _figure(self, name: str, runs: Sequence[RunRecord]) -> str:
        options = (self.axes, self.quantity, self.bits_per_float)
        marked = mark_travelling(runs)
        if is_installed():
            data = json.dumps(chart(marked, *options)).replace("<", "\\u003c")
            return (
                f'<figure class="chart" aria-label="{escape(name, quote=True)}"><div class="axes"></div>'
                f'<div class="plot"></div><div class="legend"></div>'
                f'<script type="application/json">{data}</script></figure>'
            )
        if not _has_matplotlib():
            return ""
        with TemporaryDirectory() as folder:
            figure, _ = draw(marked, Path(folder) / "figure.svg", *options)
            content = base64.b64encode(figure.read_bytes()).decode()
        names = escape(", ".join(run.label for run in runs), quote=True)
        return f'<figure class="still"><img alt="Curves of {names}" src="data:image/svg+xml;base64,{content}"></figure>'


def mark_travelling(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs, with labels that say whose rows travel if those of others do not."""
    mixed = len({run.rows_travel for run in runs}) == 2
    return [replace(run, label=f"{run.label} (rows travel)") if mixed and run.rows_travel else run for run in runs]


def _has_matplotlib() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _table(table: Table, kind: str = "") -> str:
    labels = ("" if kind else f' data-label="{escape(row[0], quote=True)}"' for row in table.rows)
    heads = "".join(
        f'<th{_word(n, table)}><button type="button">{escape(cell)}</button></th>'
        for n, cell in enumerate(table.header)
    )
    rows = "\n".join(
        f"<tr{label}>{''.join(_cell(n, cell, table) for n, cell in enumerate(row))}</tr>"
        for label, row in zip(labels, table.rows)
    )
    body = f"<thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody>"
    return f'<div class="wide {kind}" tabindex="0"><table>{body}</table></div>'


def _cell(number: int, cell: str, table: Table) -> str:
    style = STYLES.get(cell, "") if table.header[number] == "verdict" else ""
    return f"<td{_word(number, table, style)}>{escape(cell)}</td>"


def _word(number: int, table: Table, style: str = "") -> str:
    words = " ".join(filter(None, ("word" if number < table.words else "", style)))
    return f' class="{words}"' if words else ""


def _settings(anchor: str, run: RunRecord) -> str:
    content = json.dumps({"config": run.config, "result": run.result}, indent=2, default=str, ensure_ascii=False)
    label = escape(run.label, quote=True)
    return (
        f'<details id="{anchor}" data-label="{label}"><summary>{label}: settings and result</summary>'
        f"<pre>{escape(content)}</pre></details>"
    )
