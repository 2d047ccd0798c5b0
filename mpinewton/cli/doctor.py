"""mpinewton doctor: a block of facts to paste into a bug report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mpinewton.fleet.session import Session


@click.command("doctor")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path())
@click.option(
    "--nproc", type=click.IntRange(1), metavar="W", help="Start mpiexec with a driver and W ranks of workers."
)
@click.pass_obj
def command(session: Session, /, folder: Path, nproc: int | None) -> int:
    """Say what Python, MPI, threads and messages are like here, and what the disk under DIR is like.

    Under mpiexec, srun or --nproc it compares all hosts and times the messages between their ranks.
    """
    if nproc is not None:
        from mpinewton.cli.run import launched

        return launched(session, nproc)
    from mpinewton.runs.doctor import examine

    click.echo(examine(session, folder))
    return 0
