"""The command line. One file a command; it is read on the driver only, and a command's file only when it is called."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

import click

from mpinewton import __version__
from mpinewton.errors import MpinewtonError, did_you_mean

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

COMMANDS = {
    "pack": "Cut data into one checked HDF5 file per worker.",
    "check": "Verify digests and shapes of shards.",
    "info": "Say what is inside a folder of shards, a model or a checkpoint.",
    "run": "Train; the same command goes on where it was stopped.",
    "compare": "Run a grid of methods, data and settings, and draw it.",
    "plot": "Draw gap against rounds, bits and seconds.",
    "report": "Write one HTML page about runs.",
    "predict": "Use a model on data.",
    "evaluate": "Say how well a model does on data.",
    "methods": "List the methods: cost, needs, settings.",
    "losses": "List the losses.",
    "slurm": "Print a SLURM job script to read and edit.",
    "doctor": "Say what MPI, Python and this machine are like, for a bug report.",
}


class LazyGroup(click.Group):
    """Commands whose files are imported when they are called, so that --help and mistakes answer at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"mpinewton.cli.{name}").command
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mpinewton")
def main() -> None:
    """Second-order distributed optimisation over MPI: a driver, workers, and a ledger of every bit that crosses.

    Alone a command uses one process; `mpiexec -n N mpinewton run ...`, or `mpinewton run --nproc W ...`, uses many.
    """


def run_command_line(session: Session, arguments: list[str] | None = None) -> int:
    """Carry out one command; its exit code. Errors made on purpose are printed, others raised."""
    show_log()
    try:
        result = main.main(args=arguments, prog_name="mpinewton", obj=session, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return MpinewtonError.exit_code if isinstance(error, click.FileError) else 2
    except click.Abort:
        sys.stderr.write("mpinewton: interrupted\n")
        return 1
    except MpinewtonError as error:
        sys.stderr.write(f"mpinewton: {error}\n")
        return error.exit_code
    return result if isinstance(result, int) else 0


def show_log() -> None:
    """Send what runs log to standard output."""
    log = logging.getLogger("mpinewton")
    log.setLevel(logging.INFO)
    log.propagate = False
    if not any(getattr(handler, "stream", None) is sys.stdout for handler in log.handlers):
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
