"""Runs in the layout of benchopt's result files: one row for every iterate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpinewton.errors import ConfigError, DataError
from mpinewton.report.curves import bits_up
from mpinewton.report.reading import RunRecord
from mpinewton.settings import flatten

# Column of benchopt -> column of history.csv. benchopt offers every `objective_...` as vertical axis.
COLUMNS = {
    "stop_val": "iteration", "time": "seconds", "objective_value": "loss", "objective_grad_norm": "grad_norm",
    "objective_gap": "gap", "objective_test_accuracy": "test_accuracy", "objective_test_loss": "test_loss",
    "rounds": "rounds", "floats_up": "floats_up",
}  # fmt: skip


def write_benchopt(
    problems: Mapping[str, Sequence[RunRecord]], path: Path, title: str, bits_per_float: int | None = None
) -> None:
    """Write the runs as a Parquet file that benchopt reads.

    Raises
    ------
    ConfigError
        If pyarrow is not installed, or the file cannot be written.
    DataError
        If no run has recorded an iterate.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("--benchopt writes Parquet, which needs pyarrow: pip install mpinewton[data]") from None
    rows = [row for name, runs in problems.items() for row in _rows(name, runs, title, bits_per_float)]
    if not rows:
        raise DataError("no run has recorded an iterate yet: there is nothing to export")
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    table = table.replace_schema_metadata({"_meta_json": "{}"})  # of plots; benchopt adds to it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; give another FILE") from error


def _rows(problem: str, runs: Sequence[RunRecord], title: str, bits_per_float: int | None) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    rows = []
    for run in runs:
        data = Path(str(run.config.get("data", ""))).name
        versions = run.result.get("versions", {})
        known = {
            "objective_name": problem.removeprefix(data).lstrip("/, ") or problem, "obj_description": title,
            "solver_name": run.series, "solver_description": str(run.config.get("method", run.series)),
            "data_name": data or problem, "idx_rep": seen[run.series], "sampling_strategy": "Iteration",
            **{f"p_solver_{name}": str(value) for name, value in flatten(run.config.get("settings", {})).items()},
            **{f"version-{name}": str(version) for name, version in versions.items()},
            "system-processor": str(run.result.get("arithmetic", "")),
        }  # fmt: skip
        known.setdefault("version-numpy", "")  # benchopt asks for it
        seen[run.series] += 1
        numbers = {name: run.columns[column] for name, column in COLUMNS.items() if run.has(column)}
        numbers["bits_up"] = bits_up(run, bits_per_float)
        for row in zip(*(values.tolist() for values in numbers.values())):
            facts = {name: value if np.isfinite(value) else None for name, value in zip(numbers, row)}
            rows.append(known | facts | {"stop_val": int(facts["stop_val"] or 0)})
    return rows
