"""`mpinewton run`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpinewton.cli.completion import complete_data, complete_loss, complete_method, complete_setting
from mpinewton.cli.reading import NETWORK_FORMS, reading_options, take_given
from mpinewton.errors import ConfigError
from mpinewton.launcher import END_VARIABLE, has_ulfm

if TYPE_CHECKING:
    from mpinewton.data.manifest import Manifest
    from mpinewton.fleet.transport.session import Session
    from mpinewton.runs.job import Job

MEASURED = "measured"
SIZES = (8, 1 << 17)  # bytes of the messages that are timed

bits_option = click.option(
    "--bits",
    type=click.Choice(["fast", "portable"]),
    help="portable gives the same bits on every x86-64 processor with AVX2.  [default: fast]",
)
memory_option = click.option(
    "--memory",
    metavar="LIMIT",
    help="Memory limit of a rank, such as 500M or 2G. Rows that do not fit are read from disk in every pass.",
)


@click.command("run")
@click.argument("method", required=False, shell_complete=complete_method)
@click.argument("data", required=False, shell_complete=complete_data)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.  [default: runs/METHOD-DATA]")
@click.option("--nproc", type=click.IntRange(1), metavar="W", help="Start mpiexec with a driver and W worker ranks.")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_setting,
    help="A setting of the method, such as theta=0.1 or search.first=51; `mpinewton methods METHOD` lists them.",
)
@click.option(
    "--loss", shell_complete=complete_loss, help="Loss, such as huber:delta=1.5.  [default: depends on the labels]"
)
@click.option("--l2", type=float, help="Regularisation: coefficient of |w|^2/2.  [default: 1/rows]")
@click.option("--intercept/--no-intercept", default=None, help="Add an intercept, which is not regularised.")
@click.option("--tol", type=float, help="Tolerance on the gradient norm.")
@click.option("--rtol", type=float, help="Tolerance on the gradient norm relative to the first.")
@click.option(
    "--ftol",
    type=float,
    help="Tolerance on the estimated gap, relative to the decrease so far.  [default: 1e-14 if no other goal]",
)
@click.option("--gap", type=float, help="Tolerance on the gap to the optimal value; requires --reference.")
@click.option(
    "--reference",
    metavar="auto|VALUE",
    help="Optimal value, for the gap; auto computes and saves it beside the shards.",
)
@click.option(
    "--max-iterations", type=click.IntRange(0), help="Maximum number of iterations.  [default: 1000 if no other limit]"
)
@click.option("--max-rounds", type=click.IntRange(0), help="Maximum number of rounds: broadcasts and reductions.")
@click.option("--max-bits", type=float, help="Maximum number of bits on the link of the busiest worker.")
@click.option("--max-seconds", type=float, help="Maximum time in seconds, without evaluation for the record.")
@click.option(
    "--network",
    metavar="NETWORK",
    help=f"Network that auto chooses for: {NETWORK_FORMS}; or measured: that between the ranks, timed at the start. A "
    "resumed run keeps the measured network; a new run measures again and may choose another method.  "
    "[default: one node]",
)
@click.option("--max-hours", type=float, help="Time limit in hours: write a checkpoint and end with exit code 3.")
@click.option(
    "--rank-timeout",
    type=float,
    metavar="SECONDS",
    help="End the job if a rank takes longer to answer.  [default: name the rank after 30 s, and wait]",
)
@click.option(
    "--on-failure",
    type=click.Choice(["stop", "restart", "restart-fewer", "continue"]),
    default="stop",
    help="If a rank dies: restart (with --nproc) from the checkpoint, at most 3 times; restart-fewer: with one rank "
    "fewer each time; continue (with Open MPI's ULFM): the other ranks continue from the checkpoint.  [default: stop]",
)
@click.option(
    "--start",
    metavar="auto|zero|FILE|optimum+C",
    help="Initial weights: those of the loss (auto), zero, a model, or the optimum + C.  [default: auto]",
)
@click.option("--seed", type=int, help="Seed of the random numbers of the method.  [default: 0]")
@click.option(
    "--dtype", type=click.Choice(["float64", "float32"]), help="Data type of the data in memory.  [default: float64]"
)
@memory_option
@click.option("--test", metavar="DATA", help="Test data; accuracy and loss on them are recorded, but not charged.")
@reading_options
@click.option(
    "--measure-every",
    type=click.IntRange(1),
    metavar="K",
    help="Iterations between measurements that the method itself does not need.  [default: 1; for minibatch methods, "
    "one epoch]",
)
@click.option(
    "--sums",
    type=click.Choice(["fixed", "mpi"]),
    help="Order of sums over workers: fixed gives the same bits on any number of ranks.  [default: fixed]",
)
@bits_option
@click.option(
    "--checkpoint-seconds", type=float, help="Seconds between checkpoints; 0 for one per iteration.  [default: 600]"
)
@click.option("--fresh", is_flag=True, help="Move an older run in the folder aside instead of resuming it.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Read options from a file, such as the config.toml of a run; the command line takes precedence.",
)
@click.option("--json", "as_json", is_flag=True, help="Print result.json; the log goes to standard error.")
@click.pass_obj
def command(
    session: Any,
    /,
    output: Path | None,
    nproc: int | None,
    on_failure: str,
    pairs: tuple[str, ...],
    fresh: bool,
    config: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Train a model with METHOD on DATA, a folder written by `mpinewton pack`.

    The same command resumes from the checkpoint, on any number of ranks, with the same bits. The options --format to
    --allow-partial-last-line are for the file of --test; they have the meaning that they have in `mpinewton pack`.

    Exit codes: 0 finished (converged, or a maximum reached); 1 failed or diverged; 2 invalid settings or data, nothing
    was started; 3 stopped by a signal or the time limit: run the same command again.
    """  # fmt: skip
    if nproc is not None:
        return launch(session, nproc, on_failure)
    job, manifest = parse_job(config, pairs, **options)
    survive = on_failure == "continue"
    if survive and not has_ulfm():
        raise ConfigError(
            "--on-failure continue needs ranks that outlive others (ULFM): give --nproc, or start the job by "
            "`mpiexec --with-ft ulfm` of Open MPI 5"
        )
    if on_failure.startswith("restart") and END_VARIABLE not in os.environ:
        raise ConfigError(f"--on-failure {on_failure} needs --nproc: without it, restart the job from outside")
    if as_json:
        log_to_stderr()
    from mpinewton.runs.execute import execute

    path = output or Path("runs") / f"{job.algorithm.name}-{Path(job.data).name}"
    if options["network"] == MEASURED:
        job, manifest = parse_job(config, pairs, measure_network(session, path), **options)
    result = execute(session, job, manifest, path, fresh, survive)
    code: int = result.pop("exit_code")
    if as_json:
        click.echo(json.dumps(result, indent=2))
    return code


def parse_job(
    config: Path | None, pairs: tuple[str, ...], measured: dict[str, float] | None = None, **options: Any
) -> tuple[Job, Manifest]:
    """The complete job of a command line, and the manifest of its data.

    Parameters
    ----------
    config : Path or None
        A TOML file of options; `options` take precedence.
    pairs : tuple of str
        Settings as `key=value`.
    measured : dict, optional
        The settings `latency` and `rate` of a network that was measured, for --network measured.
    **options
        Options by the names of the fields of `Job`; None if not given.

    Raises
    ------
    ConfigError, DataError
        If an option is not valid, or the data cannot be read.
    """
    from mpinewton.methods.settings import overlay, parse_settings
    from mpinewton.runs.job import Job, load_job, read_options

    reading = take_given(options)
    content = read_options(config) if config else {}
    for table in ("settings", "test_reading"):
        if not isinstance(content.get(table, {}), dict):
            raise ConfigError(f"{config}: {table} is {content[table]!r}; expected a table, [{table}]")
    network = options.pop("network", None)
    content["test_reading"] = content.get("test_reading", {}) | reading
    content |= {name: value for name, value in options.items() if value is not None}
    content["settings"] = overlay(content.get("settings", {}), parse_settings(pairs))
    if network is not None:
        if content.get("method") != "auto":
            raise ConfigError("--network has no effect: of all methods only auto depends on the network")
        content["settings"] |= parse_network(network) if network != MEASURED else measured or {}
    return load_job(Job.of(content, str(config) if config else "command line"))


def parse_network(text: str) -> dict[str, float]:
    """The settings `latency` and `rate` of auto for a network. Raises ConfigError, DataError."""
    from mpinewton.report.network import read_network

    network = read_network(text)
    return {"latency": network.latency, "rate": network.bandwidth}


def measure_network(session: Session, path: Path) -> dict[str, float]:
    """The settings `latency` and `rate` of the network between the ranks, to one digit; those of the run in the folder
    `path`, where there is one. Raises ConfigError.
    """
    from mpinewton.report.network import network_of
    from mpinewton.runs.job import read_options

    if (path / "config.toml").exists():
        settings = read_options(path / "config.toml").get("settings", {})
        return {name: settings[name] for name in ("latency", "rate") if name in settings}
    if session.ranks == 1:
        raise ConfigError(
            f"--network {MEASURED} times messages between ranks: start some with --nproc, or under mpiexec"
        )
    found, _ = network_of(session.time_echoes(SIZES))
    return {"latency": float(f"{found.latency + found.message:.0e}"), "rate": float(f"{found.bandwidth:.0e}")}


def launch(session: Any, nproc: int, on_failure: str = "stop") -> int:
    """Start the same command under mpiexec with a driver and `nproc` worker ranks. Returns its exit code."""
    from mpinewton.launcher import RESTARTS, require_open_mpi, start

    if session.ranks > 1:
        raise ConfigError("--nproc starts mpiexec, but the command already runs under mpiexec: use one of the two")
    arguments = _without_nproc(sys.argv[1:])
    if on_failure == "continue":
        require_open_mpi()
        return start(nproc + 1, arguments, options=["--with-ft", "ulfm"])
    restarts = 0 if on_failure == "stop" else RESTARTS
    return start(nproc + 1, arguments, restarts, fewer=on_failure == "restart-fewer")


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


def log_to_stderr() -> None:
    """Log to standard error, so that standard output holds the result alone."""
    import logging

    for handler in logging.getLogger("mpinewton").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
