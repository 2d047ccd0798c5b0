"""Signals that stop a run at the end of the iteration, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Signals:
    """The last signal received; `name` is "" before the first."""

    def __init__(self) -> None:
        self.name = ""

    def __call__(self, number: int, frame: object) -> None:
        if self.name and number == signal.SIGINT:  # Ctrl-C pressed twice
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Context in which SIGUSR1, SIGTERM and SIGINT are recorded; a second SIGINT raises KeyboardInterrupt."""
    received = Signals()
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, received) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            if received.name and isinstance(handler, Signals):
                handler.name = received.name  # for an outer context
