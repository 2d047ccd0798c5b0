"""Run folders made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import tomli_w

STAR = 0.333353735  # P* of a made-up problem
COLUMNS = [
    "iteration",
    "rounds",
    "floats_up",
    "bits_up",
    "seconds",
    "loss",
    "grad_norm",
    "gap",
    "test_accuracy",
    "note",
]


def make_run(
    folder: Path, gaps, *, gap=True, ended="converged", reason="", index_bits=0, config=None, **result
) -> Path:
    """A run folder with these gaps: 2 rounds and 10 floats an iteration."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for k, g in enumerate(map(float, gaps)):
            bits = (640 + index_bits) * k
            rows.writerow([k, 2 * k, 10 * k, bits, k / 8, repr(STAR + g), repr(abs(g)), repr(g) if gap else "", "", ""])
    (folder / "config.toml").write_text(tomli_w.dumps({"method": folder.name, "seed": 7, **(config or {})}))
    if ended != "running":
        known = {"method": folder.name, "loss": "logistic", "l2": 0.001, "data_sha256": "c0ffee", "reason": reason}
        (folder / "result.json").write_text(
            json.dumps({**known, "kind": {"failed": "trouble"}.get(ended, ended), **result})
        )
    return folder
