"""`mpinewton pack`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mpinewton.cli.reading import reading_options, take_reading
from mpinewton.errors import ConfigError

if TYPE_CHECKING:
    from mpinewton.data.pack import Packed


@click.command("pack")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--workers", type=int, required=True, help="Number of logical workers, one shard each.")
@click.option("--partition", default="iid", show_default=True, metavar="RULE", help="How rows are assigned to workers.")
@click.option("--features", type=click.IntRange(1), help="Number of features.  [default: as found in the source]")
@click.option("--rows", type=click.IntRange(1), help="Use only this many rows, the first ones.")
@click.option("--sample", type=click.IntRange(1), help="Use only this many rows, drawn at random, in random order.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sample and the partition.")
@click.option("--scale", default="1", show_default=True, help="Factor for all features, such as 0.5 or 1/255.")
@click.option("--dense", is_flag=True, help="Store dense rows.  [default: as the source]")
@click.option("--sparse", is_flag=True, help="Store sparse rows.  [default: as the source]")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float64", "float32", "uint8"]),
    default="auto",
    show_default=True,
    help="Data type of the stored features. uint8: bytes, scaled when read; auto: uint8 for images and text.",
)
@click.option("--standardize", is_flag=True, help="Give features mean 0 and standard deviation 1.")
@click.option(
    "--categories",
    type=click.Choice(["error", "onehot"]),
    default="error",
    show_default=True,
    help="Columns of words: refuse them, or make each word a feature.",
)
@click.option(
    "--missing",
    type=click.Choice(["error", "mean", "indicator"]),
    default="error",
    show_default=True,
    help="Missing values: refuse them, use the mean, or also add a feature that marks them.",
)
@click.option("--class-weight", metavar="W", help="Factors of the weights: balanced, or label=factor,...")
@click.option("--compress", is_flag=True, help="Compress the shards (lzf).")
@reading_options
@click.option(
    "--max-features", type=click.IntRange(1, 2**31 - 1), default=2**24, show_default=True, help="Refuse more features."
)
@click.option("--overwrite", is_flag=True, help="Replace packed data in the output folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
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
    max_features: int,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write one HDF5 file (shard) per logical worker, and a manifest.

    SOURCE is a file (LIBSVM text or CSV, also .gz .bz2 .xz; npz with X and y; npy; images of an idx pair; Parquet), a
    public data set that `mpinewton datasets` lists (found in MPINEWTON_DATA, else downloaded), sklearn:NAME (digits,
    iris, wine, breast_cancer, diabetes) or synthetic:NAME?key=value&... (logistic, least-squares, blobs, poisson,
    pisa). text:FILE?context=32&from=0&to=100000 divides the characters from..to of a text into rows of 32 characters,
    with the next character as label; python:topics is the text of Python's help.

    Columns of tables keep their names, and predict matches them by name. Missing values are empty cells, ?, NA, N/A,
    NaN and null. --categories onehot turns each word of a column into a feature that is 0 or 1. --missing mean replaces
    a missing number by the mean of its column; the features of a missing word are 0. --missing indicator also adds a
    feature that is 1 where a value is missing. --standardize divides features by their standard deviation and, if rows
    are stored dense, subtracts the mean first. Features of words stay 0 or 1; constant features are not divided. The
    stored rows do not change: mean and deviation are kept in the manifest and applied when rows are read.
    --class-weight balanced gives each class the same total weight.

    \b
    RULE is one of
      iid             random permutation, assigned to the workers in turn
      blocks          consecutive rows, in equal parts; blocks:n1,n2,... in parts of these sizes
      round-robin     consecutive rows, assigned to the workers in turn
      sizes:n1,n2,... random permutation, in parts of these sizes
      label-skew:s    worker i has label i mod K and s - 1 random others
      dirichlet:a     every label is divided in Dirichlet(a) proportions
      quantity:a      random permutation, in parts of Dirichlet(a) proportions
      as-given        the shards that the source defines (synthetic:pisa)
    """
    from mpinewton.data.pack import one_by_one, pack

    if dense and sparse:
        raise ConfigError("--dense and --sparse contradict each other; give one of them")
    drawn = settings["sample"] or not settings["partition"].startswith(("blocks", "round-robin", "as-given"))
    if not drawn and ctx.get_parameter_source("seed") is ParameterSource.COMMANDLINE:
        raise ConfigError(f"--seed has no effect: --partition {settings['partition']} without --sample is not random")
    coding = {name: settings.pop(name) for name in ("categories", "missing")}
    reading = take_reading(settings, features=features, rows=rows, max_features=max_features, **coding)
    packed = pack(
        source,
        output,
        workers,
        storage="dense" if dense else "sparse" if sparse else "auto",
        reading=reading,
        each=getattr(ctx.obj, "each", None) or one_by_one,
        **settings,
    )
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(packed.manifest))
    else:
        click.echo(f"{output}: {summary(packed)}")


def summary(packed: Packed) -> str:
    """Description of the packed data, in a few lines."""
    import statistics

    import numpy as np

    m = packed.manifest
    share = "" if packed.stored is None else f"{packed.stored} entries ({packed.stored / (m.rows * m.features):.2%}), "
    sizes = [entry.rows for entry in m.shards]
    width = np.dtype(m.dtype).itemsize
    memory = (m.entries or 0) * (width + 4) + 8 * m.rows if m.sparse else m.rows * m.features * width
    kind = "sparse" if m.sparse else "dense"
    bytes_ = " (losses of torch keep bytes; other losses convert them to floats)" if m.dtype == "uint8" else ""
    lines = [
        f"{m.rows} rows, {m.features} features, {share}{kind} {m.dtype}",
        f"  shards   {m.workers}, rows {min(sizes)} / {statistics.median(sizes):g} / {max(sizes)} (min/median/max)",
        f"  memory   about {(memory + 8 * m.rows * (2 if m.weighted else 1)) / 2**20:.1f} MiB for all rows{bytes_}",
        f"  digest   {m.data_sha256}",
    ]
    if m.classes is not None and packed.class_rows is not None:
        names = [f"{label:g}" for label in m.classes] if m.class_names is None else map(shown_name, m.class_names)
        shown = [f"{name}: {count}" for name, count in zip(names, packed.class_rows)]
        lines.insert(1, f"  classes  {', '.join(shown[:12])}{f', ... ({len(shown)})' if len(shown) > 12 else ''}")
    if m.label_name is not None:
        lines.append(f"  labels   column {shown_name(m.label_name)}")
    lines += [f"  note     {note}" for note in packed.notes]
    return "\n".join(lines)


def shown_name(name: str) -> str:
    """A class name on one line; as Python's repr if it is blank or not printable."""
    return name if name.isprintable() and name.strip() else repr(name)
