"""`mpinewton predict`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mpinewton.cli.reading import reading_options, take_reading
from mpinewton.errors import ConfigError


@click.command("predict")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write: .npy, .csv, or text with one prediction per line.  [default: print the text]",
)
@click.option("--proba", is_flag=True, help="Probabilities, one column per class, in place of labels.")
@reading_options
def command(model: Path, data: str, output: Path | None, proba: bool, **settings: Any) -> None:
    """Predict a label or a number for every row of DATA.

    MODEL is the model.h5 of a run. DATA is a folder of shards or anything that `pack` reads; labels are not needed. The
    columns of a table are found by their names. The text is UTF-8.
    """
    import numpy as np

    from mpinewton.data.loading import load_rows
    from mpinewton.runs.model import read_model

    trained = read_model(model)
    shard, _ = load_rows(data, trained.schema, take_reading(settings, labels=False))
    if proba:
        found, names = trained.probabilities(shard), trained.labels
    else:
        found, names = trained.predict(shard), ["prediction"]
        if words := trained.schema.class_names:
            found = np.array(words)[found.astype(int)]
    if output is not None and output.suffix == ".npy":
        content = io.BytesIO()
        np.save(content, found, allow_pickle=False)
        _write(output, content.getvalue())
    elif proba or (output is not None and output.suffix == ".csv"):
        _write(output, csv_text(names, found.reshape(len(found), -1).tolist()).encode())
    else:
        _write(output, "".join(f"{cell_text(value)}\n" for value in found.tolist()).encode())


def cell_text(value: Any) -> str:
    """A label or a number as text that gives the same number; a class name on one line."""
    from mpinewton.cli.pack import shown_name

    return shown_name(value) if isinstance(value, str) else f"{value:.17g}"


def csv_text(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([value if isinstance(value, str) else f"{value:.17g}" for value in row] for row in rows)
    return text.getvalue()


def _write(output: Path | None, content: bytes) -> None:
    """Write bytes to a file, or to standard output. Raises ConfigError."""
    try:
        if output is None:
            click.echo(content, nl=False)
        else:
            output.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{output or 'standard output'} cannot be written: {error.strerror}") from error
