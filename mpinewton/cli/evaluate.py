"""`mpinewton evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpinewton.cli.reading import reading_options, take_reading
from mpinewton.errors import DataError

if TYPE_CHECKING:
    from mpinewton.data.shard import Shard
    from mpinewton.runs.model import Model

SHOWN = 20  # a confusion matrix of more classes is not printed
MORE = "log loss, AUC, confusion matrix and R2 need scikit-learn: pip install 'mpinewton[sklearn]'"


@click.command("evaluate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@reading_options
def command(model: Path, data: str, as_json: bool, **settings: Any) -> None:
    """Evaluate MODEL on the labelled rows of DATA, weighted by the weights of the rows.

    \b
    classes  mean loss without l2, accuracy, log loss, AUC (two classes), confusion matrix
    numbers  mean loss without l2, root mean squared error, R2

    MODEL is the model.h5 of a run. DATA is a folder of shards or anything that `pack` reads.
    """
    from textwrap import indent

    from mpinewton.data.loading import load_rows
    from mpinewton.report.tables import Table
    from mpinewton.runs.model import read_model

    trained = read_model(model)
    shard, _ = load_rows(data, trained.schema, take_reading(settings))
    if not shard.total_weight > 0:
        raise DataError(f"{data}: the sum of the weights of the rows is 0: there is nothing to evaluate")
    figures: dict[str, Any] = {"rows": shard.rows, "loss": trained.on_rows(shard).at(trained.w).value()}
    classifies = trained.made_loss.classifies and trained.classes is not None
    figures |= class_figures(trained, shard) if classifies else number_figures(trained, shard)
    if as_json:
        click.echo(json.dumps(figures))
        return
    table, names = figures.pop("confusion_matrix", None), figures.pop("classes", ())
    for name, value in figures.items():
        text = f"{value:.10g}" if isinstance(value, float | int) else value
        click.echo(f"{name.replace('_', ' '):<25}{text}")
    if table is not None and len(names) > SHOWN:
        click.echo(f"confusion matrix: {len(names)} classes, see --json")
    elif table is not None:
        click.echo("confusion matrix (rows: label, columns: prediction)")
        cells = [(name, *(f"{count:g}" for count in row)) for name, row in zip(names, table)]
        click.echo(indent(Table(("", *names), cells, 0).text(), "  "))


def class_figures(model: Model, shard: Shard) -> dict[str, Any]:
    """Figures of a classification, by name; "note" says what is missing."""
    import numpy as np

    from mpinewton.cli.pack import shown_name
    from mpinewton.errors import ConfigError

    y, weight, found = shard.y, shard.sample_weight, model.predict(shard)
    figures: dict[str, Any] = {"accuracy": float(np.average(found == y, weights=weight))}
    try:
        from sklearn import metrics
    except ImportError:
        return figures | {"note": MORE}
    numbers, two = np.array(model.classes), len(np.unique(y)) == 2
    try:
        if len(numbers) == 2 and two:
            losses = model.class_losses(shard)  # of the logistic loss, the difference is the logit
            figures["auc"] = float(metrics.roc_auc_score(y, losses[:, 0] - losses[:, 1], sample_weight=weight))
        probabilities = model.probabilities(shard)
        figures["log_loss"] = float(metrics.log_loss(y, probabilities, sample_weight=weight, labels=numbers))
    except ConfigError as error:
        figures["note"] = f"no log loss: {error}"
    if len(numbers) == 2 and not two:
        figures["note"] = "no AUC: all rows have the same label"
    table = metrics.confusion_matrix(y, found, labels=numbers, sample_weight=weight)
    return figures | {"confusion_matrix": table.tolist(), "classes": [shown_name(name) for name in model.labels]}


def number_figures(model: Model, shard: Shard) -> dict[str, Any]:
    """Figures of a regression, by name; "note" says what is missing."""
    import numpy as np

    y, weight, found = shard.y, shard.sample_weight, model.predict(shard)
    figures: dict[str, Any] = {"root_mean_squared_error": float(np.sqrt(np.average((found - y) ** 2, weights=weight)))}
    try:
        from sklearn import metrics
    except ImportError:
        return figures | {"note": MORE}
    if shard.rows < 2:
        return figures | {"note": "no R2: it needs 2 rows or more"}
    return figures | {"r2": float(metrics.r2_score(y, found, sample_weight=weight))}
