"""Progress of a run: lines in the log, and a line that is updated on a terminal."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from math import isnan

from mpinewton.launcher import TERMINAL_VARIABLE
from mpinewton.methods.support.method import State
from mpinewton.runs.history import Row

log = logging.getLogger("mpinewton")
LINE_SECONDS = 30.0
SCREEN_SECONDS = 0.1


class Progress:
    """Watcher that logs rows 0, 1, 2, 5, 10, 20, 50, ... and one row every 30 s; a terminal also shows the newest."""

    def __init__(self) -> None:
        self.screen = sys.stderr.isatty() or TERMINAL_VARIABLE in os.environ
        self._logged = self._shown = 0.0
        self._iteration = -1  # the last one logged

    def __call__(self, row: Row, state: State) -> None:
        now = time.monotonic()
        if _round_number(row.iteration) or now - self._logged >= LINE_SECONDS:
            self.clear()
            self.log(row)
        elif self.screen and now - self._shown >= SCREEN_SECONDS:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r" + line(row)[:width].ljust(width))
            sys.stderr.flush()
            self._shown = now

    def finish(self, row: Row) -> None:
        """Log the last row, unless it has been logged."""
        self.clear()
        if row.iteration != self._iteration:
            self.log(row)

    def log(self, row: Row) -> None:
        """Log a row."""
        log.info(line(row))
        self._logged, self._iteration = time.monotonic(), row.iteration

    def clear(self) -> None:
        """Erase the line on the terminal."""
        if self.screen and self._shown:
            sys.stderr.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self._shown = 0.0


def line(row: Row) -> str:
    """A row as one line of text."""
    parts = [f"iteration {row.iteration:4d}", f"rounds {row.rounds:5d}"]
    parts += [f"loss {row.loss:.10g}", f"|g| {row.grad_norm:.2e}"] if not isnan(row.loss) else []
    parts += [f"gap {row.gap:.2e}"] if not isnan(row.gap) else []
    parts += [f"test {100 * row.test_accuracy:.2f} %"] if not isnan(row.test_accuracy) else []
    parts += [f"test loss {row.test_loss:.4g}"] if not isnan(row.test_loss) else []
    parts += [f"step {row.step:.3g}"] if not isnan(row.step) else []
    parts.append(f"{row.seconds:.2f} s")
    return "  ".join(parts) + (f"  ({row.note})" if row.note else "")


def _round_number(iteration: int) -> bool:
    while iteration and iteration % 10 == 0:
        iteration //= 10
    return iteration in (0, 1, 2, 5)
