"""The command line: one file for each command, imported when the command is called, on the driver only."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpinewton import __version__
from mpinewton.durable import explain
from mpinewton.errors import MpinewtonError, did_you_mean
from mpinewton.output import Lines, abandon_stdout, any_locale, say
from mpinewton.signals import release_signals

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

click.IntRange.name = "integer"  # in help and messages; not "integer range"

COMMANDS = {
    "pack": "Write data as one HDF5 file (shard) per worker.",
    "check": "Verify digests and shapes of shards.",
    "info": "Show the content of shards, a model or a checkpoint.",
    "run": "Train a model; the same command resumes a run.",
    "compare": "Run a grid of methods, data and settings, and report on it.",
    "plan": "Estimate what training would take on a network, by several methods.",
    "plot": "Plot the gap against rounds, bits and seconds.",
    "replay": "Compute what recorded runs would have taken on other networks.",
    "report": "Write an HTML page about runs.",
    "predict": "Predict labels of data with a model.",
    "evaluate": "Evaluate a model on data.",
    "coefficients": "Print the coefficients of a linear model, with standard errors.",
    "methods": "List the methods, with cost, requirements and settings.",
    "losses": "List the losses, with settings and formulae.",
    "datasets": "List and download public data sets.",
    "examples": "Write ready experiments and a job script into a folder.",
    "slurm": "Print a SLURM job script.",
    "doctor": "Describe MPI, Python and this machine, for a bug report.",
}


class LazyGroup(click.Group):
    """Commands that are imported when they are called, so that --help and usage errors are fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"mpinewton.cli.{name}").command
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            ctx.fail(f"unknown command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mpinewton")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Train models with second-order methods over MPI, and count every round, float and bit that is sent.

    \b
      mpinewton pack data.csv -o data --workers 4
      mpinewton run auto data --nproc 4                # or: mpiexec -n 5 mpinewton run auto data
      mpinewton predict runs/auto-data/model.h5 new.csv
    """
    if ctx.invoked_subcommand not in ("run", "compare"):
        release_signals()


def run_command_line(session: Session, arguments: list[str] | None = None) -> int:
    """Run one command. Returns its exit code; prints errors of the user and of the system, and raises all others."""
    show_log()
    try:
        code = _code(session, arguments)
    except OSError as error:
        if error.filename is None:  # of a file that is open: standard output, most likely
            say(f"standard output or a file cannot be written ({error.strerror or error})")
        else:
            say(f"{error.filename}: {explain(error, Path(error.filename).parent)}")
        code = MpinewtonError.exit_code
    except MemoryError as error:
        say(f"out of memory ({str(error) or 'an allocation failed'}); use a host with more, or ranks on more hosts")
        code = MpinewtonError.exit_code
    try:
        sys.stdout.flush()
    except OSError as error:
        abandon_stdout(error)
    return code


def _code(session: Session, arguments: list[str] | None) -> int:
    try:
        result = main.main(args=arguments, prog_name="mpinewton", obj=session, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return MpinewtonError.exit_code if isinstance(error, click.FileError) else 2
    except click.Abort:
        say("interrupted")
        return 1
    except MpinewtonError as error:
        say(str(error))
        return error.exit_code
    return result if isinstance(result, int) else 0


def asks_for_portable_bits(arguments: list[str]) -> bool:
    """Whether a command line asks for portable bits, itself or by its file; numpy is not imported."""
    if not arguments or arguments[0] not in ("run", "compare"):
        return False
    command = main.get_command(click.Context(main), arguments[0])
    assert command is not None
    said = command.make_context(arguments[0], arguments[1:], resilient_parsing=True).params
    file = said.get("config") or said.get("experiment")
    if said["bits"] is None and file is not None:
        with contextlib.suppress(OSError, ValueError):  # the command says what is wrong with its file
            return bool(tomllib.loads(file.read_text(encoding="utf-8-sig")).get("bits") == "portable")
    return bool(said["bits"] == "portable")


def show_log() -> None:
    """Send the log to standard output."""
    any_locale()
    log = logging.getLogger("mpinewton")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not any(getattr(handler, "stream", None) is sys.stdout for handler in log.handlers):
        handler = Lines(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
