"""The errors a user sees. Each names the thing, the value, the rule and the remedy, and knows its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MpinewtonError(Exception):
    """Base of every error raised on purpose. Exit code 1: the run failed."""

    exit_code = 1


class ConfigError(MpinewtonError):
    """A setting or option that cannot be honoured. Exit code 2: nothing was started."""

    exit_code = 2


class DataError(MpinewtonError):
    """Data that cannot be read or do not fit. Exit code 2: nothing was started."""

    exit_code = 2


class Interrupted(MpinewtonError):
    """Stopped by a signal or the time limit before the run began. Exit code 3: run the same command again."""

    exit_code = 3


class WorkerError(MpinewtonError):
    """A task failed on a worker. The fleet is still usable.

    Attributes
    ----------
    worker : int
        The logical worker on which the task failed.
    task : str
        Name of the task.
    trace : str
        The traceback, as text, of the process that hosts the worker.
    """

    def __init__(self, worker: int, rank: int, task: str, trace: str) -> None:
        super().__init__(f"worker {worker} (rank {rank}) failed in {task}:\n{trace.rstrip()}")
        self.worker, self.rank, self.task, self.trace = worker, rank, task, trace


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'theta'?)"`` for the known word nearest to `word`, or the whole list where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else f"; there are: {', '.join(known) or 'none'}"
