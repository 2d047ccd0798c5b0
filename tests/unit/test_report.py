"""Run folders to curves, figures, tables and pages."""

from __future__ import annotations

import csv
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from runfolders import COLUMNS, STAR, make_run

from mpinewton.cli.plot import command as plot
from mpinewton.errors import ConfigError, DataError
from mpinewton.report import figures
from mpinewton.report.curves import Curve, bits_up, choose_quantity, curve, median_curve
from mpinewton.report.figures import draw
from mpinewton.report.provenance import read_settings
from mpinewton.report.reading import RunRecord, read_run, read_runs
from mpinewton.report.tables import Table, rounds_to, summary, tables


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Ten runs of all kinds and lengths."""
    folder = tmp_path / "many"
    make_run(folder / "newton", [0.36, 1e-2, 1e-5, 1e-11, 0.0])
    make_run(folder / "nl1 r=1", 0.36 * 0.8 ** np.arange(120))
    make_run(folder / "fednl rank 1", 0.36 * 0.4 ** np.arange(30))
    make_run(folder / "bfgs", 0.36 * 0.3 ** np.arange(24), config={"gap": 1e-12})
    make_run(folder / "stalls", np.maximum(0.5 ** np.arange(60.0), 3e-5), ended="budget", reason="max-iterations")
    make_run(folder / "below", [0.36, 1e-9, -2e-17], ended="running")
    make_run(folder / "diverges", [0.36, 40, 1e12, 1e40, np.inf], ended="failed", reason="not finite")
    make_run(folder / "two rounds", [0.36, 0.2], ended="failed", reason="negative curvature on worker 3")
    make_run(folder / "cnl p=1/20".replace("/", "-"), 0.36 * 0.9 ** np.arange(200))
    make_run(
        folder / "gradient-descent",
        0.36 * 0.998 ** np.arange(5000),
        ended="budget",
        reason="maximum number of rounds (9999) reached",
    )
    return folder


def points(path: Path) -> dict[tuple[str, str], list[tuple[float, float]]]:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in csv.DictReader(path.read_text().splitlines()):
        found.setdefault((row["label"], row["axis"]), []).append((float(row["x"]), float(row["y"])))
    return found


# Reading


def test_columns_labels_and_endings(many: Path) -> None:
    runs = {run.label: run for run in read_runs([many])}
    assert list(runs) == sorted(runs)
    assert len(runs) == 10
    assert np.array_equal(runs["bfgs"].columns["gap"], 0.36 * 0.3 ** np.arange(24))
    assert np.isnan(runs["bfgs"].columns["test_accuracy"]).all()
    endings = {label: run.ending for label, run in runs.items()}
    assert (endings["newton"], endings["below"]) == ("converged", "running")
    assert endings["stalls"] == endings["gradient-descent"] == "budget"
    assert endings["diverges"] == endings["two rounds"] == "failed"
    assert runs["bfgs"].target("gap") == 1e-12
    assert runs["newton"].target("gap") is None


@pytest.mark.parametrize(
    ("kind", "ending"), [("budget", "budget"), ("trouble", "failed"), ("interrupted", "running"), (None, "failed")]
)
def test_ending_by_kind_of_result(tmp_path: Path, kind: str | None, ending: str) -> None:
    assert read_run(make_run(tmp_path / "a", [1], ended="failed", reason="fail", kind=kind)).ending == ending


def test_equal_labels_are_told_apart(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, [1, 0.1], label="dino") for name in "ab"]
    assert [run.label for run in read_runs([*folders, folders[0]])] == ["dino (a)", "dino (b)"]


def test_line_being_written_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", [1, 0.1], ended="running")
    whole = (folder / "history.csv").read_text()
    (folder / "history.csv").write_text(whole + "2,4,20,12")
    assert read_run(folder).rows == 2


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("history.csv", lambda text: text.replace("grad_norm", "grad"), "no column grad_norm"),
        ("history.csv", lambda text: text.replace("0.125", "fast"), "column seconds: expected numbers.*'fast'"),
        ("history.csv", lambda text: text + "2,4\n", "line 4: expected 10 cells, found 2"),
        ("history.csv", lambda text: text + text.splitlines()[1] + "\n", "rounds decreases from 2 to 0"),
        ("history.csv", lambda text: "", "no column iteration"),
        ("result.json", lambda text: text[:-5], "result.json is damaged"),
        ("result.json", lambda text: "[1]", "found a list"),
        ("config.toml", lambda text: "method = ", "config.toml is damaged"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, file: str, change, sentence: str) -> None:
    path = make_run(tmp_path / "a", [1, 0.1]) / file
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=sentence) as caught:
        read_run(tmp_path / "a")
    assert str(tmp_path) in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no run"):
        read_runs([tmp_path])
    with pytest.raises(DataError, match=r"not a run folder.*history\.csv"):
        read_run(tmp_path)
    (make_run(tmp_path / "a", [1]) / "config.toml").unlink()
    with pytest.raises(DataError, match=r"config\.toml is missing"):
        read_run(tmp_path / "a")


# Quantities


def test_gap_is_chosen_where_all_runs_have_it(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1, 0.5])
    make_run(tmp_path / "b", [1, 0.25], gap=False)
    assert choose_quantity(read_runs([tmp_path / "a"])).name == "gap"
    seen = choose_quantity(read_runs([tmp_path]))
    assert (seen.name, seen.title) == ("best-seen", "loss \N{MINUS SIGN} best loss seen")
    assert np.allclose(np.concatenate(seen.values), [0.75, 0.25, 0.75, 0], rtol=1e-15)


@pytest.mark.parametrize("other", [{"data_sha256": "other"}, {"l2": 0.1}, {"loss": "squared"}, {"data_sha256": ""}])
def test_losses_of_different_problems_are_not_compared(tmp_path: Path, other: dict) -> None:
    make_run(tmp_path / "a", [1, 0.5], gap=False)
    make_run(tmp_path / "b", [1, 0.25], gap=False, **other)
    assert choose_quantity(read_runs([tmp_path])).name == "grad_norm"


def test_gaps_below_rounding_are_drawn_at_the_rounding_of_the_loss(tmp_path: Path) -> None:
    runs = read_runs([make_run(tmp_path / "a", [0.36, 0.0, -1e-15, 1e-3])])
    gap = choose_quantity(runs)
    c = curve(runs[0], "rounds", gap, gap.values[0])
    assert gap.floor == 2.0**-54  # one unit in the last place of 0.333
    assert c.y.tolist() == [0.36, gap.floor, gap.floor, 1e-3]
    assert c.floored.tolist() == [False, True, True, False]


def test_loss_is_on_a_log_scale_where_it_falls_far(tmp_path: Path) -> None:
    near = read_runs([make_run(tmp_path / "near", [0.36, 0.0, 1e30])])  # a run that diverges does not fall
    far = read_runs([make_run(tmp_path / "far", [100 * STAR, 0.0])])
    assert not choose_quantity(near, "loss").log
    assert choose_quantity(far, "loss").log


def test_bits_are_restated_for_floats_only(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", [1, 0.1, 0.01], index_bits=7))
    assert bits_up(run).tolist() == [0, 647, 1294]
    assert bits_up(run, 32).tolist() == [0, 327, 654]
    assert bits_up(run, 64).tolist() == bits_up(run).tolist()
    with pytest.raises(ConfigError, match="bits per float = 0"):
        bits_up(run, 0)


# Figures


def test_points_are_those_of_the_runs(tmp_path: Path) -> None:
    gaps = [0.36, 0.1, 1e-3]
    figure, table = draw(read_runs([make_run(tmp_path / "a", gaps)]), tmp_path / "out" / "f.png", bits_per_float=32)
    assert (figure.name, table.name) == ("f.png", "f.csv")
    found = points(table)
    assert found["a", "rounds"] == list(zip([0, 2, 4], gaps))
    assert found["a", "bits"] == list(zip([0, 320, 640], gaps))
    assert found["a", "seconds"] == list(zip([0, 0.125, 0.25], gaps))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_settings_come_back_from_the_figure(tmp_path: Path, suffix: str) -> None:
    awkward = 'a\\b (c) & <d> "e" \N{GREEK SMALL LETTER ALPHA}'
    runs = read_runs([make_run(tmp_path / "a", [1, 0.1], config={"awkward": awkward}, versions={"numpy": "2.4"})])
    first, _ = draw(runs, tmp_path / f"first{suffix}", axes=["rounds"], title="T$_")
    found = read_settings(first)
    assert found["figure"] == {"axes": ["rounds"], "quantity": None, "bits_per_float": None, "title": "T$_"}
    assert set(found["versions"]) == {"mpinewton", "matplotlib", "numpy", "python"}
    (run,) = found["runs"]
    assert run["config"] == {"method": "a", "seed": 7, "awkward": awkward}
    assert run["result"]["data_sha256"] == "c0ffee"
    again, _ = draw(runs, tmp_path / f"again{suffix}", axes=["rounds"], title="T$_")
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.slow
def test_ten_runs_are_drawn_without_overlap(many: Path, tmp_path: Path) -> None:
    runs = read_runs([many])
    quantity = choose_quantity(runs)
    panels = [[curve(r, a, quantity, v) for r, v in zip(runs, quantity.values)] for a in ("rounds", "bits", "seconds")]
    with figures._house_style():
        figure = figures._figure(panels, quantity, None, "title")
        figure.savefig(tmp_path / "f.png")
    renderer = FigureCanvasAgg(figure).get_renderer()
    (legend,) = figure.legends
    key = legend.get_window_extent(renderer)
    assert [text.get_text() for text in legend.get_texts()] == [run.label for run in runs]
    key_words = legend.get_title().get_text().replace("\N{NO-BREAK SPACE}", " ")
    for ending in ("converged", "budget exhausted", "failed", "still running", "below the rounding", "target 1e-12"):
        assert ending in key_words
    boxes = [ax.get_tightbbox(renderer) for ax in figure.axes]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
    assert all(box.y0 >= key.y1 for box in boxes)
    assert key.x0 >= 0
    assert key.x1 <= figure.bbox.x1
    for ax in figure.axes:
        assert ax.get_ylim()[1] == pytest.approx(100.0)  # the largest start is 1: the diverging run leaves at the top
        # Every run has its end inside the panel.
        ends = [line for line in ax.lines if len(line.get_xdata()) == 1 and line.get_marker() in "osX"]
        assert len(ends) == len(runs)
        assert all(ax.get_ylim()[0] <= line.get_ydata()[0] <= ax.get_ylim()[1] for line in ends)


def test_looks_differ_for_140_runs() -> None:
    looks = {(look["color"], look["linestyle"], look["marker"]) for look in map(figures._line_style, range(140))}
    assert len(looks) == 140


def test_run_without_the_quantity_is_said_so(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [1, 0.1])
    make_run(tmp_path / "_b$", [1, 0.1], gap=False)
    _, table = draw(read_runs([tmp_path]), tmp_path / "f.svg", quantity="gap")
    assert {label for label, _ in points(table)} == {"a"}
    make_run(tmp_path / "a", [1, 0.1], gap=False)
    with pytest.raises(ConfigError, match="--reference auto"):
        draw(read_runs([tmp_path]), tmp_path / "f.svg", quantity="gap")


def test_wrong_wishes_are_refused(many: Path, tmp_path: Path) -> None:
    runs = read_runs([many / "newton"])
    with pytest.raises(ConfigError, match=r"unknown axis 'round' \(did you mean 'rounds'"):
        draw(runs, tmp_path / "f.png", axes=["round"])
    with pytest.raises(ConfigError, match="unknown quantity 'gab'"):
        draw(runs, tmp_path / "f.png", quantity="gab")
    with pytest.raises(ConfigError, match=r"\.png, \.pdf, \.svg"):
        draw(runs, tmp_path / "f.gif")
    with pytest.raises(DataError, match="nothing to show"):
        draw(read_runs([make_run(tmp_path / "empty", [], ended="running")]), tmp_path / "f.png")
    assert not list(tmp_path.glob("f.*"))


def test_without_matplotlib_the_extra_is_named(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(ConfigError, match=re.escape("pip install mpinewton[plot]")):
        draw(read_runs([many]), tmp_path / "f.png")


def test_curves_that_go_up_and_down_are_drawn_as_medians_and_a_range() -> None:
    steady = 0.5 ** np.arange(400.0)
    assert not figures._oscillates(steady)
    assert figures._oscillates(steady + 0.1 * (-1.0) ** np.arange(400))
    assert not figures._oscillates((-1.0) ** np.arange(20))  # few enough to be seen
    ax = Figure().subplots()
    run = RunRecord(Path("a"), "a", {}, {}, {})
    y = np.random.default_rng(0).standard_normal(600)
    figures._draw_curve(ax, 0, Curve(run, "rounds", np.arange(600.0), y, np.zeros(600, dtype=bool)))
    (line,), (band,) = ax.lines, ax.collections
    assert len(line.get_xdata()) == figures.WINDOWS
    assert np.abs(line.get_ydata()).max() < np.abs(y).max()
    extent = band.get_paths()[0].vertices[:, 1]
    assert (extent.min(), extent.max()) == (y.min(), y.max())


# Tables


def test_summary_and_rounds_of_hand_made_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.5, 0.05, 1e-3, 2e-13])
    make_run(tmp_path / "b", [0.5, 0.2, 0.3, 0.1], ended="failed", reason="no\nstep")
    runs = read_runs([tmp_path])
    assert summary(runs).text().splitlines() == [
        "method  status     iterations  rounds  Mbit up  seconds       gap",
        "a       converged           3       6  0.00192    0.375  2.00e-13",
        "b       no step             3       6  0.00192    0.375  1.00e-01",
    ]
    assert rounds_to(runs, (1e-1, 1e-3, 1e-12)).markdown().splitlines() == [
        "| rounds to reach gap | 1e-1 | 1e-3 | 1e-12 |",
        "| ------------------- | ---: | ---: | ----: |",
        "| a                   |    2 |    4 |     6 |",
        "| b                   |    6 |    - |     - |",
    ]
    assert summary(runs, 32).rows[0][4] == "0.00096"
    runs[0].columns["test_accuracy"] = np.array([0.1, 0.955, 0.95, np.nan])
    table = summary(runs)
    assert table.header[-1] == "best test %"
    assert [row[-1] for row in table.rows] == ["95.50", "-"]
    runs[1].columns["test_loss"] = np.array([0.1, 0.3, 0.2, 0.25])
    table = summary(runs)
    assert table.header[-2:] == ("best test %", "test loss")
    assert [row[-1] for row in table.rows] == ["-", "0.2500"]


def seeded(tmp_path: Path) -> list[RunRecord]:
    """Three seeds of a, two of b that make no difference, and c."""
    for seed, gaps in enumerate(([0.5, 0.1, 1e-3], [0.5, 0.2, 0.1, 1e-3, 1e-4], [0.5, 0.3, 0.02])):
        ended = "budget" if seed == 2 else "converged"
        make_run(
            tmp_path / f"a{seed}", gaps, ended=ended, reason="enough", history_sha256=f"{seed}", label=f"a, seed {seed}"
        )
    for seed in (0, 1):
        make_run(tmp_path / f"b{seed}", [0.5, 1e-3], history_sha256="b", label=f"b, seed {seed}")
    make_run(tmp_path / "c", [0.5, 0.4])
    return read_runs([tmp_path])


def test_seeds_are_one_row_with_the_median_and_the_range(tmp_path: Path) -> None:
    runs = seeded(tmp_path)
    rows = {row[0]: row[1:] for row in summary(runs).rows}
    assert list(rows) == ["a", "b", "c"]
    assert rows["a"][:3] == ("2 of 3: converged; 1 of 3: enough", "2 (2 to 4)", "4 (4 to 8)")
    assert rows["a"][-1] == "1.00e-03 (1.00e-04 to 2.00e-02)"
    assert rows["b"][:3] == ("converged", "1", "2")
    # a to 0.1: after 2, 4 and 4 rounds; to 1e-3: after 4, 6 rounds, never; to 1e-4: one of three.
    assert rounds_to(runs, (1e-1, 1e-3, 1e-4)).rows[0] == ("a", "4 (2 to 4)", "6 (4 to -)", "- (8 to -)")


def test_curves_of_seeds_are_one_curve_with_its_range(tmp_path: Path) -> None:
    runs = [run for run in seeded(tmp_path) if run.series == "a"]
    shown = choose_quantity(runs)
    joined = median_curve([curve(run, "rounds", shown, values) for run, values in zip(runs, shown.values)])
    np.testing.assert_array_equal(joined.x, [0, 2, 4, 6, 8])
    np.testing.assert_allclose(joined.y, [0.5, 0.2, 0.02, 1e-3, 1e-3])
    np.testing.assert_allclose(joined.low, [0.5, 0.1, 1e-3, 1e-3, 1e-4])
    np.testing.assert_allclose(joined.high, [0.5, 0.3, 0.1, 0.02, 0.02])
    assert (joined.run.label, joined.run.ending) == ("a", "budget")
    draw(seeded(tmp_path), tmp_path / "f.png")
    labels = {label for label, _ in points(tmp_path / "f.csv")}
    assert labels == {
        "a, seed 0",
        "a, seed 1",
        "a, seed 2",
        "b, seed 0",
        "b, seed 1",
        "c",
    }  # the points are those of the runs


def test_latex_is_escaped() -> None:
    table = Table(("method", "Mbit & %"), [("a_b {x} <y> 50 %", "1e-3"), ("p^2 ~ \\", "-")])
    assert table.latex().splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & Mbit \& \% \\",
        r"\midrule",
        r"a\_b \{x\} \textless{}y\textgreater{} 50 \% & 1e-3 \\",
        r"p\textasciicircum{}2 \textasciitilde{} \textbackslash{} & - \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_what_a_history_leaves_out_of_the_last_iterate_is_in_the_result(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.5, 0.4, 0.1], iterations=2, objective=STAR + 0.1, test_accuracy=0.75)
    lines = (tmp_path / "a" / "history.csv").read_text().splitlines()
    cells = lines[-1].split(",")
    cells[COLUMNS.index("loss")] = cells[COLUMNS.index("test_accuracy")] = ""
    (tmp_path / "a" / "history.csv").write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    run = read_run(tmp_path / "a")
    assert (run.columns["loss"][-1], run.columns["test_accuracy"][-1]) == (STAR + 0.1, 0.75)


def test_distances_to_the_best_seen_are_shown_as_far_as_two_runs_come(tmp_path: Path) -> None:
    for name, gaps in (("a", [0.5, 2e-3, 0.0]), ("b", [0.5, 0.2, 5e-3])):
        make_run(tmp_path / name, gaps, gap=False)
    runs = read_runs([tmp_path])
    assert rounds_to(runs).header == ("rounds to reach loss - best seen", "1e-1", "1e-2")
    assert [row[1:] for row in rounds_to(runs).rows] == [("2", "2"), ("4", "4")]
    assert len(rounds_to(runs[:1]).header) == 13
    assert len(tables([runs[0], read_runs([make_run(tmp_path / "c", [0.5, 0.4], gap=False)])[0]])) == 1


def test_markdown_keeps_its_columns() -> None:
    assert r"| a\|b |" in Table(("x",), [("a|b",)]).markdown()


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-14, 1.0), min_size=1, max_size=8), st.floats(1e-13, 1.0))
def test_rounds_to_is_the_first_crossing(tmp_path_factory, gaps: list[float], level: float) -> None:
    runs = read_runs([make_run(tmp_path_factory.mktemp("run") / "a", gaps)])
    crossings = [2 * k for k, gap in enumerate(gaps) if gap <= level]
    assert rounds_to(runs, [level]).rows[0][1] == (str(crossings[0]) if crossings else "-")


# Commands


def run(command, *args: object) -> str:
    done = CliRunner().invoke(command, list(map(str, args)), catch_exceptions=True)
    if done.exception:
        raise done.exception
    return done.output


@pytest.mark.slow
def test_plot_command(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "f.pdf"
    said = run(plot, many, "-o", out, "--axes", "bits, rounds", "--quantity", "loss", "--bits-per-float", "32")
    assert said.split() == [str(out), str(out.with_suffix(".csv"))]
    assert {axis for _, axis in points(out.with_suffix(".csv"))} == {"bits", "rounds"}
    shown = json.loads(run(plot, "--show-settings", out))
    assert shown["figure"] == {"axes": ["bits", "rounds"], "quantity": "loss", "bits_per_float": 32, "title": None}
    assert len(shown["runs"]) == 10


@pytest.mark.parametrize("name", ["plain.png", "plain.txt", "missing.svg"])
def test_show_settings_of_other_files(tmp_path: Path, name: str) -> None:
    if name != "missing.svg":
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXt")
    with pytest.raises(DataError, match=name):
        run(plot, tmp_path / name, "--show-settings")
