"""The line on a terminal that shows the newest row, also where the run is started under mpiexec."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from mpinewton.data.pack import pack

WIDTH = 40


def on_a_terminal(arguments: list[str], folder: Path) -> bytes:
    """What a command writes to a terminal of 40 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "mpinewton", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            more = os.read(ours, 1 << 16)
        except OSError:  # Linux says so where the other end is closed
            break
        if not more:
            break
        written += more
    os.close(ours)
    assert process.wait() == 0, written
    return written


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [[], ["--nproc", "2"]], ids=["one process", "mpiexec"])
def test_the_line_fits_the_terminal(tmp_path: Path, ranks: list[str]) -> None:
    pack("synthetic:logistic?rows=2000&features=60", tmp_path / "data", 2)
    command = ["run", "gradient-descent", "data", "-o", "r", "--tol", "1e-300", "--max-iterations", "600", *ranks]
    shown = re.findall(rb"\r(iteration [^\r\n]*)(?=\r[^\n])", on_a_terminal(command, tmp_path))
    assert shown  # more than the lines of the log
    assert {len(line) for line in shown} == {WIDTH - 1}
    assert b"\r" not in (tmp_path / "r" / "log.txt").read_bytes()
