"""A short sample of every campaign of scripts/faults.py; `make faults` runs them in full."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "faults.py"
spec = importlib.util.spec_from_file_location("faults", SCRIPT)
assert spec is not None and spec.loader is not None
faults = sys.modules["faults"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("corrupt", 40),
        ("fuzz", 60),
        ("configurations", 10),
        ("checkpoints", 1),
        pytest.param("kill", 1, marks=pytest.mark.slow),
        pytest.param("failures", 2, marks=pytest.mark.slow),
    ],
)
def test_sample(name: str, count: int) -> None:
    """`signals` is `kill` with other signals: see test_resume.py."""
    assert not [case for case in faults.cases(name, 7, 0, count) if not case[1].startswith("ok")]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    faults.hostile_setup(folder)
    return folder


SAMPLE = [
    ("model", "external link", 2),
    ("model", "external storage", 2),
    ("model", "empty", 2),
    ("model", "loss beyond memory", 2),
    ("checkpoint", "weights of another shape", 0),
    ("checkpoint", "loss of text", 0),
    ("checkpoint", "iteration in the future", 0),
    ("checkpoint", "memory of another shape", 0),
    ("checkpoint", "a worker's point", 0),
    ("both", "memory of another shape", 2),
    ("both", "a worker's point", 2),
    ("shard", "huge", 2),
    ("shard", "classes", 2),
    ("pipe", "run/model.h5", 2),
    ("pipe", "run/checkpoint-B.h5", 0),
    ("pipe", "run/history.csv", 2),
    ("pipe", f"dense/{faults.FILE}", 2),
]


@pytest.mark.parametrize(("kind", "name", "code"), SAMPLE, ids=[f"{kind}: {name}" for kind, name, _ in SAMPLE])
def test_hostile_files_are_refused_or_the_other_checkpoint_is_used(kind: str, name: str, code: int, good: Path) -> None:
    assert faults.judge(kind, name, good) == f"ok {kind}, {name}: exit code {code}"


@pytest.mark.slow
def test_all_hostile_files(good: Path) -> None:
    """Those that are not in the sample; of the checkpoints one of two, or both, in turn."""
    tried = [case for case in faults.HOSTILE if case[0] not in ("checkpoint", "both")]
    tried += [(("checkpoint", "both")[number % 2], name) for number, name in enumerate(faults.CHECKPOINTS)]
    verdicts = [faults.judge(*case, good) for case in tried if case not in {case[:2] for case in SAMPLE}]
    assert len(verdicts) >= 45 and not [verdict for verdict in verdicts if not verdict.startswith("ok")]


def test_a_campaign_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader without digests, and one that takes the wrong column as label; and the campaign continues."""
    with monkeypatch.context() as patch:
        patch.setattr(faults, "content", lambda folder, name: (folder / name).read_bytes())
        assert faults.campaign("corrupt", 0, 10, tmp_path) == 1
    with monkeypatch.context() as patch:
        patch.setattr(faults, "csv_oracle", lambda path, shard: (shard.X, shard.y + 1))
        assert faults.campaign("fuzz", 0, 40, tmp_path) == 1
    lines = (tmp_path / "corrupt.jsonl").read_text().splitlines()
    assert faults.campaign("corrupt", 0, 12, tmp_path) == 1
    again = (tmp_path / "corrupt.jsonl").read_text().splitlines()
    assert again[:10] == lines and [json.loads(line)["case"] for line in again] == list(range(12))


def test_the_page_has_the_figures(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    faults.campaign("fuzz", 0, 3, tmp_path)
    faults.page(tmp_path, page)
    assert "| fuzz |  | 3 | 0 | ok " in page.read_text() and "old" not in page.read_text()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("\nafter\n")
