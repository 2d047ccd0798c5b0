"""`mpinewton coefficients`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpinewton.cli.reading import reading_options, take_reading
from mpinewton.errors import ConfigError

if TYPE_CHECKING:
    from mpinewton.runs.coefficients import Coefficients
    from mpinewton.runs.model import Model


@click.command("coefficients")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with all digits.")
@reading_options
def command(model: Path, data: str | None, as_json: bool, as_csv: bool, **settings: Any) -> None:
    """Print the coefficients of a linear MODEL, in the units of the source: scale and standardisation are undone.

    With DATA, the training data (the folder of shards, or the source), the table also has standard errors from the
    Hessian, z (t for the squared loss) and two-sided p-values, for the losses logistic, softmax, poisson and squared.
    """
    from mpinewton.data.loading import load_rows
    from mpinewton.runs.coefficients import coefficients, with_errors
    from mpinewton.runs.model import read_model

    if as_json and as_csv:
        raise ConfigError("--json and --csv contradict each other; give one of them")
    trained, reading = read_model(model), take_reading(settings)
    found = coefficients(trained)
    if data is not None:
        found = with_errors(trained, load_rows(data, trained.schema, reading)[0])
    rows = table(found)
    if as_json:
        content = {"loss": trained.loss, "l2": trained.l2, "predicts": meaning(trained), "notes": found.notes}
        click.echo(json.dumps({**content, "coefficients": rows}))
    elif as_csv:
        from mpinewton.cli.predict import csv_text

        click.echo(csv_text(list(rows[0]), [list(row.values()) for row in rows]).encode(), nl=False)
    else:
        click.echo("\n".join([meaning(trained), "", *lines(rows), *found.notes]).encode())


def table(found: Coefficients) -> list[dict[str, Any]]:
    """One dict for each coefficient; None for what is not determined."""
    columns = {"coefficient": found.values}
    if found.errors is not None:
        statistic = "z" if found.freedom == float("inf") else "t"
        columns |= {"std_error": found.errors, statistic: found.statistics, "p": found.p_values}
    rows = []
    for k, output in enumerate(found.outputs):
        for j, name in enumerate(found.names):
            numbers = {title: float(values[j, k]) for title, values in columns.items()}
            known = {title: None if value != value else value for title, value in numbers.items()}
            rows.append({"name": name, **({"class": output} if output else {}), **known})
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table as text, in columns."""
    from mpinewton.cli.pack import shown_name
    from mpinewton.report.tables import Table

    def text(value: Any) -> str:
        return "" if value is None else shown_name(value) if isinstance(value, str) else f"{value:.6g}"

    cells = [tuple(text(value) for value in row.values()) for row in rows]
    words = sum(isinstance(value, str) for value in rows[0].values())
    return Table(tuple(rows[0]), cells, words).text().splitlines()


def meaning(model: Model) -> str:
    """What the linear function of the features is, in one line."""
    loss, labels = model.made_loss, model.labels
    if loss.name == "logistic":
        return f"log-odds of {labels[1]} against {labels[0]}"
    if loss.classifies:
        return "logits of the classes"
    return "logarithm of the mean" if loss.name == "poisson" else "prediction"
