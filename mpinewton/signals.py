"""Signals that stop a run with a checkpoint. Nothing heavy is imported: they are recorded from the first moment on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class Signals:
    """The last signal received; `name` is "" before the first."""

    def __init__(self, patient: bool = False) -> None:
        self.name, self.patient = "", patient

    def __call__(self, number: int, frame: object) -> None:
        if self.name and number == signal.SIGINT and not self.patient:  # Ctrl-C pressed twice
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


def record_signals(patient: bool = False) -> Signals:
    """Record SIGUSR1, SIGTERM and SIGINT from now on; what has been recorded before is known.

    A second SIGINT raises KeyboardInterrupt, unless patient.
    """
    received = Signals(patient)
    before = [signal.signal(number, received) for number in STOP_SIGNALS]
    received.name = next((outer.name for outer in before if isinstance(outer, Signals) and outer.name), "")
    return received


@contextmanager
def catch_signals(patient: bool = False) -> Iterator[Signals]:
    """Context of `record_signals`. At its end, an outer context knows what was received."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    received = record_signals(patient)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            if received.name and isinstance(handler, Signals):
                handler.name = received.name


def release_signals() -> None:
    """Give signals their usual effect again, those recorded too: for commands that cannot be resumed."""
    received = signal.getsignal(signal.SIGINT)
    if isinstance(received, Signals):
        for number in STOP_SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if received.name:
            os.kill(os.getpid(), signal.Signals[received.name])


@contextmanager
def held_back() -> Iterator[None]:
    """Context in which signals wait until its end. MPI_Init replaces handlers: signals would be lost, or kill."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
