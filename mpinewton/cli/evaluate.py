"""`mpinewton evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np


@click.command("evaluate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--label-column", help="Label column of a table, by name or number.  [default: the last]")
@click.option("--weight-column", help="Column of sample weights of a table, by name or number.")
def command(model: Path, data: str, label_column: str | None, weight_column: str | None, as_json: bool) -> None:
    """Mean loss of MODEL on DATA without l2, and accuracy (classification) or mean squared error (regression).

    MODEL is the model.h5 of a run. DATA is a folder of shards or anything that `pack` reads.
    """
    from mpinewton.data.blocks import Reading
    from mpinewton.data.loading import load_rows
    from mpinewton.runs.model import read_model

    trained = read_model(model)
    reading = Reading(label_column=label_column, weight_column=weight_column)
    shard, _ = load_rows(data, trained.features, trained.class_names or (), trained.scale, reading)
    rows = shard.with_intercept() if trained.intercept else shard
    loss = trained.build_loss()
    predictions = trained.predict(shard)
    figures = {"rows": float(shard.rows), "loss": loss.on_shard(rows, trained.classes).at(trained.w).value()}
    if loss.classifies:
        figures["accuracy"] = float(np.mean(predictions == shard.y))
    else:
        figures["mean_squared_error"] = float(np.mean((predictions - shard.y) ** 2))
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name.replace('_', ' '):<20}{value:.10g}")
