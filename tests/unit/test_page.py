"""The HTML page about runs: its content, in a browser, and served while runs are in progress."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path

import msgspec
import numpy as np
import pytest
from browser import BROWSER, browser
from click.testing import CliRunner
from runfolders import STAR, make_run

from mpinewton.cli.report import command as report
from mpinewton.errors import ConfigError, DataError, MpinewtonError
from mpinewton.experiments.claims import Claim
from mpinewton.experiments.contents import Contents, document, page_of, read_page
from mpinewton.experiments.page import markdown_page
from mpinewton.report import html
from mpinewton.report.chart import MOST_POINTS, chart
from mpinewton.report.html import Page
from mpinewton.report.reading import by_problem, read_runs
from mpinewton.report.serve import serve

PLOTLY = importlib.util.find_spec("plotly") is not None
needs_plotly = pytest.mark.skipif(not PLOTLY, reason="plotly is not installed")


class Tags(HTMLParser):
    """Tags, words, pictures, and tables as lists of rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words, self.inside = "", 0
        self.pictures: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside += 1

    def handle_endtag(self, tag: str) -> None:
        self.inside -= tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.inside:
            self.tables[-1][-1][-1] += data


def page(folder: Path, title: str = "Title", **options) -> str:
    return Page(title, by_problem(read_runs([folder])), **options).html()


@pytest.fixture
def no_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "is_installed", lambda: False)


@pytest.mark.usefixtures("no_plotly")
def test_page_is_complete_in_itself_and_escapes_everything(tmp_path: Path) -> None:
    evil = "<script>alert('&\"')</script>"
    make_run(tmp_path / "a", [1, 0.1], label=evil, loss=evil, data_sha256=evil, reason=evil, ended="failed")
    make_run(tmp_path / "b", [1, 0.1], config={"note": evil})
    make_run(tmp_path / "c", [], ended="running")
    text = page(tmp_path, evil, text=evil)
    tags = Tags(text)
    assert tags.tags.count("script") == 1  # ours, whose digest is in the policy
    assert tags.words.count(evil) >= 6
    assert tags.tags.count("h2") == 4  # one section a problem, and the provenance
    assert "nothing to show" in tags.words
    assert html.PLAIN in tags.words
    assert len(tags.pictures) == 2
    for picture in tags.pictures:
        kind, _, content = picture.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert b"</svg>" in base64.b64decode(content, validate=True)
    assert not re.search(r"(src|href)=\"(?!data:|#p)", text)
    assert "https:" not in text


@pytest.mark.usefixtures("no_plotly")
def test_without_any_plotting_library_the_tables_remain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "_has_matplotlib", lambda: False)
    tags = Tags(page(make_run(tmp_path / "a", [1, 0.1])))
    assert html.NONE in tags.words
    assert len(tags.tables) == 3


def test_whatever_tells_problems_apart_gives_a_section_and_is_in_its_heading(tmp_path: Path) -> None:
    varied = ({}, {"start": "optimum+0.1"}, {"intercept": True}, {"dtype": "float32"}, {"test": "/far/test.csv"})
    for number, config in enumerate(varied):
        make_run(tmp_path / f"{number}", [1, 0.1], config={"data": "/some/where/a2a", **config})
    make_run(tmp_path / "other", [1, 0.1], config={"data": "/else/where/a2a"}, data_sha256="beef" * 16)
    assert list(by_problem(read_runs([tmp_path]))) == [
        "a2a, logistic, l2 = 0.001, data c0ffee",
        "a2a, logistic, l2 = 0.001, start optimum+0.1",
        "a2a, logistic, l2 = 0.001, intercept",
        "a2a, logistic, l2 = 0.001, float32",
        "a2a, logistic, l2 = 0.001, test data test.csv",
        "a2a, logistic, l2 = 0.001, data beefbeefbeef",
    ]


def comparison(folder: Path) -> Contents:
    """Two problems that differ in the start; rows of the second method travel."""
    runs = {}
    for problem in ("a/logistic", "a/logistic-optimum+0.1"):
        for label, gaps in (("NL1", [0.3, 1e-2, 1e-4]), ("ADIANA", [0.3, 0.2, 0.1, 1e-5])):
            name = f"{problem}/{label}"
            facts = {"rows_travel": label == "NL1", "arithmetic": "Some CPU; BLAS Haswell", "bits": "fast"}
            facts["versions"] = {"numpy": "2.4", "commit": "abcdef"}
            make_run(folder / name, gaps, index_bits=7, config={"start": problem[12:] or "zero"}, **facts)
            runs[name] = (problem, label)
    claim = Claim(says="NL1 needs fewer bits", better="NL1", than="ADIANA", measure="bits_up", gap=1e-3)
    return Contents(
        title="T", bits_per_float=32, claim=(claim,), runs=runs, digest="d1637", command="mpinewton compare x"
    )


def test_bits_and_verdicts_are_those_of_the_markdown_page(tmp_path: Path) -> None:
    contents = comparison(tmp_path)
    problems = contents.problems(tmp_path)
    shown = page_of(contents, problems)
    tags = Tags(shown.html())
    # Two tables of claims and, for two problems and two classes of methods, three each, in the order of the page.
    markdown = markdown_page(contents, problems, {})
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in markdown.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not set(row[0]) <= {"-"}]
    assert [row for table in tags.tables for row in table] == rows
    assert len(tags.tables) == 2 + 2 * 2 * 3
    assert "Mbit up (32 per float)" in tags.words
    assert tags.words.count("Rows travel to the driver") == 2
    for fact in ("Some CPU; BLAS Haswell", "commit abcdef", "d1637", "mpinewton compare x"):
        assert fact in tags.words
    known = document(shown)
    assert [run["bits_up"] for run in known["problems"]["a/logistic"]] == [2 * 327.0, 3 * 327.0]
    assert [claim["verdict"] for claim in known["claims"]] == ["holds", "holds"]
    drawn = chart(problems["a/logistic"], ["rounds", "bits"], None, 32)
    assert drawn["axes"][1]["curves"][0]["x"] == [0.0, 327.0, 654.0]
    assert drawn["axes"][0]["curves"][1]["y"] == [0.3, 0.2, 0.1, 1e-5]


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    (points,) = chart(read_runs([make_run(tmp_path / "a", 0.99 ** np.arange(5000))]), ["rounds"])["axes"][0]["curves"]
    assert len(points["x"]) == MOST_POINTS
    assert (points["x"][0], points["x"][-1]) == (0.0, 9998.0)


LONG = "averylonglabelwithoutanyspace-" * 4


@needs_plotly
@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_in_a_browser(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    contents = comparison(folder)
    make_run(folder / "long", 0.5 ** np.arange(30.0), reason=LONG, ended="budget")
    for seed in (0, 1):
        make_run(folder / f"s{seed}", [0.5, 0.1 + seed / 10], label=f"drawn, seed {seed}", history_sha256=f"{seed}")
    runs = contents.runs | {"long": ("a/logistic", LONG)}
    runs |= {f"s{seed}": ("a/logistic", f"drawn, seed {seed}") for seed in (0, 1)}
    contents = msgspec.structs.replace(contents, runs=runs, text=LONG)
    (tmp_path / "r.html").write_text(page_of(contents, contents.problems(folder)).html())
    with browser(tmp_path / "profile") as b:
        for width, scheme in ((1280, "light"), (390, "dark")):
            b.open((tmp_path / "r.html").as_uri(), width, scheme=scheme)
            b.wait(
                "document.querySelectorAll('.plot .trace.scatter').length == 2 * 2 + 9"
            )  # a line and its end; a band
            assert b.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width
            assert b.value(
                "[...document.querySelectorAll('.plot svg')].every(s => s.getBoundingClientRect().right <= innerWidth)"
            )
            assert b.value("getComputedStyle(document.body).colorScheme != ''")
            assert b.value("document.querySelectorAll('.modebar-btn').length") == 2 * 6
            assert not b.complaints
        dark = b.value("getComputedStyle(document.body).backgroundColor")
        assert dark == "rgb(23, 23, 26)"
        b.value("document.querySelectorAll('.axes button')[1].click()")
        assert b.value("document.querySelector('.xtitle').textContent") == "bits up per worker (32 per float)"
        b.value("document.querySelector('.legend button').click()")  # NL1 disappears, in both figures
        b.wait("document.querySelectorAll('.plot .trace.scatter').length == 2 * 1 + 7")
        b.value(
            "(s => { s.value = 'adiana'; s.dispatchEvent(new Event('input')); })(document.querySelector('#filter'))"
        )
        b.wait("document.querySelectorAll('.plot .trace.scatter').length == 2 * 2")
        assert b.value("[...document.querySelectorAll('tr[data-label]')].filter(r => !r.hidden).length") == 6
        b.value("(s => { s.value = ''; s.dispatchEvent(new Event('input')); })(document.querySelector('#filter'))")
        first = "[...document.querySelectorAll('table')[1].tBodies[0].rows].map(row => row.cells[3].textContent)"
        before = b.value(first)
        b.value("document.querySelectorAll('table')[1].tHead.rows[0].cells[3].querySelector('button').click()")
        assert [float(x.split()[0]) for x in b.value(first)] == sorted(float(x.split()[0]) for x in before)
        b.value("document.querySelectorAll('table')[1].tHead.rows[0].cells[3].querySelector('button').click()")
        assert [float(x.split()[0]) for x in b.value(first)] == sorted(
            (float(x.split()[0]) for x in before), reverse=True
        )
        assert not b.complaints


# The command


def run(*args: object) -> str:
    done = CliRunner().invoke(report, list(map(str, args)), catch_exceptions=True)
    if done.exception:
        raise done.exception
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("no_plotly")
def test_report_command(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    make_run(folder / "a", [1, 0.1])
    make_run(folder / "b", [1, 0.1], l2=0.5)
    assert run(folder).strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    run(folder, "-o", tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text().count("## logistic, l2 = 0.") == 2
    known = json.loads(run(folder, "--json"))
    assert list(known["problems"]) == ["logistic, l2 = 0.001", "logistic, l2 = 0.5"]
    assert known["problems"]["logistic, l2 = 0.5"][0]["gap"] == 0.1
    assert json.loads(run(folder, "--json", "-o", tmp_path / "j.html")) == known
    with pytest.raises(MpinewtonError, match=r"\.html, \.md, \.txt"):
        run(folder, "-o", tmp_path / "r.docx")
    with pytest.raises(ConfigError, match="leave out -o, --benchopt and --json"):
        run(folder, "--serve", "0", "--json")


def test_export_for_benchopt(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    settings = {"data": "/some/where/a2a", "settings": {"rho": 0.5, "search": {"first": 4}}}
    for seed, gaps in enumerate(([0.5, 0.1], [0.5, 0.2, 0.0])):
        make_run(tmp_path / f"a{seed}", gaps, label=f"a, seed {seed}", config=settings, arithmetic="Some CPU")
    make_run(tmp_path / "b", [0.5], gap=False, config={"data": "/some/where/a2a"}, versions={"scipy": "1.17"})
    assert run(tmp_path, "--benchopt", tmp_path / "r.parquet").split() == [str(tmp_path / "r.parquet")]
    rows = parquet.read_table(tmp_path / "r.parquet").to_pylist()
    first = rows[1]
    assert len(rows) == 6
    assert (first["solver_name"], first["data_name"], first["objective_name"]) == ("a", "a2a", "logistic, l2 = 0.001")
    assert (first["stop_val"], first["time"], first["objective_gap"], first["bits_up"]) == (1, 0.125, 0.1, 640)
    assert first["objective_value"] == STAR + 0.1
    assert [row["idx_rep"] for row in rows] == [0, 0, 1, 1, 1, 0]
    assert (first["p_solver_rho"], first["p_solver_search.first"], rows[5]["p_solver_rho"]) == ("0.5", "4", None)
    assert (rows[5]["objective_gap"], rows[5]["version-scipy"], first["version-numpy"]) == (None, "1.17", "")
    with pytest.raises(ConfigError, match=r"expected \.parquet"):
        run(tmp_path, "--benchopt", tmp_path / "r.csv")


def test_a_damaged_comparison_is_named(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(DataError, match=r"comparison\.json cannot be read"):
        read_page(tmp_path)


def get(port: int, path: str) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    return connection.getresponse().read().decode()


@pytest.mark.slow
def test_a_served_page_follows_the_runs_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mpinewton", "report", str(tmp_path), "--serve", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        port = int(address.rstrip("/").rpartition(":")[2])
        assert address == f"http://127.0.0.1:{port}/"
        assert "contains no run" in get(port, "/main")
        make_run(tmp_path / "a", [1, 0.1], ended="running")
        assert "connect-src 'self'" in get(port, "/")
        before = get(port, "/main")
        make_run(tmp_path / "a", [1, 0.1, 0.01], ended="running")
        after = get(port, "/main")
        assert [Tags(f"<main>{text}</main>").tables[0][1][3] for text in (before, after)] == ["2", "4"]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used"):
            serve(lambda: read_page(tmp_path), port, print)
        server.send_signal(signal.SIGINT)
        said = server.communicate(timeout=60)
    assert (server.returncode, said) == (0, ("", ""))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_new_rows_without_being_asked(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs / "a", [1, 0.1], ended="running")
    command = [sys.executable, "-m", "mpinewton", "report", str(runs), "--serve", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, browser(tmp_path / "profile") as b:
        assert server.stdout is not None
        b.open(server.stdout.readline().split()[0], 1280)
        rounds = "document.querySelector('main table').tBodies[0].rows[0].cells[3].textContent"
        assert b.value(rounds) == "2"
        make_run(runs / "a", [1, 0.1, 0.01], ended="running")
        b.wait(f"{rounds} === '4'")
        assert not b.complaints
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
        b.wait("document.querySelector('#live').textContent === 'The server has stopped.'")
