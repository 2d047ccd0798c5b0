"""The command `mpinewton`, alone or under mpiexec."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mpinewton.errors import MpinewtonError
from mpinewton.launcher import one_thread_per_rank

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session


def main() -> None:
    """Entry point: rank 0 reads the command line, the other ranks serve it."""
    one_thread_per_rank()
    from mpinewton.fleet.transport.session import join

    try:
        code = join(_drive, _portable)
    except MpinewtonError as error:
        sys.stderr.write(f"mpinewton: {error}\n")
        code = error.exit_code
    sys.exit(code)


def _drive(session: Session) -> int:
    from mpinewton.cli import run_command_line

    return run_command_line(session)


def _portable() -> bool:
    from mpinewton.cli import asks_for_portable_bits

    return asks_for_portable_bits(sys.argv[1:])


if __name__ == "__main__":
    main()
