#!/usr/bin/env python
"""Campaigns of faults: damaged and hostile files, mutated texts and configurations, processes that are killed.

    python scripts/faults.py CAMPAIGN [--count N] [--seed S] [-o runs/faults]
    python scripts/faults.py soak [--minutes M] [-o runs/faults]
    python scripts/faults.py page [-o runs/faults] [--page docs/reliability.md]

Case i of a campaign depends on the seed and i alone. Every verdict is a line of runs/faults/CAMPAIGN.jsonl; the same
command continues behind the last one. A verdict is "ok ..." or "WRONG ...". `page` writes the figures into the page.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mpinewton.launcher import launcher_environment, mpiexec, one_thread_per_rank

one_thread_per_rank()  # as the ranks of a job: other numbers of threads give other bits
# ruff: noqa: E402
import h5py
import numpy as np

from mpinewton.data.blocks import Reading
from mpinewton.data.loading import load_rows
from mpinewton.data.manifest import FILE, read_manifest
from mpinewton.data.pack import pack
from mpinewton.data.shard_io import read_shard
from mpinewton.errors import MpinewtonError
from mpinewton.runs import checkpoint
from mpinewton.runs.model import read_model
from mpinewton.runs.storage import SEAL_BYTES, _digest

MINUTE = 60  # seconds after which a case in this process counts as a hang, on an idle machine
Verdict = str


class Chance:
    """Random choices of case `number` of a campaign."""

    def __init__(self, seed: int, name: str, number: int) -> None:
        self.number, self.rng = number, np.random.default_rng([seed, number, *name.encode()])

    def below(self, limit: int) -> int:
        """A whole number from 0 to limit - 1."""
        return int(self.rng.integers(limit))

    def between(self, first: int, last: int) -> int:
        """A whole number from first to last."""
        return first + self.below(last - first + 1)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number between the two."""
        return float(self.rng.uniform(low, high))

    def choice(self, values: Sequence[Any]) -> Any:
        """One of the values."""
        return values[self.below(len(values))]

    def some(self, limit: int, count: int) -> list[int]:
        """Different whole numbers from 1 to limit, increasing."""
        return sorted(int(i) + 1 for i in self.rng.permutation(limit)[:count])


def load() -> float:
    """Processes that wait for a core, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class Hang(BaseException):
    """A case took too long."""


def called(action: Callable[[], Any]) -> tuple[str, Any]:
    """("value", result), or ("refused", sentence), or ("WRONG", traceback or "hang") of a call."""

    def late(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(int(MINUTE * load()))
    try:
        return "value", action()
    except MpinewtonError as error:
        return "refused", str(error)
    except Hang:
        return "WRONG", "hang"
    except Exception:
        return "WRONG", traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(*words: object) -> tuple[int | None, str]:
    """Exit code and output of a command, in this process; None for a traceback or a hang."""
    from mpinewton.cli import run_command_line
    from mpinewton.fleet.transport.session import LocalSession

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        how, code = called(lambda: run_command_line(LocalSession(), list(map(str, words))))
    return (None, code) if how == "WRONG" else (code, said(out) + said(err))


def said(stream: io.TextIOWrapper) -> str:
    """What was written to a stream in memory."""
    stream.seek(0)
    return stream.read()


# -- corrupt: damaged shards, manifests, checkpoints and models -------------------------------------------------------

TABLE = "a,b,kind\n" + "".join(f"{i % 7},{i * i % 11},{('cat', 'dog', 'emu')[i % 3]}\n" for i in range(40))


METHOD = ("lbfgs", "--set", "trial=search")  # a search begins at what the workers keep, and checkpoints have that


def corrupt_setup(folder: Path) -> None:
    """Dense, sparse and compressed shards, and a run with two checkpoints and a model."""
    (folder / "t.csv").write_text(TABLE)
    pack(str(folder / "t.csv"), folder / "dense", 2, scale="1/8", dtype="uint8")
    pack("synthetic:logistic?rows=80&features=30&density=0.1", folder / "sparse", 2, compress=True)
    code, said = command("run", *METHOD, folder / "dense", "-o", folder / "run", "--max-iterations", 6,
                         "--checkpoint-seconds", 0)  # fmt: skip
    assert code == 0, said


def damage(rng: Chance, whole: bytes, other: bytes) -> tuple[str, bytes]:
    """A kind of damage, and the damaged bytes."""
    n = len(whole)
    at, size = rng.below(n), rng.choice((1, 8, 100, 4096))
    page = rng.below(n // 512 + 1) * 512
    noise = bytes(rng.below(256) for _ in range(size))

    def put(first: int, new: bytes) -> bytes:
        return (whole[:first] + new + whole[first + len(new) :])[: max(n, first)]

    def flip(count: int) -> bytes:
        text = bytearray(whole)
        for _ in range(count):
            text[rng.below(n)] ^= 1 << rng.below(8)
        return bytes(text)

    kinds: dict[str, Callable[[], bytes]] = {
        "one bit flipped": lambda: flip(1),
        "eight bits flipped": lambda: flip(8),
        "a bit of the first kB flipped": lambda: bytes([whole[0] ^ 1 << rng.below(8)]) + whole[1:] if n < 1024 else
        whole[: at % 1024] + bytes([whole[at % 1024] ^ 1 << rng.below(8)]) + whole[at % 1024 + 1 :],
        "a byte of 0": lambda: put(at, b"\0"),
        "a byte of 255": lambda: put(at, b"\xff"),
        "noise": lambda: put(at, noise),
        "zeros": lambda: put(at, bytes(size)),
        "a page of zeros": lambda: put(page, bytes(512)),
        "a page of another place": lambda: put(page, whole[at : at + 512]),
        "truncated": lambda: whole[:at],
        "empty": lambda: b"",
        "noise appended": lambda: whole + noise,
        "zeros appended": lambda: whole + bytes(size),
        "bytes removed": lambda: whole[:at] + whole[at + size :],
        "bytes inserted": lambda: whole[:at] + noise + whole[at:],
        "the file of another": lambda: other,
        "a digit changed": lambda: re.sub(rb"\d", lambda found: b"%d" % ((int(found[0]) + 1) % 10), whole[at:], count=1)
        .join((whole[:at], b"")),
    }  # fmt: skip
    kind = rng.choice(list(kinds))
    return kind, kinds[kind]()


def content(folder: Path, name: str) -> Any:
    """What a file of `corrupt_setup` says, as comparable values."""
    if name.endswith(FILE):
        manifest = read_manifest((folder / name).parent)
        for index in range(manifest.workers):
            read_shard(folder / Path(name).parent, manifest, index)
        return manifest
    if "checkpoint" in name:
        found = checkpoint.read(folder / name)
        return repr((found.number, found.facts, found.state, found.ledger, found.workers))
    if "model" in name:
        return repr(read_model(folder / name)), read_model(folder / name).w.tobytes()
    packed = folder / Path(name).parent
    shard = read_shard(packed, read_manifest(packed), int(name[-5]))
    X = shard.X if isinstance(shard.X, np.ndarray) else shard.X.toarray()
    return X.tobytes(), shard.y.tobytes()


CORRUPTIBLE = ("dense/shard-0000.h5", "sparse/shard-0000.h5", f"dense/{FILE}", f"sparse/{FILE}", "run/checkpoint-A.h5",
               "run/checkpoint-B.h5", "run/model.h5")  # fmt: skip


def corrupt(rng: Chance, folder: Path) -> Verdict:
    """One damaged file: it is refused, or says what it said."""
    name = rng.choice(CORRUPTIBLE)
    whole, expected = (folder / name).read_bytes(), content(folder, name)
    others = [other for other in CORRUPTIBLE if Path(other).name[:9] != Path(name).name[:9] or FILE in other != name]
    kind, damaged = damage(rng, whole, (folder / rng.choice(others)).read_bytes())
    try:
        (folder / name).write_bytes(damaged)
        how, found = called(lambda: content(folder, name))
        if how == "value":
            how = "same" if found == expected else "WRONG another value"
        elif how == "refused" and "checkpoint" in name:
            how = "refused" if checkpoint.newest(folder / "run") is not None else "WRONG no other checkpoint"
        start = f"ok {how}" if how in ("refused", "same") else how
        return f"{start}: {Path(name).name}, {kind}" + (f": {found}" if how == "WRONG" else "")
    finally:
        (folder / name).write_bytes(whole)


# -- fuzz: lines of text against other readers ------------------------------------------------------------------------

ODD = [
    "nan", "inf", "-0", "1e400", "0x10", "1_000", "", " ", "\t", "\r", "\0", "é", '"', "'", "#", ":", "::", ",", ";",
    "1:1", "0:1", "qid:3", "+", "-", ".", "e5", "1e-320", "9" * 30, "٣", "\ufeff", "true", "?", "NA", "1,5", "1 2",
]  # fmt: skip


def mutated(rng: Chance, lines: list[str], mark: str) -> list[str]:
    """Lines of which some are changed."""
    lines = list(lines)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.below(len(lines))
        line = lines[at]
        where = rng.below(len(line) + 1)
        kind = rng.below(6)
        if kind == 0:
            line = line[:where] + rng.choice(ODD) + line[where:]
        elif kind == 1:
            line = line[:where] + line[where + 1 :]
        elif kind == 2:
            cells = line.split(mark)
            cells[rng.below(len(cells))] = rng.choice(ODD)
            line = mark.join(cells)
        elif kind == 3:
            line = line[:where]
        elif kind == 4:
            line = line + mark + rng.choice(ODD)
        else:
            line = rng.choice(("", line + "\n" + line, line[::-1], line.replace(mark, mark * 2)))
        lines[at] = line
    return lines


def numbers(rng: Chance) -> str:
    return rng.choice(
        (str(rng.between(-9, 9)), f"{rng.uniform(-9, 9):.3f}", repr(float(rng.rng.normal())), f"{rng.rng.normal():e}")
    )


def fuzz(rng: Chance, folder: Path) -> Verdict:
    """A file of up to 20 lines is read as the oracle reads it, or refused, naming the file and the line."""
    libsvm, rows = rng.uniform() < 0.5, rng.between(1, 20)
    if libsvm:
        chosen = [rng.some(8, rng.between(0, 5)) for _ in range(rows)]
        lines = [" ".join([numbers(rng), *(f"{j}:{numbers(rng)}" for j in some)]) for some in chosen]
    else:
        width = rng.between(2, 5)
        lines = [",".join(numbers(rng) for _ in range(width)) for _ in range(rows)]
    path = folder / ("t.svm" if libsvm else "t.csv")
    text = "\n".join(mutated(rng, lines, " " if libsvm else ",")) + "\n"
    path.write_bytes(text.encode())
    reading = Reading(format="libsvm", features=8) if libsvm else Reading(format="csv", header=False, delimiter=",")
    how, found = called(lambda: load_rows(str(path), reading=reading)[0])
    kind = f"{path.name[2:]}, {text.count(chr(10))} lines"
    if how == "refused":
        named = path.name in found
        return f"ok refused: {kind}" if named else f"WRONG refused without the file: {kind}: {found}: {text!r}"
    if how == "WRONG":
        return f"WRONG traceback: {kind}: {found}: {text!r}"
    try:
        X, y = libsvm_oracle(path) if libsvm else csv_oracle(path, found)
    except (ValueError, csv.Error, OverflowError) as error:
        return f"WRONG the oracle refuses ({error}): {kind}: {text!r}"
    mine = found.X if isinstance(found.X, np.ndarray) else found.X.toarray()
    mine = np.pad(mine, ((0, 0), (0, max(0, X.shape[1] - mine.shape[1]))))  # the last features may not occur
    same = mine.shape == X.shape and (mine == X).all() and (found.y == y).all()
    return f"ok same: {kind}" if same else f"WRONG another value: {kind}: {text!r}"


def libsvm_oracle(path: Path) -> tuple[Any, Any]:
    """Rows and labels as scikit-learn reads them, without byte order mark.

    A label may have a weight behind a colon. If the first label is a word, labels are the numbers of words in
    alphabetical order.
    """
    from sklearn.datasets import load_svmlight_file

    try:
        X, y = load_svmlight_file(io.BytesIO(path.read_bytes().removeprefix(b"\xef\xbb\xbf")), n_features=8)
    except ValueError:
        lines = [line.split("#")[0].split() for line in path.read_text(encoding="utf-8-sig").split("\n")]
        rows = [line for line in lines if line]
        labels = [row[0].partition(":")[0] for row in rows]
        if labels and re.fullmatch(r"[^\W\d][^\s:#,;]*", labels[0]):
            names = sorted(set(labels))
            labels = [str(names.index(label)) for label in labels]
        elif not rows or ":" not in rows[0][0]:
            raise
        text = "\n".join(" ".join([label, *row[1:]]) for label, row in zip(labels, rows, strict=True))
        X, y = load_svmlight_file(io.BytesIO(text.encode()), n_features=8)
    return X.toarray(), y


def csv_oracle(path: Path, shard: Any) -> tuple[Any, Any]:
    """Rows and labels by Python's csv and float; labels that are words as numbers, in alphabetical order."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = [row for row in csv.reader(file, strict=True) if any(cell.strip() for cell in row)]
    X = np.array([[strict_float(cell) for cell in row[:-1]] for row in cells])
    labels = [row[-1].strip() for row in cells]
    try:
        return X, np.array([strict_float(label) for label in labels])
    except ValueError:
        names = sorted(set(labels))
        return X, np.array([names.index(label) for label in labels], dtype=float)


def strict_float(cell: str) -> float:
    """A finite number; float() would also take 1_000."""
    value = float(cell)
    if "_" in cell or not np.isfinite(value):
        raise ValueError(f"{cell!r} is no finite number")
    return value


# -- configurations: mutated TOML --------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    0, 1, -1, 10**20, 1e308, float("nan"), float("inf"), "", "no", "\0", "é", "a" * 5000, True, [], ["x"], {}, {"a": 1},
    "lbfgs", "1/3", 1.5, "../..", "/dev/null", "optimum+1", "none", "auto",
)  # fmt: skip


def configurations_setup(folder: Path) -> None:
    pack("synthetic:logistic?rows=40&features=5", folder / "data", 2)


def configurations(rng: Chance, folder: Path) -> Verdict:
    """A configuration of `run` with 1 to 3 changes: exit code 2 and a sentence, or a run of any end."""
    import tomli_w

    from mpinewton.methods import METHODS
    from mpinewton.methods.settings import settings_of
    from mpinewton.runs.job import Job, _without_none

    method = METHODS[rng.choice(sorted(METHODS))]()
    config: dict[str, Any] = {"method": method.name, "data": str(folder / "data"), "max_iterations": 2, "l2": 0.1}
    config["settings"] = {
        name: value for name, value in settings_of(method).items() if value is not None and rng.uniform() < 0.3
    }
    fields = [name for name in Job.__struct_fields__ if name != "settings"]
    for _ in range(rng.between(1, 3)):
        where = config["settings"] if rng.uniform() < 0.5 else config
        names = list(settings_of(method)) if where is not config else fields
        name = rng.choice([*names, "unknown", "é", ""]) if names else "x"
        if name in where and rng.uniform() < 0.2:
            del where[name]
        else:
            where[name] = rng.choice(VALUES)
    config["max_iterations"] = min(2, config["max_iterations"]) if type(config.get("max_iterations")) is int else 2
    file, out = folder / "config.toml", folder / "out"
    file.write_text(tomli_w.dumps(_without_none(config)))
    shutil.rmtree(out, ignore_errors=True)
    code, said = command("run", "--config", file, "-o", out)
    if code in (0, 1, 3) and (out / "result.json").exists():
        return f"ok run of exit code {code}"
    if code in (1, 2) and said.count("mpinewton: ") + said.count("Error: ") >= 1:
        return f"ok refused with exit code {code}"
    return f"WRONG exit code {code}: {file.read_text()[:2000]!r}: {said[-3000:]}"


# -- checkpoints: a process that writes them is killed -----------------------------------------------------------------

WRITER = """
import sys, numpy as np
from pathlib import Path
from mpinewton.runs.checkpoint import Checkpoint, write
folder, first = Path(sys.argv[1]), int(sys.argv[2])
for number in range(first, first + 10**6):
    write(folder, Checkpoint(number, {}, {"w": np.full(10**5, float(number))}, {}, []))
    print(number, flush=True)
"""


def checkpoints(rng: Chance, folder: Path) -> Verdict:
    """SIGKILL at a random moment while checkpoints are written: the last that was complete, or the next, is read."""
    from mpinewton.durable import remove_temporary_files

    out = folder / "checkpoints"
    out.mkdir(exist_ok=True)
    before = checkpoint.newest(out)
    first = before.number + 1 if before else 1
    with subprocess.Popen([sys.executable, "-c", WRITER, out, str(first)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        complete = int(child.stdout.readline())
        time.sleep(rng.uniform(0, 0.1))
        child.kill()
        complete = max([complete, *map(int, child.stdout.read().split())])
    found = checkpoint.newest(out)
    left = len(list(out.glob("*.tmp-*")))
    remove_temporary_files(out)
    good = found is not None and found.number in (complete, complete + 1) and (found.state["w"] == found.number).all()
    if not good or list(out.glob("*.tmp-*")):
        return f"WRONG after checkpoint {complete}: {found and found.number}"
    return f"ok {'in the middle of a write' if left else 'between writes'}"


# -- kill and signal: runs are ended in the middle, and resumed on other ranks -----------------------------------------


def kill_setup(folder: Path) -> None:
    pack("sklearn:digits", folder / "data", 5, scale="1/16", sample=600)


def kill(rng: Chance, folder: Path, numbers: tuple[int, ...] = (signal.SIGKILL,)) -> Verdict:
    """Runs that are killed at random moments and resumed on other ranks end with the digests of an undisturbed run."""
    name, settings, expected = undisturbed(rng, folder)
    if not isinstance(expected, dict):
        return expected
    out = folder / "killed"
    shutil.rmtree(out, ignore_errors=True)
    sent, moments = 0, rng.between(1, 3)
    for attempt in range(moments + 1):
        ranks = rng.choice((1, 2, 3, 5))
        words = [sys.executable, "-m", "mpinewton", "run", "--config", settings, "-o", out]
        words = words if ranks == 1 else [mpiexec(), "-n", str(ranks), *words]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                 env=launcher_environment(ranks), start_new_session=True)  # fmt: skip
        if attempt < moments:
            history = out / "history.csv"
            rows, target, start = 0, rng.below(12), time.monotonic()
            at_start = rng.uniform() < 0.2  # now and then before there is a row
            while child.poll() is None and not at_start and rows <= target and time.monotonic() - start < 120:
                rows = history.read_bytes().count(b"\n") if history.exists() else 0
                time.sleep(0.003)
            time.sleep(rng.uniform(0, 1.0) if at_start else rng.uniform(0, 0.01))
            number = rng.choice(numbers)
            for pid in victims(rng, child.pid, out, number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    sent += 1
        try:
            said, _ = child.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return f"WRONG {name}: no end within 300 s on {ranks} ranks"
        # A signal that comes before Python runs our code ends the process as it ends any other.
        early = attempt < moments and "BAD TERMINATION" in said and f"EXIT CODE: {int(number)}\n" in said
        ours = re.search(r"/mpinewton/(?!__main__|__init__|signals)\w+", said) or "KeyboardInterrupt" not in said
        if (number_of_errors(said) and ours) or (child.returncode == 2 and not early):
            if attempt == moments or "another mpinewton" not in said:
                return f"WRONG {name} on {ranks} ranks: exit code {child.returncode}: {said[-2000:]}"
            time.sleep(1)
    result = json.loads((out / "result.json").read_text()) if (out / "result.json").exists() else {}
    same = all(result.get(key) == expected[key] for key in ("history_sha256", "w_sha256"))
    left = [path.name for path in out.glob("*.tmp-*")]
    if not same or left:
        return f"WRONG {name}: {result.get('reason')}; temporary files {left}"
    return f"ok same digests, {name}, {sent} sent"


def undisturbed(rng: Chance, folder: Path) -> tuple[str, Path, dict[str, Any] | Verdict]:
    """A method's name, the configuration of its run, and result.json of that run in one process, or why it has none."""
    import tomli_w

    from mpinewton.runs.job import _without_none

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from variants import VARIANTS

    name = rng.choice(sorted(VARIANTS))
    variant, unsuited = VARIANTS[name], folder / f"unsuited-{name}"  # to these data: another is drawn
    settings = folder / f"{name}.toml"
    made = {"method": variant.method, "settings": variant.settings, "data": str(folder / "data"), "max_iterations": 12}
    settings.write_text(tomli_w.dumps(_without_none(made | {"tol": 1e-300, "checkpoint_seconds": 0.0})))
    whole = folder / f"whole-{name}"
    if unsuited.exists():
        return undisturbed(rng, folder)
    if not (whole / "result.json").exists():
        code, said = command("run", "--config", settings, "-o", whole)
        if code == 2:
            unsuited.touch()
            return undisturbed(rng, folder)
        if not (whole / "result.json").exists():
            return name, settings, f"WRONG {name} undisturbed: exit code {code}: {said[-2000:]}"
    return name, settings, json.loads((whole / "result.json").read_text())


def signals(rng: Chance, folder: Path) -> Verdict:
    """As `kill`, with the signals that ask a run to stop."""
    return kill(rng, folder, (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT))


def survivals(rng: Chance, folder: Path) -> Verdict:
    """Ranks are killed; the others continue, and end with the digests of an undisturbed run. With Open MPI alone."""
    return outlived(rng, folder, "continue")


def restarts(rng: Chance, folder: Path) -> Verdict:
    """Ranks are killed, the driver too; the run is started again, and ends with the digests of an undisturbed run."""
    return outlived(rng, folder, "restart", "restart-fewer")


def outlived(rng: Chance, folder: Path, *options: str) -> Verdict:
    """A run by --nproc with one of these options of --on-failure, and 1 or 2 ranks killed in it."""
    name, settings, expected = undisturbed(rng, folder)
    if not isinstance(expected, dict):
        return expected
    out = folder / "survived"
    shutil.rmtree(out, ignore_errors=True)
    nproc = rng.between(2, 5)
    dead = rng.some(nproc, rng.choice((1, 1, 2)) if nproc > 2 else 1)
    option = options[rng.below(len(options))] if len(options) > 1 else options[0]
    words = [sys.executable, "-m", "mpinewton", "run", "--config", settings, "-o", out, "--nproc", str(nproc)]
    child = subprocess.Popen([*words, "--on-failure", option], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, env=launcher_environment(nproc + 1), start_new_session=True)  # fmt: skip
    sent, at_once = 0, rng.uniform() < 0.5
    for rank in dead:
        target = rng.below(10)
        while child.poll() is None and rows(out) <= target and not (sent and at_once):
            time.sleep(0.003)
        time.sleep(rng.uniform(0, 0.02))
        with contextlib.suppress(OSError, ValueError, IndexError):
            alive = json.loads((out / "env.json").read_text())["ranks"]
            if child.poll() is None and len(alive) > 2:
                os.kill(alive[min(rank - (option != "continue"), len(alive) - 1)]["pid"], signal.SIGKILL)
                sent += 1
    try:
        said, _ = child.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        return f"WRONG {name}: no end within 300 s on {nproc} ranks"
    result = json.loads((out / "result.json").read_text()) if (out / "result.json").exists() else {}
    same = all(result.get(key) == expected[key] for key in ("history_sha256", "w_sha256"))
    if not same or number_of_errors(said) or child.returncode != expected_code(expected):
        return f"WRONG {name}, {sent} of {nproc} ranks killed, {option}: exit code {child.returncode}: {said[-3000:]}"
    if option != "continue":
        return f"ok {said.count('starting again')} starts after {sent} killed ranks, {name}, {option}"
    return f"ok {nproc + 1 - result.get('ranks', 0)} of {sent} killed ranks left out, {name}"


# What a rank does in the middle of a phase. It runs as sitecustomize, before anything else, on every rank.
PLANTED = """
import importlib.abc, importlib.machinery, os, signal, sys, time
rank, fault, module, names, calls, mark = (os.environ["MPINEWTON_PLANTED_" + name] for name in (
    "RANK", "FAULT", "MODULE", "NAMES", "CALLS", "MARK"))
left = int(calls)

def strike():
    global left
    left -= 1
    if left:
        return
    with open(mark, "w") as file:
        file.write(str(time.time()))
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "exit":
        sys.exit(7)
    elif fault == "memory":
        raise MemoryError("planted")
    else:
        raise KeyError("planted")

class Planter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def loaded(made):
            if names == "":
                strike()
            load(made)
            for owner, _, attribute in [each.rpartition(".") for each in names.split() if each]:
                holder = getattr(made, owner) if owner else made
                setattr(holder, attribute, wrapped(getattr(holder, attribute)))
        spec.loader.exec_module = loaded
        return spec

def wrapped(function):
    def struck(*arguments, **options):
        strike()
        return function(*arguments, **options)
    return struck

if any(os.environ.get(name) == rank for name in ("PMI_RANK", "PMIX_RANK")):
    sys.meta_path.insert(0, Planter())
if any(name in os.environ for name in ("PMI_RANK", "PMIX_RANK")):
    from mpinewton import launcher
    launcher.PATIENCE, launcher.START_TIMEOUT = 3.0, 6.0
"""
# Phases: on the driver, and on another rank, the module in whose import, or function, the fault is; and which call.
PHASES = {
    "import": (("mpinewton.bits", "", 1),) * 2,
    "before MPI": (("mpinewton.fleet.transport.world", "", 1),) * 2,
    "after MPI": (("mpinewton.fleet.transport.mpi", "", 1),) * 2,
    "introduction": (("mpinewton.fleet.transport.driver", "MpiSession.introductions", 1),
                     ("mpinewton.fleet.transport.introduction", "introduction", 1)),
    "load": (("mpinewton.fleet.transport.driver", "MpiSession.open", 1), ("mpinewton.fleet.host", "Host.load", 1)),
    "round": (("mpinewton.fleet.transport.mpi", "Link.sum", 9), ("mpinewton.fleet.host", "Host.sum", 9)),
    "checkpoint": (("mpinewton.runs.checkpoint", "write", 3), ("mpinewton.fleet.transport.server", "Server.save", 3)),
    "result": (("mpinewton.runs.model", "write_model", 1), ("mpinewton.fleet.transport.server", "Server.save", 13)),
    "end": (("mpinewton.fleet.transport.driver", "MpiSession.stop", 1),
            ("mpinewton.fleet.transport.mpi", "Link.close", 1)),
}  # fmt: skip
FAULTS = ("kill", "kill", "stop", "exit", "memory", "exception")
PROMPT = 5.0  # seconds to the end of a job whose rank has failed, on an idle machine


def failures_setup(folder: Path) -> None:
    kill_setup(folder)
    (folder / "planted").mkdir()
    (folder / "planted" / "sitecustomize.py").write_text(PLANTED)
    code, said = command("run", *failing(folder), folder / "whole")
    assert code == 0, said


def failing(folder: Path) -> list[str | Path]:
    """The arguments of `run`, up to the folder."""
    limits = ["--max-iterations", "12", "--tol", "1e-300", "--checkpoint-seconds", "0", "--rank-timeout", "8"]
    return ["lbfgs", folder / "data", *limits, "-o"]


def failures(rng: Chance, folder: Path) -> Verdict:
    """A rank fails in a phase of a run: the job ends soon, or says which rank it waits for, with the right code."""
    import mpinewton

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    import launch

    phase, fault, nproc = rng.choice(list(PHASES)), rng.choice(FAULTS), rng.between(1, 4)
    rank, by_hand = rng.choice((0, *range(1, nproc + 1))), rng.uniform() < 0.5
    out, mark = folder / "out", folder / "struck"
    shutil.rmtree(out, ignore_errors=True)
    mark.unlink(missing_ok=True)
    module, names, calls = PHASES[phase][rank > 0]
    planted = {"RANK": rank, "FAULT": fault, "MODULE": module, "NAMES": names, "CALLS": calls, "MARK": mark}
    path = f"{folder / 'planted'}{os.pathsep}{Path(mpinewton.__file__).parents[1]}"
    env = {f"MPINEWTON_PLANTED_{name}": str(value) for name, value in planted.items()} | {"PYTHONPATH": path}
    words = [sys.executable, "-m", "mpinewton", "run", *failing(folder), out]
    words = [launch.mpiexec(), "-n", str(nproc + 1), *words] if by_hand else [*words, "--nproc", str(nproc)]
    what = f"{fault} in {phase} on rank {rank} of {nproc + 1}{' by mpiexec' if by_hand else ''}"
    try:
        with launch.Job(words, timeout=90, env=env) as job:
            if fault == "stop" and rank == 0:  # a stopped driver says nothing; the run continues when it does
                job.until(mark.exists)
                time.sleep(2)
                for pid in launch.marked(job.mark):
                    os.kill(pid, signal.SIGCONT)
            finished = job.wait()
            end = time.time()
    except AssertionError as late:
        return f"WRONG {what}: {str(late)[-3000:]}"
    if not mark.exists():
        return f"WRONG {what}: never struck: {finished}"
    seconds = end - float(mark.read_text())
    said, results = finished.stdout + finished.stderr, [folder / "whole" / "result.json", out / "result.json"]
    digests = [json.loads(file.read_text())["history_sha256"] for file in results if file.exists()]
    complete = len(digests) == 2 and digests[0] == digests[1]
    wrong = []
    if fault == "stop" and rank == 0:
        wrong += [] if finished.returncode == 0 and complete else ["does not continue"]
    elif seconds > load() * (PROMPT if fault != "stop" else PROMPT + 8):
        wrong.append(f"ended after {seconds:.1f} s at {load():.1f} processes a core")
    if (finished.returncode == 0) != complete and not (phase == "end" and complete):
        wrong.append("success" if finished.returncode == 0 else "failure in spite of the result")
    if finished.returncode in (2, 3):
        wrong.append(f"exit code {finished.returncode}")
    if number_of_errors(said) > (fault in ("exit", "memory", "exception")) + ("WorkerError" in said):
        wrong.append(f"{number_of_errors(said)} tracebacks")
    if (
        not complete
        and "mpinewton: " not in said
        and not ((by_hand and fault == "kill") or fault == "exit")
        and number_of_errors(said) != 1
    ):
        wrong.append("no message")
    if wrong:
        return f"WRONG {what}: {'; '.join(wrong)}: {str(finished)[-3000:]}"
    return f"ok {'stopped' if fault == 'stop' else 'ended'}, {what}: {finished.returncode} after {seconds:.1f} s"


# -- links: ranks on hosts of their own, whose link is cut -------------------------------------------------------------


def links(rng: Chance, folder: Path) -> Verdict:
    """A host's link is cut for 10 s, and the run continues to the same bits; or for ever, and it names the ranks."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    import launch

    hosts, for_ever = rng.between(3, 5), rng.uniform() < 0.5
    link, target, out = rng.below(hosts), rng.between(1, 11), folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    words = [sys.executable, "-m", "mpinewton", "run", *failing(folder), out]
    words[words.index("8")] = "15" if for_ever else "120"  # seconds of --rank-timeout
    what = f"link {link} of {hosts} cut {'for ever' if for_ever else 'for 10 s'} after {target} iterations"
    start = [*launch.WIDE, "-n", str(hosts), "-d", "1", *words]
    try:
        with launch.Job(start, timeout=200, env={"MPIEXEC": launch.mpiexec()}) as job:
            job.until(lambda: rows(out) > target)
            change = ["ip", "-n", f"mpinewton-{job.process.pid}-switch", "link", "set", f"link{link}"]
            subprocess.run([*change, "down"], check=True)
            if not for_ever:
                time.sleep(10)
                subprocess.run([*change, "up"], check=True)
            finished = job.wait()
    except AssertionError as late:
        return f"WRONG {what}: {str(late)[-3000:]}"
    results = [folder / "whole" / "result.json", out / "result.json"]
    digests = [json.loads(file.read_text())["history_sha256"] for file in results if file.exists()]
    complete = finished.returncode == 0 and len(digests) == 2 and digests[0] == digests[1]
    named = finished.returncode != 0 and "not answered for" in finished.stderr and not number_of_errors(str(finished))
    if complete and (not for_ever or target > 10):  # it may have ended before
        return f"ok continued, {what}"
    return f"ok ended with a message, {what}" if for_ever and named else f"WRONG {what}: {str(finished)[-3000:]}"


# -- slurm: chains of jobs on a cluster of virtual nodes ---------------------------------------------------------------


def slurm(rng: Chance, folder: Path) -> Verdict:
    """A job that is signalled, requeued, or loses its node, 1 to 3 times, ends without help, with the right digests."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    from slurm import Cluster

    name, settings, expected = undisturbed(rng, folder)
    if not isinstance(expected, dict):
        return expected
    out, place = folder / "chain", folder / "cluster"
    for old in (out, place):
        shutil.rmtree(old, ignore_errors=True)
    job = ("--time", 30, "--ntasks", rng.between(2, 6), "--nodes", rng.between(1, 2))
    code, script = command("slurm", *job, "run", "--config", settings, "-o", out)
    assert code == 0, script
    events, happened = [rng.choice(("signal", "requeue", "node")) for _ in range(rng.between(1, 3))], 0
    what = f"{name}, {' '.join(events)}"
    try:
        with Cluster(place) as cluster:
            number = cluster.submit(script, place)
            for event in events:
                happened += disturbed(cluster, number, event, out, max(rows(out), 1) + rng.below(4))
            found = cluster.wait(number, 600)
    except (TimeoutError, RuntimeError) as error:
        return f"WRONG {what}: {str(error)[-3000:]}"
    said = (place / f"mpinewton-{number}.log").read_text()
    result = json.loads((out / "result.json").read_text()) if (out / "result.json").exists() else {}
    same = all(result.get(key) == expected[key] for key in ("history_sha256", "w_sha256"))
    how = f"{happened} happened, {found['Restarts']} restarts, {found['JobState']}, exit code {found['ExitCode']}"
    if not same or found["ExitCode"] != f"{expected_code(expected)}:0" or number_of_errors(said):
        return f"WRONG {what}: {how}: {said[-3000:]}"
    return f"ok ended without help, {what}: {how}"


def disturbed(cluster: Any, number: str, event: str, out: Path, target: int) -> bool:
    """Disturb a job of SLURM once it has more than so many rows, and wait until it is queued again or over."""
    from slurm import END

    cluster.until(lambda: rows(out) > target or cluster.job(number)["JobState"] in END, 600)
    before = cluster.job(number)
    if before["JobState"] != "RUNNING":
        return False
    node = ["scontrol", "update", f"NodeName={before['BatchHost']}"]
    change = {
        "signal": ["scancel", "--signal=USR1", number],
        "requeue": ["scontrol", "requeue", number],
        "node": [*node, "State=DOWN", "Reason=campaign"],
    }
    if event == "node":
        cluster.kill(before["BatchHost"])
    cluster(*change[event], check=False)  # SLURM itself would notice a dead node after a while

    def over() -> bool:
        now = cluster.job(number)
        return now["JobState"] in END or now["Restarts"] != before["Restarts"]

    cluster.until(over, 600)
    if event == "node":
        cluster.start(before["BatchHost"])
        cluster(*node, "State=RESUME", check=False)  # it may have come back by itself
    return True


# -- soak: one long run ------------------------------------------------------------------------------------------------


def soak(minutes: float, out: Path) -> int:
    """Memory of all ranks of a run with checkpoints: kB at a tenth of the time and at its end, and the growth."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kill_setup(folder)
        words = [
            sys.executable,
            "-m",
            "mpinewton",
            "run",
            "sgdm",
            folder / "data",
            "-o",
            folder / "run",
            "--nproc",
            "3",
            "--set",
            "batch_size=32",  # never at rest
        ]
        limits = ["--max-iterations", "1000000000", "--tol", "1e-300", "--checkpoint-seconds", "0.5"]
        with subprocess.Popen([*words, *limits], env=launcher_environment(4), stdout=subprocess.DEVNULL) as child:
            start, memory = time.monotonic(), dict[float, list[int]]()
            while child.poll() is None and time.monotonic() - start < 60 * minutes:
                time.sleep(2)
                with contextlib.suppress(OSError, ValueError):
                    ranks = json.loads((folder / "run" / "env.json").read_text())["ranks"]
                    memory[time.monotonic() - start] = [resident(rank["pid"]) for rank in ranks]
            done = rows(folder / "run") - 2
            child.send_signal(signal.SIGTERM)
            code = child.wait(60)
        first = next(sizes for at, sizes in memory.items() if at > 6 * minutes)
        last = list(memory.values())[-1]
        growth = [after - before for before, after in zip(first, last)]
        verdict = "ok" if code == 3 and max(growth) < 1024 else "WRONG"
        text = f"{verdict} {minutes:g} min, {done} iterations: kB {first} to {last}, growth {growth}; exit code {code}"
    (out / "soak.jsonl").write_text(json.dumps(note("soak", 0, 0, text)) + "\n")
    print(text)
    return int(verdict != "ok")


def resident(pid: int) -> int:
    """Memory of a process in kB."""
    return int(re.findall(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def expected_code(result: dict[str, Any]) -> int:
    from mpinewton.runs.execute import EXIT_CODES

    return EXIT_CODES[result["kind"]]


def rows(out: Path) -> int:
    """Rows of a run so far, its heading included."""
    with contextlib.suppress(OSError):
        return (out / "history.csv").read_bytes().count(b"\n")
    return 0


def victims(rng: Chance, launcher: int, out: Path, number: int) -> list[int]:
    """The launcher, or a rank of the run."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        ranks = [rank["pid"] for rank in json.loads((out / "env.json").read_text())["ranks"]]
        alive = [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
        if alive and rng.uniform() < 0.7:
            return [rng.choice(alive)]
    return [launcher]


def number_of_errors(said: str) -> int:
    return said.count("Traceback (most recent call last)")


# -- hostile: files with a right seal and a wrong inside ---------------------------------------------------------------

SEALED = (Path("run/model.h5"), Path("run") / checkpoint.NAMES[0], Path("run") / checkpoint.NAMES[1])
Change = Callable[[Any], None]


def hostile_setup(folder: Path) -> None:
    corrupt_setup(folder)
    (folder / "outside.bin").write_bytes(np.ones(1000).tobytes())
    with h5py.File(folder / "outside.h5", "w") as file:
        file["w"] = np.ones(1000)


def edited(path: Path, change: Change, shard: bool = False) -> None:
    """Change what an HDF5 file holds, and seal it anew."""
    image = io.BytesIO(path.read_bytes())
    with h5py.File(image, "r+") as file:
        change(file)
    if shard:
        path.write_bytes(image.getvalue())
        return
    kind = image.getvalue()[:SEAL_BYTES].split(b" ")[0].decode()
    path.write_bytes(
        f"{kind} {_digest(image.getbuffer())}\n".encode().ljust(SEAL_BYTES, b"\0") + image.getvalue()[SEAL_BYTES:]
    )


def put(name: str, *more: Any, **options: Any) -> Change:
    """Replace a data set; a function gets the folder."""

    def change(file: Any) -> None:
        del file[name]
        if more and isinstance(more[0], (h5py.SoftLink, h5py.ExternalLink)):
            file[name] = more[0]
        elif more or options:
            file.create_dataset(name, *more, **options)

    return change


def facts(name: str = "facts", **changed: Any) -> Change:
    """Change the JSON text of a sealed file; "schema.x" is inside."""

    def change(file: Any) -> None:
        said = json.loads(bytes(file[name][()]))
        for key, value in changed.items():
            inside, _, last = key.rpartition("__")
            (said[inside] if inside else said)[last] = value
        put(name, data=np.frombuffer(json.dumps(said).encode(), np.uint8))(file)

    return change


def text(content: bytes, name: str = "facts") -> Change:
    return put(name, data=np.frombuffer(content, np.uint8))


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((1000,), "f8")
    layout[:] = h5py.VirtualSource("outside.h5", "w", (1000,))
    del file["w"]
    file.create_virtual_dataset("w", layout)


def many(file: Any) -> None:
    for number in range(5000):
        file[f"x{number}"] = 0.0


MODELS: dict[str, Change] = {
    "external link": put("w", h5py.ExternalLink("outside.h5", "w")),
    "soft link": put("w", h5py.SoftLink("/facts")),
    "soft link to itself": put("w", h5py.SoftLink("/w")),
    "external storage": put("w", (1000,), "f8", external=[("outside.bin", 0, 8000)]),
    "virtual": virtual,
    "no weights": put("w"),
    "a group": lambda file: (file.__delitem__("w"), file.create_group("w"))[0],
    "NaN": put("w", data=np.full(9, np.nan)),
    "infinite": put("w", data=np.full(9, np.inf)),
    "other size": put("w", data=np.zeros(5)),
    "empty": put("w", data=h5py.Empty("f8")),
    "words": put("w", data=np.array([b"a"] * 9)),
    "compound": put("w", data=np.zeros(9, "f8,i4")),
    "variable length": put("w", data=["a"] * 9, dtype=h5py.string_dtype()),
    "complex": put("w", data=np.zeros(9, complex)),
    "float32": put("w", data=np.zeros(9, "f4")),
    "huge": put("w", shape=(1 << 50,), dtype="f8", chunks=(1 << 16,)),
    "huge, not chunked": put("w", shape=(1 << 45,), dtype="f8"),
    "5000 data sets": many,
    "no JSON": text(b"{"),
    "nested JSON": text(b"[" * 100_000),
    "JSON of another kind": text(b"[1, 2]"),
    "no UTF-8": text(b'{"loss": "\xff"}'),
    "facts of floats": put("facts", data=np.zeros(3)),
    "no loss": text(b"{}"),
    "unknown loss": facts(loss="none"),
    "loss of a number": facts(loss=5),
    "loss of a file": facts(loss="/etc/passwd:Loss"),
    "loss beyond memory": facts(loss="mlp:hidden=99999999999"),
    "l2": facts(l2=-1.0),
    "l2 of text": facts(l2="1"),
    "a number of 400 digits": facts(l2=10**400),
    "classes": facts(classes=[1.0, 0.0, 0.5]),
    "classes of NaN": text(b'{"classes": [NaN]}'),
    "features": facts(schema__features=1 << 40),
    "no features": facts(schema__features=0),
    "scale": facts(schema__scale="1/0"),
    "scale of a program": facts(schema__scale="__import__('os').abort()"),
    "class names": facts(schema__class_names=["a", "a", "b"]),
    "factor": facts(schema__factor=[1.0]),
    "columns": facts(schema__columns={"x": 1}),
}


def remade(**changed: Any) -> Callable[[Path], None]:
    """A checkpoint with other facts (`iteration=...`), state (`state__w=...`), ledger, or workers."""

    def change(path: Path) -> None:
        saved = checkpoint.read(path)
        parts = {"state": saved.state, "ledger": dict(saved.ledger), "workers": saved.workers, "facts": saved.facts}
        for key, value in changed.items():
            inside, _, last = key.partition("__")
            where = parts[inside] if last else parts["facts"]
            if isinstance(where, list):
                where, last = where[0], last.replace("__", "/")
            name = {"memory": "ends/memory", "best": "ends/best"}.get(last, last or inside)
            if value is None:
                where.pop(name, None)
            else:
                where[name] = value(where[name]) if callable(value) else value
        workers = changed.get("all_workers", saved.workers)
        number = changed.get("number", saved.number)
        checkpoint.write(
            path.parent, checkpoint.Checkpoint(number, parts["facts"], parts["state"], parts["ledger"], workers)
        )

    return change


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "NaN": remade(state__w=lambda w: w * np.nan),
    "weights of another shape": remade(state__w=np.zeros(3)),
    "weights of two dimensions": remade(state__w=lambda w: w.reshape(1, -1)),
    "no weights": remade(state__w=None),
    "weights of text": remade(state__w="w"),
    "loss of text": remade(state__loss="0.5"),
    "loss of NaN": remade(state__loss=float("nan")),
    "gradient of another shape": remade(state__gradient=np.zeros(2)),
    "gradient of integers": remade(state__gradient=lambda g: g.astype(int)),
    "memory of another shape": remade(state__S=np.zeros((2, 2))),
    "memory of no dimension": remade(state__Y=np.array(1.0)),
    "memory of NaN": remade(state__S=lambda S: S * np.nan),
    "units": remade(state__units=np.ones(1)),
    "note of a number": remade(state__note=5.0),
    "trouble": remade(state__trouble="trouble"),
    "another field": remade(state__other=np.zeros(2)),
    "rules, short": remade(state__memory=np.zeros(2)),
    "rules of NaN": remade(state__memory=lambda m: m * np.nan),
    "rules of a late row": remade(state__memory=lambda m: m + 1e9),
    "best weights": remade(state__best=np.zeros(1)),
    "no workers": remade(all_workers=[]),
    "many workers": remade(all_workers=[{}] * 1000),
    "a worker's point": remade(workers__point__z=np.zeros(1)),
    "a worker's weights": remade(workers__w=np.zeros(1)),
    "a worker's steps": remade(workers__steps=np.zeros(3)),
    "a worker's direction": remade(workers__p=np.zeros(3)),
    "no ledger": remade(ledger__scalars=None),
    "ledger of another shape": remade(ledger__bits_up=np.zeros(7)),
    "ledger of floats": remade(ledger__bits_up=np.array([np.nan, np.inf])),
    "iteration of text": remade(iteration="5"),
    "iteration in the future": remade(iteration=10**9),
    "negative iteration": remade(iteration=-1),
    "seconds": remade(seconds=-1.0),
    "seconds of NaN": remade(seconds=float("nan")),
    "table of another size": remade(history=[10**18, ""]),
    "table of text": remade(history="x"),
    "ledger table": remade(ledger_=0, ledger=None),
    "no identity": remade(identity=None),
    "identity of text": remade(identity="x"),
    "arithmetic": remade(arithmetic={"numpy": "x"}),
}
# A loss that a method need not know; and a checkpoint of no run at all, in whose folder nothing is overwritten.
ACCEPTED = ("loss of NaN", "no identity")


def labels(y: Any) -> Change:
    """Other labels, with their digest."""

    def change(file: Any) -> None:
        put("y", data=y, chunks=(5,), fletcher32=True)(file)
        file["y"].attrs["digest"] = np.bytes_(hashlib.blake2b(y.tobytes(), digest_size=32).hexdigest())

    return change


SHARDS: dict[str, Change] = {
    "soft link": put("y", h5py.SoftLink("/X")),
    "external link": put("y", h5py.ExternalLink("outside.h5", "w")),
    "external storage": put("y", (20,), "f8", external=[("outside.bin", 0, 8000)]),
    "no labels": put("y"),
    "no checksums": put("y", data=np.zeros(20)),
    "huge": put("y", shape=(1 << 40,), dtype="f8", chunks=(1 << 16,), fletcher32=True),
    "NaN": labels(np.full(20, np.nan)),
    "labels of integers": labels(np.ones(20, np.int64)),
    "another label": lambda file: file["y"].__setitem__(0, 7),
    "rows": lambda file: file.attrs.__setitem__("rows", -1),
    "rows of text": lambda file: file.attrs.__setitem__("rows", np.bytes_("x")),
    "many rows": lambda file: file.attrs.__setitem__("rows", 1 << 60),
    "features": lambda file: file.attrs.__setitem__("features", 0),
    "classes": lambda file: file.attrs.__setitem__("classes", np.arange(8000.0)),
    "format": lambda file: file.attrs.__setitem__("format", np.bytes_("mpinewton-shard/99")),
    "format of numbers": lambda file: file.attrs.__setitem__("format", 5),
    "scale": lambda file: file.attrs.__setitem__("scale", np.bytes_("1/0")),
    "dtype": lambda file: file.attrs.__setitem__("dtype", np.bytes_("O")),
    "no attributes": lambda file: file.attrs.__delitem__("dtype"),
    "another data set": lambda file: file.create_dataset("z", data=0),
}
PIPES = (*map(str, SEALED), "dense/shard-0000.h5", f"dense/{FILE}", "run/history.csv", "run/log.txt", "run/result.json",
         "run/config.toml")  # fmt: skip
HOSTILE = [(kind, name) for kind, names in (("model", MODELS), ("checkpoint", CHECKPOINTS), ("both", CHECKPOINTS),
                                            ("shard", SHARDS), ("pipe", PIPES)) for name in names]  # fmt: skip


def hostile(rng: Chance, folder: Path) -> Verdict:
    """The hostile files in turn."""
    return judge(*HOSTILE[rng.number % len(HOSTILE)], folder)


def judge(kind: str, name: str, folder: Path) -> Verdict:
    """A hostile file is refused in a sentence; of two checkpoints of which one is hostile, the other is used."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        for part in folder.iterdir():
            (shutil.copytree if part.is_dir() else shutil.copy)(part, part.name)
        run = ("run", *METHOD, folder / "dense", "-o", "run", "--checkpoint-seconds", 0, "--max-iterations")
        model, newest = SEALED[0], max(SEALED[1:], key=lambda path: checkpoint.read(path).number)
        if kind == "model":
            edited(model, MODELS[name])
            code, said = command("predict", model, "dense")
        elif kind == "shard":
            edited(Path("dense/shard-0000.h5"), SHARDS[name], shard=True)
            code, said = command("check", "dense")
        elif kind == "pipe":
            Path(name).unlink()
            os.mkfifo(name)
            words = ("predict", model, folder / "dense") if name == str(model) else (*run, 8)
            code, said = command(*words) if name.startswith("run/") else command("check", "dense")
        else:
            for path in SEALED[1:] if kind == "both" else [newest]:
                CHECKPOINTS[name](path)
            code, said = command(*run, 8)
        if code is None:
            return f"WRONG {kind}, {name}: {said}"
        if kind in ("model", "shard") and code != 2:
            return f"WRONG {kind}, {name}: exit code {code}: {said}"
        if kind == "checkpoint" and code != 0 and name not in ACCEPTED:
            return f"WRONG {kind}, {name}: the other checkpoint is not used: {said}"
        return f"ok {kind}, {name}: exit code {code}"


CAMPAIGNS: dict[str, tuple[Callable[[Chance, Path], Verdict], Callable[[Path], None] | None, int]] = {
    "corrupt": (corrupt, corrupt_setup, 13_000),
    "fuzz": (fuzz, None, 100_000),
    "configurations": (configurations, configurations_setup, 1000),
    "hostile": (hostile, hostile_setup, len(HOSTILE)),
    "checkpoints": (checkpoints, None, 500),
    "kill": (kill, kill_setup, 100),
    "signals": (signals, kill_setup, 100),
    "survivals": (survivals, kill_setup, 50),
    "restarts": (restarts, kill_setup, 50),
    "failures": (failures, failures_setup, 300),
    "links": (links, failures_setup, 20),
    "slurm": (slurm, kill_setup, 20),
}


def cases(name: str, seed: int, first: int, count: int) -> Iterator[tuple[int, Verdict]]:
    """Verdicts of the cases from `first` on."""
    case, setup, _ = CAMPAIGNS[name]
    with tempfile.TemporaryDirectory() as folder:
        if setup is not None:
            setup(Path(folder))
        for number in range(first, count):
            yield number, case(Chance(seed, name, number), Path(folder))


JOBS = ("kill", "signals", "survivals", "restarts", "failures", "links", "slurm", "soak")  # with runs on many ranks


def library() -> str:
    """The MPI library of the launcher."""
    said = subprocess.run([mpiexec(), "--version"], capture_output=True, text=True, check=False).stdout
    return "Open MPI" if "Open MPI" in said else "MPICH"


def note(name: str, seed: int, number: int, verdict: Verdict) -> dict[str, Any]:
    """A line of a file of verdicts."""
    mpi = {"mpi": library()} if name in JOBS else {}
    return {"seed": seed, **mpi, "case": number, "verdict": verdict}


def campaign(name: str, seed: int, count: int, out: Path) -> int:
    """Continue a campaign. Returns 1 if a verdict is WRONG."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    same = note(name, seed, 0, "")
    done = [line for line in done if all(line.get(key) == same.get(key) for key in ("seed", "mpi"))]
    wrong = sum(line["verdict"].startswith("WRONG") for line in done)
    with file.open("a") as lines:
        for number, verdict in cases(name, seed, len(done), count):
            lines.write(json.dumps(same | {"case": number, "verdict": verdict}) + "\n")
            lines.flush()
            if verdict.startswith("WRONG"):
                wrong += 1
                print(f"{name} {number}: {verdict}", flush=True)
    print(f"{name}: {max(count, len(done))} cases, {wrong} wrong")
    return int(wrong > 0)


def page(out: Path, file: Path) -> None:
    """Write the figures into the table of the page, a row for each campaign and MPI library."""
    lines = ["| campaign | MPI | cases | wrong | verdicts |", "|---|---|---|---|---|"]
    for name in (*CAMPAIGNS, "soak"):
        path = out / f"{name}.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for mpi in sorted({line.get("mpi", "") for line in found}):
            verdicts = [line["verdict"] for line in found if line.get("mpi", "") == mpi]
            counted = Counter(re.split(r"[:,]", verdict)[0] for verdict in verdicts)
            most = "; ".join(f"{kind} {count}" for kind, count in counted.most_common(6))
            wrong = sum(verdict.startswith("WRONG") for verdict in verdicts)
            lines.append(f"| {name} | {mpi} | {len(verdicts)} | {wrong} | {most} |")
        lines += [] if found else [f"| {name} | | not run | | |"]
    head, _, rest = file.read_text().partition("<!-- figures -->\n")
    _, _, tail = rest.partition("<!-- end of figures -->")
    file.write_text(f"{head}<!-- figures -->\n" + "\n".join(lines) + f"\n<!-- end of figures -->{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", choices=[*CAMPAIGNS, "soak", "page"])
    parser.add_argument("--minutes", type=float, default=30.0, help="of soak")
    parser.add_argument("--count", type=int, help="number of cases; by default the number that the page promises")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/faults"))
    parser.add_argument("--page", type=Path, default=Path("docs/reliability.md"))
    asked = parser.parse_args()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts background jobs so, and runs inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked.campaign == "page":
        page(asked.output, asked.page)
        return 0
    if asked.campaign == "soak":
        return soak(asked.minutes, asked.output)
    return campaign(asked.campaign, asked.seed, asked.count or CAMPAIGNS[asked.campaign][2], asked.output)


if __name__ == "__main__":
    sys.exit(main())
