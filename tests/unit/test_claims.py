"""Claims put to runs whose figures are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpinewton.errors import ConfigError
from mpinewton.experiments.claims import Claim, count_verdicts, verdicts
from mpinewton.experiments.contents import Contents
from mpinewton.experiments.page import markdown_page
from mpinewton.report.reading import RunRecord


def record(label: str, gaps: list[float], kind: str = "converged", travel: bool = False, bits: int = 100) -> RunRecord:
    n = len(gaps)
    columns = {name: np.arange(n) * 2.0 for name in ("rounds", "floats_up", "floats_down", "seconds")}
    columns |= {"iteration": np.arange(n) * 1.0, "bits_up": np.arange(n) * float(bits), "gap": np.array(gaps)}
    columns |= {"loss": np.array(gaps) + 1, "grad_norm": np.sqrt(gaps), "test_accuracy": 1 - np.array(gaps)}
    result = {"kind": kind, "converged": kind == "converged", "reason": f"it {kind}", "rows_travel": travel}
    return RunRecord(Path(label), label, columns, result | {"versions": {"numpy": "2"}, "data_sha256": "ab" * 32}, {})


FAST = record("fast", [1, 1e-2, 1e-6, 1e-13])
SLOW = record("slow", [1, 0.5, 0.1, 1e-2, 1e-3, 1e-6])
BENT = record("bent", [1, 0.5, 0.6], kind="trouble")
SEEDS = [record("drawn, seed 0", [1, 1e-6]), record("drawn, seed 1", [1] * 8), record("drawn, seed 2", [1, 1, 1, 1e-7])]
PROBLEMS = {"a/logistic": [FAST, SLOW, BENT, *SEEDS], "b/squared": [FAST]}


@pytest.mark.parametrize(("gaps", "said"), [([3, 2, np.nan, 1], "holds"), ([3, 1, np.nan, 2], "does not hold")])
def test_a_rise_is_seen_between_measurements(gaps: list[float], said: str) -> None:
    assert verdicts([Claim(says="so", monotone="m")], {"a/x": [record("m", gaps)]}).rows[0][3] == said


def verdict(**claim: object) -> tuple[str, str]:
    rows = verdicts([Claim(says="so", on=["a/*"], **claim)], PROBLEMS).rows
    assert len(rows) == 1
    return rows[0][2:]


@pytest.mark.parametrize(
    ("claim", "found", "said"),
    [
        ({"better": "fast", "than": "slow", "gap": 1e-6}, "fast 4, slow 10 (2.5 times)", "holds"),
        ({"better": "fast", "than": "slow", "by": 2.5, "gap": 1e-6}, "(2.5 times)", "holds"),
        ({"better": "fast", "than": "slow", "by": 2.6, "gap": 1e-6}, "(2.5 times)", "does not hold"),
        ({"better": "slow", "than": "fast", "gap": 1e-6, "measure": "iterations"}, "slow 5, fast 2", "does not hold"),
        ({"better": "fast", "than": "slow", "gap": 1e-12}, "slow never", "holds"),
        ({"better": "slow", "than": "fast", "gap": 1e-12}, "slow never", "does not hold"),
        ({"better": "slow", "than": "bent", "gap": 1e-12}, "never", "undecided: neither reaches the target"),
        ({"better": "drawn", "than": "slow", "gap": 1e-6}, "drawn 6, slow 10", "holds"),
        ({"better": "fast", "than": "slow", "test_accuracy": 0.985}, "fast 2, slow 6", "holds"),
        ({"reaches": "slow", "gap": 1e-6}, "slow 10", "holds"),
        ({"reaches": "slow", "gap": 1e-6, "within": 9}, "slow 10", "does not hold"),
        ({"reaches": "slow", "gap": 1e-12}, "never", "does not hold"),
        ({"reaches": "slow", "loss": 1.1, "measure": "bits_up", "within": 200}, "slow 200", "holds"),
        ({"monotone": "slow"}, "0.0e+00", "holds"),
        ({"monotone": "bent"}, "6.7e-02", "does not hold"),
        ({"monotone": "bent", "opposite": True}, "6.7e-02", "holds"),
        ({"reaches": "slow", "gap": 1e-12, "opposite": True}, "never", "holds"),
        ({"reaches": "slow", "gap": 1e-6, "opposite": True}, "slow 10", "does not hold"),
        ({"fails": "bent"}, "it trouble", "holds"),
        ({"fails": "fast"}, "it converged", "does not hold"),
    ],
)
def test_verdicts(claim, found, said):
    what, verdict_ = verdict(**claim)
    assert found in what
    assert verdict_ == said


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({}, "give one of"),
        ({"better": "fast", "gap": 1}, "better and than go together"),
        ({"better": "fast", "than": "slow"}, "need one target"),
        ({"better": "fast", "than": "slow", "gap": 1, "loss": 1}, "need one target"),
        ({"monotone": "fast", "gap": 1}, "need one target"),
        ({"reaches": "fsat", "gap": 1}, "no run is named 'fsat'; choose from: fast, slow"),
        ({"monotone": "fast", "within": 3}, "within has no effect with monotone"),
        ({"reaches": "fast", "gap": 1, "by": 2}, "by has no effect with reaches"),
        ({"fails": "fast", "measure": "bits_up"}, "measure has no effect with fails"),
        ({"reaches": "fast", "gap": 1, "measure": "euros"}, "unknown measure 'euros'"),
    ],
)
def test_what_cannot_be_put_to_the_test_is_refused(claim, words):
    with pytest.raises(ConfigError, match=words):
        Claim(says="so", **claim).check(["fast", "slow"])


def test_a_claim_is_judged_where_its_runs_are():
    table = verdicts([Claim(says="so", reaches="fast", gap=1e-3), Claim(says="no", fails="bent")], PROBLEMS)
    assert [row[1] for row in table.rows] == ["a/logistic", "b/squared", "a/logistic"]


def test_methods_whose_rows_travel_are_kept_apart():
    runs = {"a": [record("stays", [1, 1e-9]), record("travels", [1, 1e-9], travel=True)]}
    text = markdown_page(Contents(title="Title", text="Words."), runs, {"a": "a.png"})
    stay, travel = text.index("### Rows stay with their workers"), text.index("### Rows travel to the driver")
    assert stay < text.index("| stays") < travel < text.index("| travels")
    assert text.count("### ") == 2
    assert "](a.png)" in text
    assert "### " not in markdown_page(Contents(title="Title"), {"a": [FAST, SLOW]}, {})


def test_verdicts_are_counted_over_the_problems():
    claims = [Claim(says="quick", reaches="fast", gap=1e-3), Claim(says="bad", better="slow", than="bent", gap=1e-12)]
    table = count_verdicts(verdicts(claims, PROBLEMS))
    assert table.header[1:] == ("holds", "does not hold", "undecided")
    assert list(table.rows) == [("quick", "2", "0", "0"), ("bad", "0", "0", "1")]
