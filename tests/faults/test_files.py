"""Disks that fail, file systems without locks, named pipes, closed pipes: a sentence, and the run continues."""

from __future__ import annotations

import errno
import fcntl
import gc
import io
import json
import logging
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpinewton import bits
from mpinewton.cli import run_command_line
from mpinewton.data.blocks import Block
from mpinewton.data.pack import pack
from mpinewton.data.shard_format import Header
from mpinewton.data.shard_io import read_file
from mpinewton.data.shard_write import write_shard
from mpinewton.durable import alone_in, open_regular, write_whole
from mpinewton.errors import DataError
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.output import Lines
from mpinewton.runs import execute
from mpinewton.runs.history import history_sha256, read_history

log = logging.getLogger("mpinewton")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pack("synthetic:logistic?rows=30&features=3", tmp_path / "data", 2)
    return tmp_path / "data"


def run(data: Path, out: Path, *more: str) -> int:
    """A run of gradient descent with a checkpoint in every iteration."""
    words = ["run", "gradient-descent", data, "-o", out, "--checkpoint-seconds", "0", "--max-iterations", *more]
    return run_command_line(LocalSession(), [str(word) for word in words])


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


class Disk:
    """Lets calls of `os` fail while `errno` is not 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.errno = 0
        for name in names:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, call: Any) -> Any:
        def wrapped(*args: Any, **more: Any) -> Any:
            if self.errno:
                raise OSError(self.errno, os.strerror(self.errno))
            return call(*args, **more)

        return wrapped


REASONS = {
    errno.ENOSPC: "the disk is full: ",
    errno.EDQUOT: "the quota of the user or group is used up",
    errno.EFBIG: "the file is larger than allowed: ",
    errno.EROFS: "the file system is read-only",
    errno.ESTALE: "stale file handle",
    errno.EIO: "reports an input/output error",
}


@pytest.mark.parametrize(("number", "words"), REASONS.items(), ids=[errno.errorcode[number] for number in REASONS])
def test_a_run_survives_two_checkpoints_that_fail(
    number: int, words: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Neither rows nor checkpoints can be written in iterations 3 and 4; all of them are in the files at the end."""
    assert run(data, tmp_path / "whole", "8") == 0
    disk = Disk(monkeypatch, "pwrite", "fsync")

    class Watch(execute.Progress):
        def __call__(self, row: Any, state: Any) -> None:
            disk.errno = number if row.iteration in (2, 3) else 0  # from this row's checkpoint to the next row
            super().__call__(row, state)

    monkeypatch.setattr(execute, "Progress", Watch)
    assert run(data, tmp_path / "out", "8") == 0
    said = capsys.readouterr().out
    assert "checkpoint 3 could not be written (" in said and words in said
    assert said.count("could not be written") == 2 and "Traceback" not in said
    assert result(tmp_path / "out")["history_sha256"] == result(tmp_path / "whole")["history_sha256"]
    rows = read_history(tmp_path / "out" / "history.csv")
    assert history_sha256(rows) == result(tmp_path / "out")["history_sha256"]


def test_three_checkpoints_in_a_row_end_the_run_and_the_same_command_resumes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(data, tmp_path / "whole", "8") == 0
    with monkeypatch.context() as patch:
        disk = Disk(patch, "pwrite", "fsync")

        class Watch(execute.Progress):
            def __call__(self, row: Any, state: Any) -> None:
                disk.errno = errno.ENOSPC if row.iteration >= 2 else 0
                super().__call__(row, state)

        patch.setattr(execute, "Progress", Watch)
        assert run(data, tmp_path / "out", "8") == 1
    said = capsys.readouterr()
    assert "3 checkpoints in a row could not be written (the disk is full" in said.err and "free some disk" in said.err
    assert run(data, tmp_path / "out", "8") == 0
    assert "resuming from the checkpoint at iteration 1" in capsys.readouterr().out
    assert result(tmp_path / "out")["history_sha256"] == result(tmp_path / "whole")["history_sha256"]


def test_a_file_system_without_locks(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: Any, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert run(data, tmp_path / "out", "3") == 0
    pack("sklearn:iris", tmp_path / "iris", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "iris", "out"]


@pytest.mark.slow
def test_a_locale_without_letters_and_a_path_with_some(data: Path, tmp_path: Path) -> None:
    """Ranks of a job get the locale of the host."""
    there = tmp_path / "für"
    data.rename(there)
    command = [sys.executable, "-m", "mpinewton", "run", "newton", str(there), "-o", str(tmp_path / "läuft")]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "newton on " in (tmp_path / "läuft" / "log.txt").read_text(encoding="utf-8")


def test_temporary_files_of_killed_runs_are_removed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(data, out, "3") == 0
    for more in ("3", "5"):  # the run is finished; it is resumed
        (out / "checkpoint-A.h5.tmp-123").write_bytes(b"half")
        assert run(data, out, more) == 0
        assert not list(out.glob("*.tmp-*"))
    packing = tmp_path / ".iris.packing"
    (packing / "pack").mkdir(parents=True)
    (packing / "pack" / "shard-0000.h5").write_bytes(b"half")
    pack("sklearn:iris", tmp_path / "iris", 2)
    assert not packing.exists()


@pytest.mark.slow
def test_shards_are_refused_or_whole_under_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """HDF5 itself ends in a segmentation fault here, when the process ends."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_files import *
from mpinewton.durable import explain
made = Path(sys.argv[1])
size = written(made / "whole")
for limit in (100, 700, 3000, size // 2, size - 1, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        written(made / "some")
        print("whole", limit == size)
    except OSError as error:
        print(explain(error, made))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *refused, last = done.stdout.splitlines()
    assert len(refused) == 5 and all(line.startswith("the file is larger than allowed: ") for line in refused)
    assert last == "whole True"
    assert read_file(tmp_path / "some")[2] == read_file(tmp_path / "whole")[2]


def written(path: Path) -> int:
    """A shard of 700 rows in 7 pieces; its size."""
    X = np.random.default_rng(0).normal(size=(700, 40))
    pieces = [Block(X[i : i + 100], np.zeros(100)) for i in range(0, 700, 100)]
    write_shard(path, Header(700, 40, (0.0,), "float64", "x"), pieces, None, weighted=False)
    return path.stat().st_size


def test_a_named_pipe_is_no_shard(data: Path) -> None:
    os.mkfifo(data / "pipe")
    with pytest.raises(DataError, match="expected a regular file"):
        read_file(data / "pipe")
    with pytest.raises(OSError, match="NUL"):
        open_regular(Path("a\0b"))


def test_what_is_written_replaces_a_file_or_leaves_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", b"old")
    with pytest.raises(OSError, match="the folder does not exist"):
        write_whole(tmp_path / "gone" / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_processes_wait_for_one_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, order, inside = tmp_path / "work", [], threading.Event()

    def second() -> None:
        inside.wait()
        with alone_in(folder, "is packing x"):
            order.append("second")

    caplog.set_level(logging.INFO, "mpinewton")
    log.addHandler(caplog.handler)
    other = threading.Thread(target=second)
    other.start()
    try:
        with alone_in(folder, "is packing x"):
            inside.set()
            while "another process is packing x; waiting for it (0 s)" not in caplog.text:
                other.join(0.01)
            order.append("first")
        other.join()
    finally:
        log.removeHandler(caplog.handler)
    assert order == ["first", "second"] and not folder.exists()


def test_the_log_leaves_a_stream_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    whole = io.StringIO()
    log.handlers = [Lines(Broken()), Lines(whole)]
    log.warning("one")
    log.warning("two")
    said = capsys.readouterr().err
    assert said == "mpinewton: the log cannot be written (No space left on device): the run continues without it\n"
    assert whole.getvalue() == "one\ntwo\n"  # the other stream misses nothing


@pytest.mark.slow
@pytest.mark.parametrize("words", [["methods"], ["run", "newton", "data", "-o", "out", "--json"]])
def test_a_full_standard_output_is_one_message(words: list[str], data: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mpinewton", *words],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and done.stderr.count("cannot be written (No space left on device)") == 1


def test_a_closed_pipe_does_not_end_a_run(data: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m mpinewton run gradient-descent data -o out --max-iterations 40 2> err | head -1"
    subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=120, check=True)
    assert result(tmp_path / "out")["kind"] in ("converged", "budget")
    assert not (tmp_path / "err").read_text()


def test_the_memory_of_a_run_does_not_grow_with_its_rows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1e6 iterations may take 50 MB, 50 bytes an iteration; a row that is kept takes 800. The last row is repeated."""
    folders, grown = [], []

    class Folder(execute.RunFolder):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            folders.append(self)

    class Watch(execute.Progress):
        def finish(self, row: Any) -> None:
            tracemalloc.start()
            for count in (200, 1000):  # the first to fill all caches
                before = tracemalloc.get_traced_memory()[0]
                for _ in range(count):
                    execute.RunFolder.__call__(folders[0], row, None)
                gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
            tracemalloc.stop()

    monkeypatch.setattr(execute, "RunFolder", Folder)
    monkeypatch.setattr(execute, "Progress", Watch)
    assert run(data, tmp_path / "out", "3") == 0
    assert grown[0] < 50 * 1000
    rows = read_history(tmp_path / "out" / "history.csv")
    assert len(rows) == 1204 and history_sha256(rows) == result(tmp_path / "out")["history_sha256"]


def test_a_run_says_that_it_is_resumed_with_other_arithmetic(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(data, tmp_path / "out", "2") == 0
    made = bits.arithmetic
    monkeypatch.setattr(bits, "arithmetic", lambda: made() | {"kernels": ["Z80"]})
    capsys.readouterr()
    assert run(data, tmp_path / "out", "4") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "the bits may differ" in line]
    assert len(said) == 1 and said[0].endswith(", now Z80") and "the run began with BLAS kernels " in said[0]


def test_ranks_that_differ_are_named() -> None:
    ranks = [{"processor": "A", "kernels": ["Haswell"], "numpy": "2"}, {"processor": "B", "kernels": ["Haswell"]}]
    assert bits.mixture(ranks, "fast") == "processor A and B; numpy  and 2"
    ranks[1]["numpy"] = "2"
    assert bits.mixture(ranks, "portable") == ""
    assert bits.mixture(ranks[:1], "fast") == ""
