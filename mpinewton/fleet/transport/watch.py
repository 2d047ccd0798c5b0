"""What the driver does while other ranks do not answer: it names them, hears signals and time limits, and gives up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf

from mpinewton.errors import Interrupted, MpinewtonError
from mpinewton.fleet.tree import hosted_workers
from mpinewton.launcher import PATIENCE

log = logging.getLogger("mpinewton")
# Seconds that a rank may still take to answer once the run is to be interrupted. This, and the patience before a rank
# is named, are twice the longest time that a rank has taken so far, where that is more.
GRACE = 10.0


class RankLost(MpinewtonError):
    """A rank has not answered within the time limit. Exit code 1."""


class Watch:
    """Watches how long other ranks take to answer.

    Attributes
    ----------
    pause : function without arguments
        Returns why the run must be interrupted, or "".
    timeout : float
        Seconds after which a rank that has not answered ends the job.
    hosts : list of str
        Where the ranks are, as far as known.
    workers : int
        Number of workers, hosted by the ranks from 1 on; 0 if not known.
    ranks : int
        Number of ranks that host them.
    lost : bool
        Whether a rank has not answered within the timeout.
    """

    def __init__(self) -> None:
        self.pause: Callable[[], str] = lambda: ""
        self.timeout, self.workers, self.ranks = inf, 0, 0
        self.hosts: list[str] = []
        self.lost = False
        self._longest = 0.0
        self._begin()

    def _begin(self) -> None:
        self._next, self._interrupted, self._announced = max(PATIENCE, 2 * self._longest), inf, False

    def answered(self, seconds: float) -> None:
        """All answers are in, after so many seconds."""
        self._longest = max(self._longest, seconds)
        self._begin()

    def look(self, seconds: float, silent: Callable[[], Sequence[range]]) -> None:
        """To be called again and again while answers are missing.

        Parameters
        ----------
        seconds : float
            How long they have been waited for.
        silent : function without arguments
            Returns the ranks whose answers are missing: runs of ranks, where one sends the answer of its run.

        Raises
        ------
        RankLost
            If it has taken longer than `timeout`.
        Interrupted
            If the run must be interrupted, and the answers do not come.
        """
        if seconds >= self.timeout:
            self.lost = True
            raise RankLost(f"{self._late(seconds, silent())} (--rank-timeout {self.timeout:g})")
        if seconds >= self._next:
            self._next = 2 * seconds
            log.warning("%s", self._late(seconds, silent()))
        if not (reason := self.pause()):
            return
        grace = max(GRACE, 2 * self._longest)
        self._interrupted = min(self._interrupted, seconds)
        since = seconds - self._interrupted
        if since > 0.5 and not self._announced:
            self._announced = True
            log.warning("%s: waiting up to %.0f s for %s", reason.partition(":")[0], grace, self._names(silent()))
        if since >= grace:
            raise Interrupted(f"{reason} from the last checkpoint; {self._late(seconds, silent())}")

    def _late(self, seconds: float, silent: Sequence[range]) -> str:
        verb = "have" if len(silent) > 1 or any(len(run) > 1 for run in silent) else "has"
        return f"{self._names(silent)} {verb} not answered for {seconds:.0f} s"

    def _names(self, silent: Sequence[range]) -> str:
        return ", ".join(map(self.name, silent))

    def name(self, run: range) -> str:
        """A run of ranks, where it is, and its workers."""
        first, last = run[0], run[-1]
        name = f"rank {first}" if first == last else f"ranks {first} to {last}"
        if self.hosts:
            name += f" on {', '.join(dict.fromkeys(self.hosts[rank] for rank in run))}"
        hosts = (max(first, 1), last) if self.workers else ()
        blocks = [hosted_workers(rank - 1, self.ranks, self.workers) for rank in hosts]
        if blocks and blocks[0].start < blocks[1].stop:
            name += f" (workers {blocks[0].start} to {blocks[1].stop - 1})"
        return name
