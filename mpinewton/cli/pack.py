"""mpinewton pack: from a source of rows to a folder of shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpinewton.errors import ConfigError

if TYPE_CHECKING:
    from mpinewton.data.pack import Packed


@click.command("pack")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--workers", type=int, required=True, help="Number of logical workers, one shard each.")
@click.option("--partition", default="iid", show_default=True, metavar="RULE", help="Which worker gets which rows.")
@click.option("--features", type=click.IntRange(1), help="Number of features, where the last columns may be empty.")
@click.option("--rows", type=click.IntRange(1), help="Only the first so many rows.")
@click.option("--sample", type=click.IntRange(1), help="Only so many rows, drawn at random, in the order of drawing.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample and the partition.")
@click.option("--scale", default="1", show_default=True, help="Factor of the features, such as 0.5 or 1/255.")
@click.option("--dense", is_flag=True, help="Store dense rows.  [default: as the source is]")
@click.option("--sparse", is_flag=True, help="Store sparse rows.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float64", "float32", "uint8"]),
    default="auto",
    show_default=True,
    help="Of the stored features; uint8: bytes, multiplied by --scale when they are read. auto: so images and text.",
)
@click.option("--compress", is_flag=True, help="Compress the shards (lzf).")
@click.option("--format", "form", default="auto", show_default=True, help="libsvm, csv, npz, npy, idx or parquet.")
@click.option("--label-column", help="Name or number (from 1; -1 is the last, the default) of a table's labels.")
@click.option("--weight-column", help="Name or number of a table's row weights.")
@click.option("--max-features", type=click.IntRange(1, (1 << 31) - 1), default=1 << 24, show_default=True)
@click.option("--allow-partial-last-line", is_flag=True, help="Accept a text file that does not end in a newline.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier pack in the output folder.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    source: str,
    output: Path,
    workers: int,
    features: int | None,
    rows: int | None,
    dense: bool,
    sparse: bool,
    form: str,
    label_column: str | None,
    weight_column: str | None,
    max_features: int,
    allow_partial_last_line: bool,
    **settings: Any,
) -> None:
    """Write one HDF5 file per logical worker, and a manifest.

    SOURCE is a file (LIBSVM text or CSV, also .gz .bz2 .xz; npz with X and y; npy; images of an idx pair; Parquet),
    sklearn:NAME (digits, iris, wine, breast_cancer, diabetes) or synthetic:NAME?key=value&... (logistic,
    least-squares, blobs, poisson, pisa). text:FILE?context=32&from=0&to=100000 cuts characters from..to of a text into
    rows of 32, each with the next character as its label; python:topics is the text of Python's own help.

    \b
    RULE is one of
      iid             a random permutation, dealt to the workers in turn
      blocks          file order, or that of --sample, in equal parts; blocks:n1,n2,... in these sizes
      round-robin     the same order, dealt to the workers in turn
      sizes:n1,n2,... a random permutation, in parts of these sizes
      label-skew:s    worker i holds label i mod K and s - 1 random others
      dirichlet:a     each label shared out by Dirichlet(a) proportions
      quantity:a      a random permutation, cut by Dirichlet(a) proportions
      as-given        the shards that the source prescribes (synthetic:pisa)
    """
    from mpinewton.data.blocks import Reading
    from mpinewton.data.pack import one_by_one, pack

    if dense and sparse:
        raise ConfigError("--dense and --sparse: rows are stored in one of the two ways; leave one out")
    reading = Reading(
        format=form,
        features=features,
        rows=rows,
        max_features=max_features,
        label_column=label_column,
        weight_column=weight_column,
        allow_partial_last_line=allow_partial_last_line,
    )
    packed = pack(
        source,
        output,
        workers,
        storage="dense" if dense else "sparse" if sparse else "auto",
        reading=reading,
        each=getattr(ctx.obj, "each", None) or one_by_one,
        **settings,
    )
    click.echo(f"{output}: {summary(packed)}")


def summary(packed: Packed) -> str:
    """What was packed, in a few lines."""
    import statistics

    import numpy as np

    m = packed.manifest
    share = packed.stored / (m.rows * m.features)
    sizes = [entry.rows for entry in m.shards]
    width = np.dtype(m.dtype).itemsize
    memory = packed.stored * (width + 4) + 8 * m.rows if m.sparse else m.rows * m.features * width
    kind = "sparse" if m.sparse else "dense"
    bytes_ = ", of which torch keeps the bytes; other losses make floats of them" if m.dtype == "uint8" else ""
    lines = [
        f"{m.rows} rows, {m.features} features, {packed.stored} entries ({share:.2%}), {kind} {m.dtype}",
        f"  shards   {m.workers}, rows {min(sizes)} / {statistics.median(sizes):g} / {max(sizes)} (min/median/max)",
        f"  memory   about {(memory + 8 * m.rows * (2 if m.weighted else 1)) / 2**20:.1f} MiB for all rows{bytes_}",
        f"  digest   {m.data_sha256}",
    ]
    if m.classes is not None and packed.class_rows is not None:
        names = [f"{label:g}" for label in m.classes] if m.class_names is None else map(shown_name, m.class_names)
        shown = [f"{name}: {count}" for name, count in zip(names, packed.class_rows)]
        lines.insert(1, f"  classes  {', '.join(shown[:12])}{f', ... ({len(shown)})' if len(shown) > 12 else ''}")
    return "\n".join(lines)


def shown_name(name: str) -> str:
    """A class name on one line, seen: of a character that is blank or unprintable, how Python writes it."""
    return name if name.isprintable() and name.strip() else repr(name)
