"""All ranks of the job, and how to end them at once. Nothing but MPI is imported: what else is missing can be told."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from mpi4py import MPI

# Seconds between a rank's last words and its abort: MPICH's launcher throws away what it has not read by then.
FAREWELL = 0.5


def world() -> MPI.Intracomm:
    """All ranks of the job."""
    return MPI.COMM_WORLD


def from_driver(question: Callable[[], bool]) -> bool:
    """What the driver answers to a question, on all ranks."""
    answer = bytearray([MPI.COMM_WORLD.rank == 0 and question()])
    MPI.COMM_WORLD.Bcast([answer, MPI.BYTE], 0)
    return bool(answer[0])


def library() -> str:
    """Name and version of the MPI library."""
    return MPI.Get_library_version().strip().splitlines()[0].strip("\x00 ")


def abort(error: BaseException, doing: str = "") -> NoReturn:
    """End the whole job now, with this error's traceback, once, naming the rank: others would wait for ever."""
    where = f"rank {MPI.COMM_WORLD.rank} on {MPI.Get_processor_name()}"
    text = "".join(traceback.format_exception(error))
    sys.stderr.write(f"mpinewton: {where} failed{doing and ' ' + doing}:\n{text}")
    quit_job(1)


def quit_job(code: int) -> NoReturn:
    """End all ranks now; what this one has printed is kept."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(FAREWELL)
    finally:  # a broken pipe or a Ctrl-C must not keep the others waiting
        MPI.COMM_WORLD.Abort(code)
    raise SystemExit(code)
