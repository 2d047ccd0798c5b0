"""All ranks of the job, and how to end them at once. Nothing but MPI is imported: what else is missing can be told."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from mpi4py import MPI

from mpinewton.errors import MpinewtonError
from mpinewton.launcher import FAREWELL


def world() -> MPI.Intracomm:
    """All ranks of the job."""
    return MPI.COMM_WORLD


# Classes of MPI's errors where a process on the other end has died; of several requests, MPICH says ERR_IN_STATUS.
LOST = {
    MPI.ERR_OTHER, MPI.ERR_INTERN, MPI.ERR_UNKNOWN, MPI.ERR_IN_STATUS, getattr(MPI, "ERR_PROC_FAILED", MPI.ERR_OTHER),
}  # fmt: skip
# A wait is awake for so many seconds, then sleeps: a twentieth of the time waited so far, which is what it may be late,
# and at most so many seconds. With 3 ranks on 2 cores, a call of up to 1,000 floats takes 0.7 to 0.9 of the time
# that it takes with 0.2 ms awake.
AWAKE, LONGEST_SLEEP = 2e-3, 1e-3


def wait(requests: Sequence[MPI.Request], look: Callable[[float], None] | None = None) -> float:
    """Wait until all requests are complete; `look` is called between two sleeps. Returns the seconds waited."""
    start, waited = time.perf_counter(), 0.0
    while not MPI.Request.Testall(requests):
        waited = time.perf_counter() - start
        if waited < AWAKE:
            os.sched_yield()  # whoever works on the same core comes first
            continue
        time.sleep(min(waited / 20, LONGEST_SLEEP))
        if look is not None:
            look(waited)
    return waited


def from_driver(question: Callable[[], bool]) -> bool:
    """What the driver answers to a question, on all ranks."""
    answer = bytearray([MPI.COMM_WORLD.rank == 0 and question()])
    wait([MPI.COMM_WORLD.Ibcast([answer, MPI.BYTE], 0)])
    return bool(answer[0])


def library() -> str:
    """Name and version of the MPI library."""
    return MPI.Get_library_version().strip().splitlines()[0].strip("\x00 ")


def is_lost(error: BaseException) -> bool:
    """Whether an error says that a process on the other end has died."""
    return isinstance(error, MPI.Exception) and error.Get_error_class() in LOST


def abort(error: BaseException, doing: str = "") -> NoReturn:
    """End the whole job now: others would wait for ever. Prints rank and error, an unexpected one with traceback."""
    where = f"rank {MPI.COMM_WORLD.rank} on {MPI.Get_processor_name()}"
    if is_lost(error):
        text = f"has lost the connection to another rank ({error})\n"
    elif isinstance(error, MpinewtonError):
        text = f"failed{doing and ' ' + doing}: {error}\n"
    else:
        text = f"failed{doing and ' ' + doing}:\n{''.join(traceback.format_exception(error))}"
    sys.stderr.write(f"mpinewton: {where} {text}")
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
