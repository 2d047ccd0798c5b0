"""Measures the power of the tests: changes single tokens of the package at random, and runs the tests of each change.

    python scripts/mutants.py --count 50 --seed 1 --rooms fleet linalg -o build/mutants
    python scripts/mutants.py --report -o build/mutants

The first call traces which test calls which function, in minutes; the folder keeps that and the verdict on each change.
A later call with the same seed and rooms continues after the last verdict. A change that survives is a gap in the
tests, or has no effect: judge it by reading. The folder belongs to one state of the sources.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import shutil
import sys
import time
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("fleet", "linalg", "losses", "runs", "compress")
PARTS = ("mpinewton", "tests", "scripts", "jobs", "docs", "examples", "benchmarks", "setup.cfg", "README.md")
TRACED = ("tests/unit", "tests/methods")
IN_JOBS = ("tests/test_mpi_suite.py::test_the_mpi_tests_pass_on[3]", "tests/faults/test_fleet_faults.py")
SWAPS = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is",
    "in": "not in", "not in": "in", "+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "*", "**": "*",
    "&": "|", "|": "&", "^": "|", "<<": ">>", ">>": "<<", "and": "or", "or": "and",
    "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "|=": "&=", "&=": "|=", "True": "False", "False": "True",
}  # fmt: skip
SKIPPED = ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Raise
OPTIONS = ["-q", "-x", "--no-header", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]


class Change(NamedTuple):
    """One token of a file replaced by another; `line` counts from 1, `column` from 0."""

    file: str
    line: int
    column: int
    old: str
    new: str

    def applied(self, source: str) -> str:
        lines = source.splitlines(keepends=True)
        row = lines[self.line - 1]
        assert row[self.column :].startswith(self.old), self
        lines[self.line - 1] = row[: self.column] + self.new + row[self.column + len(self.old) :]
        return "".join(lines)


def changes(file: Path) -> list[Change]:
    """All changes of a file: operators, signs, constants, not of texts, annotations, imports and f-strings."""
    source = file.read_text()
    code = [node for node in _code(ast.parse(source)) if hasattr(node, "lineno")]
    signs = {(n.lineno, n.col_offset) for n in code if isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.USub)}
    spans = [_span(n) for n in code if isinstance(n, ast.BinOp | ast.BoolOp | ast.Compare | ast.AugAssign)]
    constants = {_span(n) for n in code if isinstance(n, ast.Constant) and isinstance(n.value, int | float | bool)}
    name = str(file.relative_to(ROOT))
    found = []
    for token in _tokens(source):
        here, text = (token.start, token.end), token.string
        if here in constants:
            new = SWAPS.get(text) or _other_number(text)
        elif token.start in signs:
            new = ""
        elif text in SWAPS and any(start < token.start < end for start, end in spans):
            new = SWAPS[text]
        else:
            continue
        # Columns of ast count bytes, those of tokens characters: lines that are not ASCII are left alone.
        if token.line.isascii():
            found.append(Change(name, *token.start, text, new))
    return found


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below, but for annotations, imports, f-strings and the arguments of exceptions."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, SKIPPED):
                yield child
                yield from _code(child)


def _span(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens, `is not` and `not in` as one each."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    skip = False
    for token, after in zip(tokens, [*tokens[1:], tokens[-1]]):
        two = f"{token.string} {after.string}"
        if skip:
            skip = False
        elif two in ("is not", "not in") and token.line[token.start[1] :].startswith(two):
            skip = True
            yield token._replace(string=two, end=after.end)
        else:
            yield token


def _other_number(text: str) -> str:
    value = ast.literal_eval(text)
    return str(value + 1) if isinstance(value, int) else repr(value * 2 or 1.0)


def shuffled(items: list[Any], seed: int) -> list[Any]:
    import numpy as np  # after the number of threads is set

    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


def places_of(change: Change) -> list[str]:
    """The innermost function about the change, else all functions of its class, else its file, as in `Tests.of`."""

    def functions(node: ast.AST) -> list[Any]:
        return [child for child in ast.walk(node) if isinstance(child, ast.FunctionDef)]

    def place(function: ast.FunctionDef) -> str:
        line = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        return f"{change.file}:{line}"

    def about(node: Any) -> bool:
        return bool(node.lineno <= change.line <= node.end_lineno)

    tree = ast.parse((ROOT / change.file).read_text())
    inside = [f for f in functions(tree) if about(f) and change.line >= f.body[0].lineno]
    if inside:
        return [place(max(inside, key=lambda f: int(f.lineno)))]
    kinds = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and about(node)]
    return [place(f) for kind in kinds for f in functions(kind)] or [change.file]


# -- which test calls which function ---------------------------------------------------------------------------------


class Tracer:
    """A plugin of pytest: writes one line a test, with its outcome, its seconds and the functions that it called."""

    def __init__(self, tree: Path, file: Path) -> None:
        self.tree, self.file, self.codes, self.failed = f"{tree}/", file, {}, False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        codes: dict[int, Any] = {}

        def trace(frame: Any, event: str, argument: object) -> None:
            codes[id(frame.f_code)] = frame.f_code  # the hash of a code object is slow

        self.failed, start = False, time.process_time()
        sys.settrace(trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            mine = {(c.co_filename, c.co_firstlineno) for c in codes.values() if c.co_filename.startswith(self.tree)}
            called = sorted({f"{name.removeprefix(self.tree)}:{line}" for name, line in mine if "/tests/" not in name})
            if not self.failed:
                entry = {"test": item.nodeid, "seconds": round(time.process_time() - start, 3), "called": called}
                with self.file.open("a") as file:
                    file.write(json.dumps(entry) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or not report.passed


class Tests:
    """The traced tests, and which of them call a function."""

    def __init__(self, file: Path) -> None:
        self.seconds: dict[str, float] = {}
        self.of: dict[str, set[str]] = defaultdict(set)
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            self.seconds[entry["test"]] = entry["seconds"]
            for place in entry["called"]:
                self.of[place].add(entry["test"])
                self.of[place.rpartition(":")[0]].add(entry["test"])

    def covering(self, change: Change, limit: float) -> list[str]:
        """Tests that call the changed function, as many as take `limit` seconds, different functions first."""
        found = sorted(set().union(*(self.of.get(place, ()) for place in places_of(change))))
        found = shuffled(found, len(found))
        turn: dict[str, int] = defaultdict(int)
        order = {}
        for test in found:
            name = test.partition("[")[0]
            order[test] = (turn[name], "methods" in name, self.seconds[test])
            turn[name] += 1
        chosen, spent = [], 0.0
        for test in sorted(found, key=order.__getitem__):
            if spent + self.seconds[test] <= limit:
                chosen.append(test)
                spent += self.seconds[test]
        return chosen


# -- runs of the tests, each in a child of this process, which has imported what takes long --------------------------


def in_child(tree: Path, arguments: Sequence[str | Path], log: Path, plugins: Sequence[object] = ()) -> int:
    """Exit code of pytest on the copy of the sources; negative, where a signal ended it."""
    child = os.fork()
    if child == 0:
        os.chdir(tree)
        out = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(out, 1), os.dup2(out, 2)
        os.environ["PYTHONPATH"] = str(tree)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a change within the second and of the same size is not seen
        sys.dont_write_bytecode = True
        sys.path[:0] = [str(tree), str(tree / "tests" / "support")]
        code: int = 3
        try:
            code = pytest.main([*OPTIONS, *map(str, arguments)], plugins)
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def verdict(code: int, log: Path) -> tuple[str, str]:
    """killed, late or survived, and the test that says so."""
    text = log.read_text(errors="replace")
    if code == 0:
        return "survived", ""
    by = [line.split(" ")[1] for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    late = "++ Timeout ++" in text or "still ran after" in text
    return "late" if late else "killed", by[0] if by else ""


def tried(change: Change, tree: Path, tests: Tests, log: Path, given: argparse.Namespace) -> dict[str, Any]:
    file = tree / change.file
    whole, start = file.read_text(), time.monotonic()
    found = tests.covering(change, given.limit)
    stages = [["--timeout=20", *found]] if found else []
    if given.jobs and (change.file.startswith("mpinewton/fleet") or not found):
        stages.append(["--timeout=120", *IN_JOBS])
    ended, by, count = "untried", "", 0
    try:
        file.write_text(change.applied(whole))
        for stage in stages:
            count += len(stage) - 1
            ended, by = verdict(in_child(tree, stage, log), log)
            if ended != "survived":
                break
    finally:
        file.write_text(whole)
    source = whole.splitlines()[change.line - 1].strip()
    spent = round(time.monotonic() - start, 1)
    return {**change._asdict(), "source": source, "verdict": ended, "by": by, "tests": count, "seconds": spent}


def report(results: list[dict[str, Any]]) -> str:
    lines = ["| room | changes | killed | late | survived | untried |", "|---|---|---|---|---|---|"]
    for room in [*ROOMS, ""]:
        mine = [r["verdict"] for r in results if r["file"].startswith(f"mpinewton/{room}")]
        if mine:
            cells = [str(len(mine)), *(str(mine.count(word)) for word in ("killed", "late", "survived", "untried"))]
            lines.append(f"| {' | '.join([room or 'all', *cells])} |")
    lines += ["", "Survivors:", ""]
    for r in results:
        if r["verdict"] == "survived":
            change = f"{r['file']}:{r['line']}:{r['column']} `{r['old']}` to `{r['new'] or 'nothing'}`"
            lines.append(f"- {change} in `{r['source']}`, {r['tests']} tests")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="changes to try in this call (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="order in which changes are drawn (default: 1)")
    parser.add_argument("--rooms", nargs="+", default=ROOMS, help=f"folders of mpinewton/ (default: {' '.join(ROOMS)})")
    parser.add_argument(
        "--tests", nargs="+", default=TRACED, help=f"what the first call traces (default: {' '.join(TRACED)})"
    )
    parser.add_argument(
        "--limit", type=float, default=60, help="seconds of tests that a survivor has seen (default: 60)"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no change after so many seconds")
    parser.add_argument("--jobs", action="store_true", help="try survivors of fleet/ under mpiexec, minutes each")
    parser.add_argument("--report", action="store_true", help="print the table of what was tried, and try nothing")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "build" / "mutants", help="folder of the verdicts")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    trace, verdicts, log, tree = out / "trace.jsonl", out / "verdicts.jsonl", out / "log", out / "tree"
    results = [json.loads(line) for line in verdicts.read_text().splitlines()] if verdicts.exists() else []
    if given.report:
        print(report(results))
        return
    shutil.rmtree(tree, ignore_errors=True)
    for part in filter(Path.exists, (ROOT / name for name in PARTS)):
        copy = shutil.copytree if part.is_dir() else shutil.copy
        copy(part, tree.mkdir(exist_ok=True) or tree / part.name)
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    import launch

    os.environ.update(launch.JOB_ENVIRONMENT)
    import h5py  # noqa: F401
    import hypothesis  # noqa: F401
    import scipy.sparse.linalg
    import scipy.special  # noqa: F401

    if not trace.exists():
        print(f"tracing {' '.join(given.tests)}", flush=True)
        part = out / "trace.part"
        part.unlink(missing_ok=True)
        in_child(
            tree, ["--maxfail=1000000", "--timeout=3000", "-m", "not slow", *given.tests], log, [Tracer(tree, part)]
        )
        part.rename(trace)
    if given.jobs and in_child(tree, ["--timeout=3000", *IN_JOBS], log) != 0:
        sys.exit(f"the tests fail on the sources as they are: {log}")
    tests = Tests(trace)
    files = [file for room in given.rooms for file in sorted((ROOT / "mpinewton" / room).rglob("*.py"))]
    every = [change for file in files for change in changes(file)]
    every = shuffled(every, given.seed)
    done = {tuple(r[field] for field in Change._fields) for r in results}
    begun = time.monotonic()
    for change in [change for change in every if tuple(change) not in done][: given.count]:
        if time.monotonic() - begun > given.seconds:
            break
        result = tried(change, tree, tests, log, given)
        with verdicts.open("a") as file:
            file.write(json.dumps(result) + "\n")
        what = f"{change.file}:{change.line}  {change.old} -> {change.new or 'nothing'}  {result['by']}"
        print(f"{result['verdict']:8} {result['seconds']:6.1f} s  {what}", flush=True)


if __name__ == "__main__":
    main()
