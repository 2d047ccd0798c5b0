"""Errors for users. A message says what is wrong, the value, the rule and the remedy; each has an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MpinewtonError(Exception):
    """Base class of the errors of this package. Exit code 1: the run failed."""

    exit_code = 1


class ConfigError(MpinewtonError):
    """A setting or option that is not valid. Exit code 2: nothing was started."""

    exit_code = 2


class FolderBusyError(ConfigError):
    """Another process runs in the folder."""


class DataError(MpinewtonError):
    """Data that cannot be read, or do not fit the loss or method. Exit code 2: nothing was started."""

    exit_code = 2


class Interrupted(MpinewtonError):
    """Stopped by a signal or the time limit before the run started. Exit code 3: run the same command again."""

    exit_code = 3


class WorkerError(MpinewtonError):
    """A task failed on a worker. The fleet remains usable.

    Attributes
    ----------
    worker : int
        Logical worker on which the task failed.
    rank : int
        MPI rank of the process that hosts the worker.
    task : str
        Name of the task.
    trace : str
        Traceback of that process.
    """

    def __init__(self, worker: int, rank: int, task: str, trace: str) -> None:
        super().__init__(f"worker {worker} (rank {rank}) failed in {task}:\n{trace.rstrip()}")
        self.worker, self.rank, self.task, self.trace = worker, rank, task, trace


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """``" (did you mean 'theta'?)"`` for the known word nearest to `word`; if none is near: `otherwise`, or all."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else otherwise or f"; choose from: {', '.join(known) or 'none'}"
