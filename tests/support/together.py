"""Programs that ranks run together, all in one job: `mpiexec -n 3 python together.py FOLDER`.

Each prints into FOLDER/<program>-<rank>. A rank on which one fails writes its traceback there and ends the job.
"""

from __future__ import annotations

import contextlib
import runpy
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import mpinewton as mn
from mpinewton.arrays import Array
from mpinewton.errors import ConfigError, MpinewtonError, WorkerError

EXAMPLES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "examples").glob("*.py"))}


def squares(n: int) -> list[tuple[Array, Array]]:
    """A and b of n least-squares problems."""
    rng = np.random.default_rng(5)
    return [(rng.standard_normal((10, 5)), rng.standard_normal(10)) for _ in range(n)]


def sum_of_functions(comm: Any) -> None:
    """Quadratics with a Hessian, the chained Rosenbrock function over the ranks, and a function on one rank alone."""
    everything = squares(comm.size)
    A, b = everything[comm.rank]
    truth = np.linalg.lstsq(np.vstack([A for A, _ in everything]), np.concatenate([b for _, b in everything]))[0]

    def value(x: Array) -> float:
        return float(0.5 * np.sum((A @ x - b) ** 2))

    def gradient(x: Array) -> Array:
        return np.asarray(A.T @ (A @ x - b))

    def fun(x: Array) -> tuple[float, Array]:
        return value(x), gradient(x)

    for method, reduce in (("lbfgs", "sum"), ("newton", "sum"), ("newton-cg", "mean")):
        given = {"method": method, "reduce": reduce, "comm": comm, "tol": 1e-9}
        found = mn.minimize_function(value, np.zeros(5), jac=gradient, hess=lambda x: A.T @ A, **given)
        assert found.success and abs(found.x - truth).max() < 1e-8, found
    assert found.ledger.rounds == len([e for e in found.ledger.entries() if e.round]) == found.history[-1].rounds
    total = 0.5 * sum(np.sum((A @ truth - b) ** 2) for A, b in everything)
    assert abs(mn.minimize_function(fun, np.zeros(5), jac=True, comm=comm).fun - total) < 1e-10

    terms = np.arange(comm.rank, 5, comm.size)  # of the chained Rosenbrock function in 6 variables

    def chained(x: Array) -> tuple[float, Array]:
        g, bend = np.zeros(6), x[terms + 1] - x[terms] ** 2
        np.add.at(g, terms, -400 * x[terms] * bend - 2 * (1 - x[terms]))
        np.add.at(g, terms + 1, 200 * bend)
        return float(np.sum(100 * bend**2 + (1 - x[terms]) ** 2)), g

    found = mn.minimize_function(chained, np.zeros(6), jac=True, comm=comm, tol=1e-9)
    assert found.success and abs(found.x - 1).max() < 1e-8, found

    last = fun if comm.rank == comm.size - 1 else None
    found = mn.minimize_function(last, np.zeros(5), jac=True, comm=comm, tol=1e-9)
    assert abs(found.x - np.linalg.lstsq(*everything[-1])[0]).max() < 1e-8
    print(found.x.tobytes().hex())


def torch_function(comm: Any) -> None:
    """The sum of log cosh (A x - b), by PyTorch on the last rank and by numpy on the others."""
    from scipy.optimize import minimize

    everything, mine = squares(comm.size), comm.rank

    def fun(x: Array, numbers: Iterable[int] = (mine,)) -> tuple[float, Array]:
        residuals = [(A, A @ x - b) for A, b in (everything[number] for number in numbers)]
        values, gradients = zip(*[(np.log(np.cosh(r)).sum(), A.T @ np.tanh(r)) for A, r in residuals])
        return float(sum(values)), np.sum(gradients, axis=0)

    def torch_fun(x: Array) -> tuple[float, Array]:
        import torch

        t = torch.tensor(x, requires_grad=True)
        A, b = map(torch.tensor, everything[mine])
        f = torch.log(torch.cosh(A @ t - b)).sum()
        f.backward()  # type: ignore[no-untyped-call]
        assert t.grad is not None
        return f.item(), t.grad.numpy()

    last = torch_fun if mine == comm.size - 1 else fun
    found = mn.minimize_function(last, np.zeros(5), jac=True, comm=comm, tol=1e-9)
    everyone = (range(comm.size),)
    truth = minimize(fun, np.zeros(5), args=everyone, jac=True, method="BFGS", options={"gtol": 1e-10})
    assert found.success and abs(found.x - truth.x).max() < 1e-8, (found, truth)
    print(found.x.tobytes().hex())


def rows(n: int) -> list[tuple[Array, np.ndarray]]:
    """Rows and labels, in n parts."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((40, 4))
    y = np.where(X[:, 0] + 0.3 * rng.standard_normal(40) > 0, "yes", "no")
    return [(X[part], y[part]) for part in (slice(i * 40 // n, (i + 1) * 40 // n) for i in range(n))]


def told(result: Any) -> str:
    """Bits of the model, the history and the ledger."""
    history = [(row.iteration, row.rounds, row.bits_up, row.loss, row.grad_norm, row.step) for row in result.history]
    return f"{result.x.tobytes().hex()} {history} {result.ledger.totals()['bits_down']}"


def rows_of_ranks(comm: Any) -> None:
    """Each rank brings its rows."""
    mine = rows(comm.size)[comm.rank]
    print(told(mn.minimize("dino", mine, loss="logistic", intercept=True, comm=comm)))


def errors(comm: Any) -> None:
    """What goes wrong on one rank is an error on all, and the communicator stays usable."""
    rank, size, one = comm.rank, comm.size, comm.size - 1
    everything = squares(size)
    X, y = np.vstack([A for A, _ in everything]), np.arange(10 * size) % 2
    X, y = X[rank::size], y[rank * 10 : rank * 10 + 10]
    A, b = everything[rank]
    calls = tried = 0

    def refused(kind: type[Exception], words: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        nonlocal tried
        try:
            call(*arguments, **options, comm=comm)
        except kind as error:
            assert words in str(error), error
        else:
            raise AssertionError(words)
        assert comm.allreduce(1) == size  # nobody's message is left over
        tried += 1

    def fun(x: Array) -> tuple[float, Array]:
        return float(0.5 * np.sum((A @ x - b) ** 2)), A.T @ (A @ x - b)

    def breaks(x: Array) -> tuple[float, Array]:
        nonlocal calls
        calls += 1
        if rank == one and calls == 3:
            raise ValueError("planted")
        return fun(x)

    def leaves(x: Array) -> tuple[float, Array]:
        if rank == 0:
            sys.exit(7)
        return fun(x)

    def callback(row: Any, w: Array) -> None:
        raise RuntimeError("planted in the callback")

    zero, known = np.zeros(5), {"jac": True}
    refused(WorkerError, "ValueError: planted", mn.minimize_function, breaks, zero, **known)
    refused(WorkerError, "SystemExit: 7", mn.minimize_function, leaves, zero, **known)
    raised = MpinewtonError if rank else RuntimeError
    refused(raised, "planted in the callback", mn.minimize_function, fun, zero, **known, callback=callback)
    refused(ConfigError, "x0 differs between ranks", mn.minimize_function, fun, np.full(5, float(rank == one)), **known)
    hess = (lambda x: x) if rank == one else None
    refused(ConfigError, "hessp and hess", mn.minimize_function, fun, zero, **known, hess=hess)
    kind = {"loss": "logistic"}
    other = {"loss": "softmax"} if rank == one else kind
    refused(ConfigError, "loss differs", mn.minimize, "lbfgs", (X, y), **other)
    refused(ConfigError, "method differs", mn.minimize, "lbfgs" if rank == one else "bfgs", (X, y), **kind)
    by_rows, by_function = ((mn.minimize, "lbfgs", (X, y)), kind), ((mn.minimize_function, fun, zero), known)
    call, options = by_rows if rank == one else by_function
    refused(ConfigError, "call differs", *call, **options)
    refused(ConfigError, "tol = 'x'", mn.minimize, "lbfgs", (X, y), **kind, tol="x" if rank == one else 1e-3)
    refused(ConfigError, "X has", mn.minimize, "lbfgs", (X[:, : 5 - (rank == one)], y), **kind)
    refused(ConfigError, "y: expected shape", mn.minimize, "lbfgs", (X, y[: 10 - (rank == one)]), **kind)
    refused(ConfigError, "no rank brings rows", mn.minimize, "lbfgs", None, **kind)
    refused(MpinewtonError, "found 3", mn.minimize, "lbfgs", (X, y + 2 * (rank == one) * (y == 1)), **kind)
    found = mn.minimize("lbfgs", (X, y) if rank == one else None, **kind, comm=comm)
    assert found.success and found.classes.tolist() == [0, 1]
    print(tried, found.x.tobytes().hex())


def programs(ranks: int) -> dict[str, Callable[[Any], object]]:
    """What so many ranks run, in this order."""
    found: dict[str, Callable[[Any], object]] = {
        name: lambda comm, path=path: runpy.run_path(str(path), run_name="__main__") for name, path in EXAMPLES.items()
    }
    found |= {"sum_of_functions": sum_of_functions, "rows_of_ranks": rows_of_ranks}
    if ranks > 1:
        found["errors"] = errors
        if find_spec("torch"):
            found["torch_function"] = torch_function
    return found


def main(folder: Path) -> None:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    for name, program in programs(comm.size).items():
        with (folder / f"{name}-{comm.rank}").open("w") as file:
            try:
                with contextlib.redirect_stdout(file):
                    program(comm)
                file.write("done\n")
            except BaseException:
                traceback.print_exc(file=file)
                file.flush()
                comm.Abort(1)
                raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
