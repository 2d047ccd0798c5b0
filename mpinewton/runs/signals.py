"""Signals that ask a run to stop at the end of an iteration, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Signals:
    """The signals that have come."""

    def __init__(self) -> None:
        self.name = ""

    def __call__(self, number: int, frame: object) -> None:
        if self.name and number == signal.SIGINT:  # whoever presses Ctrl-C twice means it
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


@contextmanager
def caught() -> Iterator[Signals]:
    """While this is open, SIGUSR1, SIGTERM and SIGINT are noted, not obeyed; a second SIGINT is."""
    note = Signals()
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield note
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            if note.name and isinstance(handler, Signals):
                handler.name = note.name  # whoever waits outside is to hear of it too
