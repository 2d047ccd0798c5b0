"""What this code base has agreed to, as facts about its files, and for every rule a breach that it must find."""

from __future__ import annotations

import ast
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
from launch import launch_serial

ROOT = Path(__file__).parents[2]

# What np.random has besides the legacy functions with their one hidden state.
SEEDABLE = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "Philox"}
# Methods of a communicator that pickle; the upper-case ones take buffers.
PICKLING = "send isend ssend bsend recv irecv sendrecv bcast scatter gather allgather alltoall reduce allreduce"

Breach = tuple[int, str]  # line, what is there


def names(path: Path) -> Iterator[Breach]:
    """Every name in the code; strings and comments are no code."""
    with tokenize.open(path) as file:
        yield from ((t.start[0], t.string) for t in tokenize.generate_tokens(file.readline) if t.type == tokenize.NAME)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(tree(path.read_text(encoding="utf-8")))


@cache  # several rules read the same file
def tree(code: str) -> ast.Module:
    return ast.parse(code)


def calls(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    """Line, dotted name as "np.load", and node of every call."""
    return ((node.lineno, dotted(node.func), node) for node in nodes(path) if isinstance(node, ast.Call))


def dotted(node: ast.AST) -> str:
    """The name as "np.load"; "" of what is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def mpi_elsewhere(path: Path) -> Iterator[Breach]:
    return (found for found in names(path) if found[1] in ("mpi4py", "COMM_WORLD"))


def message_passing(path: Path) -> Iterator[Breach]:
    words = re.compile(r"(^|_)(ranks?|comm|communicators?|buffers?)(_|$)", re.IGNORECASE)
    return (found for found in names(path) if words.search(found[1]))


def foreign_code(path: Path) -> Iterator[Breach]:
    yield from (found for found in names(path) if found[1] in ("pickle", "cloudpickle", "dill", "marshal", "shelve"))
    for line, name, call in calls(path):
        if name in ("eval", "exec"):
            yield line, name
        for keyword in call.keywords:
            if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                yield line, ast.unparse(keyword)


def chance(path: Path) -> Iterator[Breach]:
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and dotted(node.value) in ("np.random", "numpy.random"):
            if node.attr not in SEEDABLE:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported = {alias.name for alias in node.names}
            if "random" in imported or (getattr(node, "module", None) == "numpy.random" and imported - SEEDABLE):
                yield node.lineno, ast.unparse(node)
    for line, name, call in calls(path):
        if name.endswith("default_rng") and ast.unparse(call).endswith(("default_rng()", "default_rng(None)")):
            yield line, ast.unparse(call)


def pickled_messages(path: Path) -> Iterator[Breach]:
    method = re.compile(rf"(^|[._])(comm|world|COMM_WORLD)\.({PICKLING.replace(' ', '|')})$")
    return ((line, name) for line, name, _ in calls(path) if method.search(name))


def long_file(path: Path) -> Iterator[Breach]:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > 400:
        yield lines, "the last line"


def long_function(path: Path) -> Iterator[Breach]:
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > 60:
                yield node.lineno, f"{node.name} has {lines} lines"


@dataclass(frozen=True)
class Rule:
    """`find` must find nothing in `where`, less `but`; and something in each of `breaches`, in the last line."""

    find: Callable[[Path], Iterator[Breach]]
    says: str
    where: tuple[str, ...]
    breaches: tuple[str, ...]
    allows: str
    but: tuple[str, ...] = ()

    def files(self) -> list[Path]:
        paths = sorted(path for folder in self.where for path in (ROOT / folder).rglob("*.py"))
        return [path for path in paths if not str(path.relative_to(ROOT)).startswith(self.but)]


OURS = ("mpinewton", "benchmarks", "scripts")
RULES = {
    rule.find.__name__: rule
    for rule in (
        Rule(
            mpi_elsewhere,
            "only mpinewton/fleet/ knows MPI",
            ("mpinewton",),
            ("import mpi4py", "from mpi4py import MPI", "def f(MPI):\n    return MPI.COMM_WORLD"),
            '"""mpi4py"""\nversion = "mpi4py"  # COMM_WORLD',
            but=("mpinewton/fleet/",),
        ),
        Rule(
            message_passing,
            "methods and losses speak of workers and arrays",
            ("mpinewton/methods", "mpinewton/losses"),
            ("rank = 0", "def f(fleet):\n    return fleet.comm", "send_buffer = 1"),
            '"""Rank 0."""\nfranked = common = buffered = 1  # a rank',
        ),
        Rule(
            foreign_code,
            "data must not be able to run as code",
            OURS,
            ("import pickle", "from dill import load", "x = 1\neval('x')", "np.load(f, allow_pickle=True)"),
            "# pickle\nnp.load(f, allow_pickle=False)\nmodel.eval()",
        ),
        Rule(
            chance,
            "random numbers come from default_rng(seed)",
            (*OURS, "tests"),
            (
                "import random",
                "from numpy.random import rand",
                "np.random.seed(0)",
                "default_rng()",
                "np.random.default_rng(None)",
            ),
            "rng: np.random.Generator = np.random.default_rng([seed, 1])",
            but=("mpinewton/losses/torch/chance.py", "tests/support/modules.py"),  # what users' modules draw from
        ),
        Rule(
            pickled_messages,
            "arrays cross by the upper-case calls, nothing crosses pickled",
            ("mpinewton/fleet", "tests/mpi"),
            ("comm.bcast(x)", "self._comm.recv()", "MPI.COMM_WORLD.allreduce(1)", "world.send(x, 1)"),
            "comm.Bcast(x)\nfleet.gather(task)\nself.fleet.send(task)",
        ),
        Rule(long_file, "at most 400 lines", ("mpinewton",), ("x = 1\n" * 401,), "x = 1\n" * 400),
        Rule(
            long_function,
            "at most 60 lines, docstrings aside",
            ("mpinewton",),
            ("def f():" + "\n    x = 1" * 60,),
            "def f():" + "\n    x = 1" * 59,
        ),
    )
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_tree_keeps(rule: Rule) -> None:
    files = rule.files()
    assert files
    breaches = [f"{path.relative_to(ROOT)}:{line}: {what}" for path in files for line, what in rule.find(path)]
    assert not breaches, "\n".join([rule.says, *breaches])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_breach_is_found_and_nothing_else(rule: Rule, tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    for code in rule.breaches:
        planted.write_text(code)
        assert list(rule.find(planted)), code
    planted.write_text(rule.allows)
    assert not list(rule.find(planted))


def test_importing_the_package_is_light() -> None:
    heavy = {"matplotlib", "sklearn", "click", "mpi4py", "scipy", "torch"}
    finished = launch_serial("import sys, mpinewton; print(*sys.modules)")
    assert finished.returncode == 0, str(finished)
    loaded = finished.stdout.split()
    assert "mpinewton" in loaded
    assert not heavy.intersection(loaded)


# -- the top of the repository ---------------------------------------------------------------------------------------

TOP = """
    .ci .github .gitattributes .gitignore .pre-commit-config.yaml CHANGES.md CITATION.cff CODE_OF_CONDUCT.md
    CONTRIBUTING.md LICENSE MANIFEST.in Makefile README.md benchmarks docs examples jobs mpinewton packaging
    pyproject.toml requirements*.txt scripts setup.cfg setup.py tests
"""


def at_the_top(root: Path) -> set[str]:
    """What git tracks there; in a copy without git, what `.gitignore` does not name."""
    if (root / ".git").exists():
        listed = subprocess.run(["git", "-C", root, "ls-files"], capture_output=True, text=True)
        if listed.returncode == 0:
            return {name.partition("/")[0] for name in listed.stdout.splitlines()}
    ignored = [line.strip("/") for line in (root / ".gitignore").read_text().split()]
    return {
        path.name for path in root.iterdir() if not any(fnmatch(path.name, pattern) for pattern in [".git", *ignored])
    }


def strays(root: Path) -> list[str]:
    return sorted(name for name in at_the_top(root) if not any(fnmatch(name, allowed) for allowed in TOP.split()))


def test_nothing_stands_at_the_top_that_does_not_belong_there() -> None:
    assert not strays(ROOT)


@pytest.mark.parametrize("git", [True, False])
def test_strays_are_found_with_git_and_without(git: bool, tmp_path: Path) -> None:
    for name in ("README.md", "requirements-ci.txt", "lic0.txt", "L/result.json", "build/x", ".venv-openmpi/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    if git:
        for command in (["init", "-q"], ["add", "."]):
            subprocess.run(["git", "-C", tmp_path, *command], check=True)
    (tmp_path / "untracked").touch()
    assert strays(tmp_path) == (["L", "lic0.txt"] if git else ["L", "lic0.txt", "untracked"])
