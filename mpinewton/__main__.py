"""The command `mpinewton`, alone or under mpiexec."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from mpinewton.signals import record_signals

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session


def main() -> None:
    """Entry point: rank 0 reads the command line, the other ranks serve it."""
    record_signals()  # before more is imported
    gc.set_threshold(50_000)  # imports make many objects that stay; to look through them is a tenth of a start
    from mpinewton.errors import MpinewtonError
    from mpinewton.launcher import END_VARIABLE, end_with_parent, leave, one_thread_per_rank

    if END_VARIABLE in os.environ:
        end_with_parent(signal.SIGKILL)
    one_thread_per_rank()
    try:
        from mpinewton.fleet.transport.session import join

        code = join(_drive, _portable)
    except MpinewtonError as error:
        sys.stderr.write(f"mpinewton: {error}\n")
        code = error.exit_code
    except SystemExit as end:
        leave(end.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


def _drive(session: Session) -> int:
    from mpinewton.cli import run_command_line

    return run_command_line(session)


def _portable() -> bool:
    from mpinewton.cli import asks_for_portable_bits

    return asks_for_portable_bits(sys.argv[1:])


if __name__ == "__main__":
    main()
