"""What every rank brings, rows or a function, against one process and against scipy; and the examples."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from launch import launch, launch_serial

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow

START = """
import hashlib, sys
import numpy as np
import mpinewton as mn
from mpi4py import MPI
comm = MPI.COMM_WORLD
rank, size = comm.rank, comm.size
def squares(n):
    rng = np.random.default_rng(5)
    return [(rng.standard_normal((10, 5)), rng.standard_normal(10)) for _ in range(n)]
def fun(x):
    A, b = squares(size)[rank]
    return 0.5 * np.sum((A @ x - b) ** 2), A.T @ (A @ x - b)
"""

FUNCTIONS = (
    START
    + """
from scipy.optimize import rosen, rosen_der
everything = squares(size)
truth = np.linalg.lstsq(np.vstack([A for A, _ in everything]), np.concatenate([b for _, b in everything]))[0]
A, b = everything[rank]
given = {"jac": lambda x: A.T @ (A @ x - b), "hess": lambda x: A.T @ A}
value = lambda x: 0.5 * np.sum((A @ x - b) ** 2)
for method, reduce in (("lbfgs", "sum"), ("newton", "sum"), ("newton-cg", "mean")):
    found = mn.minimize_function(value, np.zeros(5), method=method, reduce=reduce, comm=comm, tol=1e-9, **given)
    assert found.success and abs(found.x - truth).max() < 1e-8, found
total = 0.5 * sum(np.sum((A @ truth - b) ** 2) for A, b in everything)
assert abs(mn.minimize_function(fun, np.zeros(5), jac=True, comm=comm).fun - total) < 1e-10
assert found.ledger.rounds == len([e for e in found.ledger.entries() if e.round]) == found.history[-1].rounds

terms = np.arange(rank, 5, size)  # of the chained Rosenbrock function in 6 variables
def chained(x):
    g, bend = np.zeros(6), x[terms + 1] - x[terms] ** 2
    np.add.at(g, terms, -400 * x[terms] * bend - 2 * (1 - x[terms]))
    np.add.at(g, terms + 1, 200 * bend)
    return np.sum(100 * bend**2 + (1 - x[terms]) ** 2), g
found = mn.minimize_function(chained, np.zeros(6), jac=True, comm=comm, tol=1e-9)
assert found.success and abs(found.x - 1).max() < 1e-8, found

found = mn.minimize_function(fun if rank == size - 1 else None, np.zeros(5), jac=True, comm=comm, tol=1e-9)
assert abs(found.x - np.linalg.lstsq(*everything[-1])[0]).max() < 1e-8
print("good", hashlib.sha256(found.x.tobytes()).hexdigest())
"""
)

TORCH = (
    START
    + """
import torch
from scipy.optimize import minimize
torch.set_default_dtype(torch.float64)
def loss(x, number):
    A, b = squares(size)[number]
    return torch.log(torch.cosh(torch.tensor(A) @ x - torch.tensor(b))).sum()
def torch_fun(x, numbers=(rank,)):
    t = torch.tensor(x, requires_grad=True)
    f = sum(loss(t, number) for number in numbers)
    f.backward()
    return f.item(), t.grad.numpy()
found = mn.minimize_function(torch_fun, np.zeros(5), jac=True, comm=comm, tol=1e-9)
truth = minimize(torch_fun, np.zeros(5), args=(range(size),), jac=True, method="BFGS", options={"gtol": 1e-10})
assert found.success and abs(found.x - truth.x).max() < 1e-8, (found, truth)
print("good")
"""
)

ROWS = """
import hashlib, sys
import numpy as np
import mpinewton as mn
from mpinewton.data.shard import Shard
rng = np.random.default_rng(3)
X = rng.standard_normal((40, 4))
y = np.where(X[:, 0] + 0.3 * rng.standard_normal(40) > 0, "yes", "no")
def part(i, n):
    return slice(i * 40 // n, (i + 1) * 40 // n)
def told(result):
    rows = [(row.iteration, row.rounds, row.bits_up, row.loss, row.grad_norm, row.step) for row in result.history]
    print(hashlib.sha256(result.x.tobytes() + repr(rows).encode()).hexdigest(), result.ledger.totals()["bits_down"])
"""

BY_RANK = (
    ROWS
    + """
from mpi4py import MPI
comm = MPI.COMM_WORLD
mine = part(comm.rank, comm.size)
told(mn.minimize("dino", (X[mine], y[mine]), loss="logistic", intercept=True, comm=comm))
"""
)

IN_ONE_PROCESS = (
    ROWS
    + """
n = int(sys.argv[1])
shards = [Shard(X[part(i, n)], (y[part(i, n)] == "yes") * 1.0) for i in range(n)]
told(mn.minimize("dino", shards, loss="logistic", intercept=True))
"""
)

ERRORS = (
    START
    + """
from mpinewton.errors import ConfigError, MpinewtonError, WorkerError
X, y = np.vstack([A for A, _ in squares(size)]), np.arange(10 * size) % 2
X, y = X[rank::size], y[rank * 10 : rank * 10 + 10]
def refused(kind, words, call, *arguments, **options):
    try:
        call(*arguments, **options, comm=comm)
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
    assert comm.allreduce(1) == size  # nobody's message is left over
calls = 0
def breaks(x):
    global calls
    calls += 1
    if rank == size - 1 and calls == 3:
        raise ValueError("planted")
    return fun(x)
def leaves(x):
    sys.exit(7) if rank == 0 else None
    return fun(x)
def callback(row, w):
    raise RuntimeError("planted in the callback")
one = size - 1
refused(WorkerError, "ValueError: planted", mn.minimize_function, breaks, np.zeros(5), jac=True)
refused(WorkerError, "SystemExit: 7", mn.minimize_function, leaves, np.zeros(5), jac=True)
refused(MpinewtonError if rank else RuntimeError, "planted in the callback", mn.minimize_function, fun, np.zeros(5),
        jac=True, callback=callback)
refused(ConfigError, "x0 differs between ranks", mn.minimize_function, fun, np.full(5, float(rank == one)), jac=True)
refused(ConfigError, "hessp and hess", mn.minimize_function, fun, np.zeros(5), jac=True,
        hess=(lambda x: x) if rank == one else None)
refused(ConfigError, "loss differs", mn.minimize, "lbfgs", (X, y), loss="softmax" if rank == one else "logistic")
refused(ConfigError, "method differs", mn.minimize, "lbfgs" if rank == one else "bfgs", (X, y), loss="logistic")
rows, function = (mn.minimize, "lbfgs", (X, y)), (mn.minimize_function, fun, np.zeros(5))
refused(ConfigError, "call differs", *(rows if rank == one else function),
        **({"loss": "logistic"} if rank == one else {"jac": True}))
refused(ConfigError, "tol = 'x'", mn.minimize, "lbfgs", (X, y), loss="logistic", tol="x" if rank == one else 1e-3)
refused(ConfigError, "X has", mn.minimize, "lbfgs", (X[:, : 5 - (rank == one)], y), loss="logistic")
refused(ConfigError, "y: expected shape", mn.minimize, "lbfgs", (X, y[: 10 - (rank == one)]), loss="logistic")
refused(ConfigError, "no rank brings rows", mn.minimize, "lbfgs", None, loss="logistic")
refused(MpinewtonError, "found 3", mn.minimize, "lbfgs", (X, y + 2 * (rank == one) * (y == 1)), loss="logistic")
found = mn.minimize("lbfgs", (X, y) if rank == one else None, loss="logistic", comm=comm)
assert found.success and found.classes.tolist() == [0, 1]
print("good")
"""
)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_sum_of_functions_has_the_minimiser_of_the_summed_function(ranks: int) -> None:
    finished = launch(ranks, ["-W", "error", "-c", FUNCTIONS])
    assert finished.returncode == 0, str(finished)
    digests = re.findall("[0-9a-f]{64}", finished.stdout)  # lines of several ranks may be mixed
    assert len(digests) == finished.stdout.count("good") == ranks and len(set(digests)) == 1


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
def test_functions_of_torch() -> None:
    finished = launch(3, TORCH, timeout=120)
    assert finished.returncode == 0 and finished.stdout.count("good") == 3, str(finished)


@pytest.mark.parametrize("ranks", [1, 3])
def test_rows_of_ranks_have_the_bits_of_the_same_shards_in_one_process(ranks: int, tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(IN_ONE_PROCESS)
    alone = launch_serial([tmp_path / "alone.py", str(ranks)])
    together = launch(ranks, BY_RANK)
    assert alone.returncode == together.returncode == 0, f"{alone}\n{together}"
    assert set(re.findall(r"[0-9a-f]{64} \d+", together.stdout)) == {alone.stdout.strip()}


def test_what_goes_wrong_on_one_rank_is_an_error_on_all_and_the_communicator_stays_usable() -> None:
    finished = launch(3, ERRORS)
    assert finished.returncode == 0 and finished.stdout.count("good") == 3, str(finished)


SAYS = {
    "own_method": r"barzilai-borwein: \d+ iterations, estimated gap \S+ is at most",
    "own_loss": r"newton: \d+ iterations, objective 1\.2247094694",
    "own_objective": r"largest error \d\.\de-1\d",
    "rank_local_rows": r"\d+ rounds, \d+ bits up",
}


@pytest.mark.parametrize("name", SAYS)
def test_examples_run_alone_and_under_mpiexec(name: str) -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)
    for finished in (launch_serial([EXAMPLES / f"{name}.py"]), launch(3, [EXAMPLES / f"{name}.py"])):
        assert finished.returncode == 0 and re.search(SAYS[name], finished.stdout), str(finished)


def test_the_page_quotes_the_examples() -> None:
    page = (EXAMPLES.parent / "docs" / "extending.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        code = path.read_text().split('"""', 2)[2].split("\n\n\nif __name__")[0].strip()
        assert f"```python\n{code}\n```" in page, path.name
    assert f"```toml\n{(EXAMPLES / 'own_method.toml').read_text()}```" in page
