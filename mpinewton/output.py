"""What is printed: a closed pipe, a full disk or an odd locale costs one message, never the run."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from typing import IO, Any

log = logging.getLogger("mpinewton")


class Lines(logging.StreamHandler[Any]):
    """Handler that writes the log to a stream, and leaves the log at the first failure."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) and not self.stream.closed:
            super().handleError(record)
            return
        # A new list: to remove from the one that the logger goes through would skip the next handler.
        log.handlers = [handler for handler in log.handlers if handler is not self]
        if not isinstance(error, OSError):  # the program has closed the stream
            return
        if self.stream is sys.stdout:
            abandon_stdout(error)
        else:
            say(f"the log cannot be written ({error.strerror}): the run continues without it")


def say(text: str) -> None:
    """Write one message to standard error; nothing where that is closed."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"mpinewton: {text}\n")
        sys.stderr.flush()


def any_locale() -> None:
    """Let standard output and error accept all characters: those that the locale lacks are escaped."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def abandon_stdout(error: OSError) -> None:
    """Send what is printed from now on nowhere; say so, unless the reader closed the pipe, as `head` does."""
    if error.errno != errno.EPIPE:
        say(f"standard output cannot be written ({error.strerror}): what follows is not printed")
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        sys.stdout.flush()


def copy_to_stdout(pipe: IO[bytes]) -> None:
    """Print what comes out of a pipe, up to its end; where that fails, read it nevertheless."""
    while text := os.read(pipe.fileno(), 1 << 16):
        try:
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
        except OSError as error:
            abandon_stdout(error)
    pipe.close()
