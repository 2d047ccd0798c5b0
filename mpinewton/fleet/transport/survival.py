"""A job goes on without ranks that have died: by ULFM, User-Level Failure Mitigation, of Open MPI 5."""

from __future__ import annotations

import sys

from mpi4py import MPI

from mpinewton.errors import MpinewtonError
from mpinewton.fleet.transport.mpi import DRIVER, Link
from mpinewton.launcher import died, has_ulfm, leave, tell_launcher


def survive(link: Link, error: MPI.Exception) -> str:
    """Leave out the ranks that have died, after an error of MPI, on all others together. Returns their names.

    Raises
    ------
    MPI.Exception
        The error, if this job cannot lose ranks, or none has died.
    MpinewtonError
        If all have died but the driver.
    SystemExit
        On the others, if the driver has died.
    """
    if not has_ulfm():
        raise error
    dead = link.shrink()
    if not dead:
        raise error
    died.extend(dead)
    if DRIVER in dead:
        if link.rank == 0:
            tell_launcher(1, lost=True)
            sys.stderr.write("mpinewton: the driver died, which a run does not survive; the same command resumes it\n")
        leave(1)
    if not link.ranks:
        raise MpinewtonError("all ranks but the driver died; the same command resumes the run")
    return ", ".join(link.watch.name(range(rank, rank + 1)) for rank in dead)
