"""`mpinewton examples`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from mpinewton.errors import ConfigError


@click.command("examples")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("mpinewton-examples"))
@click.option("--overwrite", is_flag=True, help="Replace files of these names in DIR.")
def command(folder: Path, overwrite: bool) -> None:
    """Write ready experiments and a SLURM job script into DIR (default: mpinewton-examples).

    Each *.toml is an experiment for `mpinewton compare`. digits.toml needs no other file. Files that
    contain $MPINEWTON_DATA read public data sets from the folder that this variable names.
    """
    jobs = files("mpinewton").joinpath("jobs")
    contents = {file.name: file.read_bytes() for file in jobs.iterdir() if file.is_file()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        differ = [
            name for name, content in contents.items()
            if (folder / name).exists() and (folder / name).read_bytes() != content
        ]  # fmt: skip
        if differ and not overwrite:
            names = ", ".join(sorted(differ))
            raise ConfigError(f"{folder} has other files named {names}; choose another folder, or pass --overwrite")
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    for name in sorted(contents):
        click.echo(folder / name)
    click.echo(f"\nTry: mpinewton compare {folder / 'digits.toml'} -o digits")
