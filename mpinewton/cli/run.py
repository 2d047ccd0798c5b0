"""`mpinewton run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpinewton.errors import ConfigError

if TYPE_CHECKING:
    from mpinewton.data.manifest import Manifest
    from mpinewton.runs.job import Job


@click.command("run")
@click.argument("method", required=False)
@click.argument("data", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.  [default: runs/METHOD-DATA]")
@click.option(
    "--nproc", type=click.IntRange(1), metavar="W", help="Start mpiexec with a driver and W ranks of workers."
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the method, as theta=0.1; of a part, as search.first=51.",
)
@click.option("--loss", help="Loss, as huber:delta=1.5.  [default: by the labels]")
@click.option("--l2", type=float, help="Coefficient of |w|^2/2.  [default: 1/rows]")
@click.option("--intercept/--no-intercept", default=None, help="Add a feature that is always 1; it is not regularised.")
@click.option("--tol", type=float, help="Stop at this gradient norm.  [default: 1e-8 if no other goal is given]")
@click.option("--rtol", type=float, help="Stop at this part of the first gradient norm.")
@click.option("--gap", type=float, help="Stop at this gap to the optimum; needs --reference.")
@click.option(
    "--reference", metavar="auto|VALUE", help="The optimal value; auto computes it once and keeps it beside the shards."
)
@click.option("--max-iterations", type=click.IntRange(0), help="[default: 1000 if no other budget is given]")
@click.option("--max-rounds", type=click.IntRange(0))
@click.option("--max-bits", type=float, help="Bits on the busiest worker's link, down and up.")
@click.option("--max-seconds", type=float)
@click.option("--max-hours", type=float, help="Time limit: checkpoint and exit 3, to be run again.")
@click.option("--start", metavar="auto|zero|FILE|optimum+C", help="First weights.  [default: auto: the loss's own]")
@click.option("--seed", type=int, help="[default: 0]")
@click.option(
    "--dtype", type=click.Choice(["float64", "float32"]), help="Storage of the data; sums are float64 always."
)
@click.option("--test", metavar="DATA", help="Record accuracy and loss on these data, outside clock and ledger.")
@click.option(
    "--measure-every",
    type=click.IntRange(1),
    metavar="K",
    help="What the method does not know is measured, for the record and the goals, at every K-th iterate alone.",
)
@click.option(
    "--sums",
    type=click.Choice(["fixed", "mpi"]),
    help="Order of sums: fixed gives the same bits on any number of ranks.",
)
@click.option(
    "--checkpoint-seconds", type=float, help="Time between checkpoints; 0 means every iteration.  [default: 600]"
)
@click.option("--fresh", is_flag=True, help="Move an older run in the folder aside, instead of going on with it.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Options from a file, as config.toml of a run folder; the command line wins.",
)
@click.option("--json", "as_json", is_flag=True, help="Print result.json instead of log lines.")
@click.pass_obj
def command(
    session: Any,
    /,
    output: Path | None,
    nproc: int | None,
    pairs: tuple[str, ...],
    fresh: bool,
    config: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Train METHOD on DATA, a folder that `mpinewton pack` wrote.

    The same command on the same folder goes on from its checkpoint, on any number of ranks, to the same bits.

    Exit codes: 0 finished (converged, or the budget is used up); 1 failed; 2 bad settings or data, nothing was started;
    3 stopped by a signal or the time limit: run the same command again.
    """  # fmt: skip
    job, manifest = asked_for(config, pairs, **options)
    if nproc is not None:
        return launched(session, nproc)
    if as_json:
        _log_to_stderr()
    from mpinewton.runs.execute import execute

    path = output or Path("runs") / f"{job.method}-{Path(job.data).name}"
    result = execute(session, job, manifest, path, fresh)
    code: int = result.pop("exit_code")
    if as_json:
        click.echo(json.dumps(result, indent=2))
    return code


def asked_for(config: Path | None, pairs: tuple[str, ...], **options: Any) -> tuple[Job, Manifest]:
    """The run that a command line means, checked as far as can be without starting it, and the manifest of its data."""
    from mpinewton.methods.registry import overlaid, parsed_settings
    from mpinewton.runs.job import Job, load_job, read_options

    content = read_options(config) if config else {}
    content |= {name: value for name, value in options.items() if value is not None}
    content["settings"] = overlaid(content.get("settings", {}), parsed_settings(pairs))
    return load_job(Job.of(content, str(config) if config else "command line"))


def launched(session: Any, nproc: int) -> int:
    """Start the same command under mpiexec: a driver and nproc ranks of workers."""
    from mpinewton.launcher import start

    if session.ranks > 1:
        raise ConfigError("--nproc starts mpiexec, and this is under mpiexec already: leave one of the two out")
    return start(nproc + 1, _without_nproc(sys.argv[1:]))


def _without_nproc(arguments: list[str]) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        if skip or argument.startswith("--nproc="):
            skip = False
        elif argument == "--nproc":
            skip = True
        else:
            kept.append(argument)
    return kept


def _log_to_stderr() -> None:
    import logging

    for handler in logging.getLogger("mpinewton").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
