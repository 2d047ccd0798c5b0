"""`mpinewton predict`."""

from __future__ import annotations

from pathlib import Path

import click

from mpinewton.errors import ConfigError


@click.command("predict")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write, one prediction per line.  [default: print]"
)
@click.option("--label-column", help="Label column of a table, by name or number.  [default: the last]")
@click.option("--weight-column", help="Column of sample weights of a table, by name or number.")
def command(model: Path, data: str, label_column: str | None, weight_column: str | None, output: Path | None) -> None:
    """Predict a label or a number for every row of DATA.

    MODEL is the model.h5 of a run. DATA is a folder of shards or anything that `pack` reads.
    """
    from mpinewton.cli.pack import shown_name
    from mpinewton.data.blocks import Reading
    from mpinewton.data.loading import load_rows
    from mpinewton.runs.model import read_model

    trained = read_model(model)
    reading = Reading(label_column=label_column, weight_column=weight_column)
    shard, _ = load_rows(data, trained.features, trained.class_names or (), trained.scale, reading)
    predictions = trained.predict(shard)
    if trained.class_names is not None:
        words = [shown_name(name) for name in trained.class_names]
        lines = [words[number] for number in predictions.astype(int)]
    else:
        lines = [f"{value:.17g}" for value in predictions]
    text = "".join(f"{line}\n" for line in lines)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from error
