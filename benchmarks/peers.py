"""Other solvers of logistic regression, one in a process of its own; `time_to_optimum.py` starts it.

    python benchmarks/peers.py SOLVER ROWS.npz L2 LIMIT TARGET [TOLERANCE]

Without a tolerance it prints "ready", the loosest of a solver's tolerances that meets the target, and |g|; or why the
solver is left out; a solve of twice LIMIT seconds ends the process. With one it solves twice and prints the seconds of
each. |g| is computed here from the weights that the solver returns.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Solver = Callable[[float], np.ndarray]  # of the tolerance; returns the weights, shape (p,), or (C, p) for softmax
CORES = 2


class LeftOut(Exception):
    """Why a solver is not asked."""


def by_sklearn(X: Any, y: np.ndarray, l2: float, name: str) -> Solver:
    """Solver `name` of scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    def solve(tolerance: float) -> np.ndarray:
        model = LogisticRegression(C=1 / (len(y) * l2), fit_intercept=False, solver=name, tol=tolerance, max_iter=2000)
        w = model.fit(X, y).coef_
        return w if len(w) > 1 else w[0]

    return solve


def by_glum(X: Any, y: np.ndarray, l2: float) -> Solver:
    """glum, iteratively reweighted least squares."""
    from glum import GeneralizedLinearRegressor
    from scipy import sparse

    columns, positive = (sparse.csc_matrix(X) if sparse.issparse(X) else X), (y > 0).astype(float)

    def solve(tolerance: float) -> np.ndarray:
        model = GeneralizedLinearRegressor(
            family="binomial", l1_ratio=0, alpha=l2, fit_intercept=False, solver="irls-ls", gradient_tol=tolerance
        )
        return model.fit(columns, positive).coef_

    return solve


def by_snapml(X: Any, y: np.ndarray, l2: float) -> Solver:
    """Snap ML, dual coordinate ascent."""
    from snapml import LogisticRegression

    def solve(tolerance: float) -> np.ndarray:
        model = LogisticRegression(
            regularizer=len(y) * l2, fit_intercept=False, n_jobs=CORES, tol=tolerance, max_iter=3000, dual=True
        )
        return np.asarray(model.fit(X, y).coef_).ravel()

    return solve


def by_liblinear(X: Any, y: np.ndarray, l2: float, options: str = "") -> Solver:
    """LIBLINEAR, truncated Newton in the primal."""
    from liblinear.liblinear import parameter, problem
    from liblinear.liblinearutil import train

    rows = problem(y, X)

    def solve(tolerance: float) -> np.ndarray:
        model = train(rows, parameter(f"-s 0 -c {1 / (len(y) * l2)} -e {tolerance} -q {options}"))
        return np.array(model.get_decfun()[0])

    return solve


def by_dask(X: Any, y: np.ndarray, l2: float) -> Solver:
    """dask-glm, L-BFGS; rows in a block per core, dense, as it wants them."""
    from dask import array
    from dask_glm.algorithms import lbfgs
    from scipy import sparse

    if 8 * X.shape[0] * X.shape[1] > 2e9:
        raise LeftOut("wants dense rows: 2 GB and more of them are not made for it")
    chunk = -(-len(y) // CORES)
    rows = array.from_array(X.toarray() if sparse.issparse(X) else X, chunks=(chunk, -1))
    positive = array.from_array((y > 0).astype(float), chunks=chunk)

    def solve(tolerance: float) -> np.ndarray:
        return np.asarray(
            lbfgs(rows, positive, "l2", len(y) * l2, max_iter=2000, tol=len(y) * tolerance, normalize=False)
        )

    return solve


def by_vowpal_wabbit(X: Any, y: np.ndarray, l2: float) -> Solver:
    """Vowpal Wabbit, L-BFGS over the rows it has in its cache: reading that is part of each of its passes."""
    from scipy import sparse
    from vowpalwabbit import Workspace

    rows = sparse.csr_array(X)
    if rows.nnz > 1e7:
        raise LeftOut("no text file of more than 10 million entries is written for it")
    folder = tempfile.TemporaryDirectory()  # is there as long as `solve`, which names it
    file = Path(folder.name) / "rows"
    with file.open("w", encoding="utf-8") as lines:
        for label, start, end in zip(y, rows.indptr, rows.indptr[1:], strict=False):
            entries = zip(rows.indices[start:end], rows.data[start:end].tolist(), strict=True)
            lines.write(f"{label:g} | {' '.join(f'{j}:{x!r}' for j, x in entries)}\n")
    Workspace(f"-d {file} --cache_file {file}.cache --noconstant --loss_function logistic --quiet").finish()

    def solve(tolerance: float) -> np.ndarray:
        vw = Workspace(
            f"--cache_file {folder.name}/rows.cache --bfgs --passes 500 --termination {tolerance} --l2 {len(y) * l2} "
            "--noconstant --loss_function logistic --holdout_off --quiet"
        )
        w = np.array([vw.get_weight(j) for j in range(rows.shape[1])])
        vw.finish()
        return w

    return solve


def by_tao(X: Any, y: np.ndarray, l2: float, name: str) -> Solver:
    """Solver `name` of PETSc's TAO, on a rank per core; Hessian products by a shell matrix."""
    from petsc4py import PETSc
    from scipy import sparse
    from scipy.special import expit

    n, p = X.shape
    margins = PETSc.Vec().createMPI(n)
    mine = slice(*margins.getOwnershipRange())
    if sparse.issparse(X):
        part = X[mine]
        rows = PETSc.Mat().createAIJ((n, p), csr=(part.indptr, part.indices, part.data))
    else:
        rows = PETSc.Mat().createDense((n, p), array=np.asfortranarray(X[mine]))
    rows.assemble()
    labels, curvature, losses = y[mine], np.zeros(len(y[mine])), margins.duplicate()
    w = rows.createVecRight()

    def value_and_gradient(tao: Any, at: Any, g: Any) -> float:
        rows.mult(at, margins)
        m = labels * margins.array
        losses.array = np.logaddexp(0, -m)
        margins.array = -labels * expit(-m) / n
        rows.multTranspose(margins, g)
        g.axpy(l2, at)
        return losses.sum() / n + l2 / 2 * at.dot(at)

    class Hessian:
        def mult(self, matrix: Any, v: Any, out: Any) -> None:
            rows.mult(v, margins)
            margins.array = curvature * margins.array / n
            rows.multTranspose(margins, out)
            out.axpy(l2, v)

    def update(tao: Any, at: Any, H: Any, preconditioner: Any) -> None:
        rows.mult(at, margins)
        q = expit(margins.array)
        curvature[:] = q * (1 - q)

    H = PETSc.Mat().createPython((w.getSizes(), w.getSizes()), Hessian())
    H.setUp()

    def solve(tolerance: float) -> np.ndarray:
        tao = PETSc.TAO().create()
        tao.setType(name)
        tao.setObjectiveGradient(value_and_gradient, None)
        tao.setHessian(update, H)
        tao.setTolerances(gatol=tolerance, grtol=0, gttol=0)
        tao.setMaximumIterations(2000)
        w.set(0)
        tao.solve(w)
        scatter, whole = PETSc.Scatter.toAll(w)
        scatter.scatter(w, whole)
        return whole.array.copy()

    return solve


@dataclass(frozen=True)
class Peer:
    """The distribution a solver is part of, and what makes it of X, y, l2."""

    distribution: str
    make: Callable[[Any, np.ndarray, float], Solver]
    threads: int = CORES
    ranks: int = 1
    softmax: bool = False


PEERS = {
    "scikit-learn liblinear": Peer("scikit-learn", partial(by_sklearn, name="liblinear"), threads=1),
    "scikit-learn newton-cg": Peer("scikit-learn", partial(by_sklearn, name="newton-cg"), softmax=True),
    "scikit-learn newton-cholesky": Peer("scikit-learn", partial(by_sklearn, name="newton-cholesky"), softmax=True),
    "scikit-learn lbfgs": Peer("scikit-learn", partial(by_sklearn, name="lbfgs"), softmax=True),
    "LIBLINEAR": Peer("liblinear-official", by_liblinear, threads=1),
    "LIBLINEAR multicore": Peer("liblinear-multicore", partial(by_liblinear, options=f"-m {CORES}")),
    "glum irls-ls": Peer("glum", by_glum),
    "Snap ML": Peer("snapml", by_snapml),
    "PETSc TAO nls": Peer("petsc4py", partial(by_tao, name="nls"), threads=1, ranks=CORES),
    "PETSc TAO lmvm": Peer("petsc4py", partial(by_tao, name="lmvm"), threads=1, ranks=CORES),
    "dask-glm lbfgs": Peer("dask-glm", by_dask, threads=1),
    "Vowpal Wabbit bfgs": Peer("vowpalwabbit", by_vowpal_wabbit, threads=1),
}


def gradient_norm(X: Any, y: np.ndarray, w: np.ndarray, l2: float) -> float:
    """|g| at weights w, shape (p,), or (C, p) for softmax."""
    from scipy.special import expit, softmax

    if w.ndim == 1:
        return float(np.linalg.norm(X.T @ (-y * expit(-y * (X @ w))) / len(y) + l2 * w))
    r = softmax(X @ w.T, axis=1)
    r[np.arange(len(y)), np.unique(y, return_inverse=True)[1]] -= 1.0
    return float(np.linalg.norm(r.T @ X / len(y) + l2 * w))


def answer(name: str, file: str, l2: float, limit: float, target: float, tolerance: float | None = None) -> str:
    """What this process prints, as the module says."""
    from scipy import sparse

    with np.load(file) as a:
        y = a["y"]
        X: Any = (
            a["X"]
            if "X" in a
            else sparse.csr_matrix((a["data"], a["indices"].astype(np.int32), a["indptr"].astype(np.int32)), a["shape"])
        )
    if len(np.unique(y)) > 2 and not PEERS[name].softmax:
        return "has no softmax loss"
    try:
        solve = PEERS[name].make(X, y, l2)
        if tolerance is not None:
            start = time.perf_counter()
            solve(tolerance)
            first = time.perf_counter()
            solve(tolerance)
            return f"{first - start} {time.perf_counter() - first}"
        least, in_vain = np.inf, 0
        for exponent in np.arange(-4, -16, -0.5):
            start = time.perf_counter()
            signal.alarm(int(2 * limit))
            found = gradient_norm(X, y, solve(10.0**exponent), l2)
            in_vain = 0 if found < least else in_vain + 1
            least = min(least, found)
            if time.perf_counter() - start > limit:
                return f"not within {limit:g} s; its best is {least:.1e}"
            if found <= target:
                return f"ready {10.0**exponent} {found:.1e}"
            if in_vain == 10:  # five decades of the tolerance
                break
    except MemoryError as error:
        return f"out of memory: {error}"
    except LeftOut as why:
        return str(why)
    return f"never reached {target}; its best is {least:.1e}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        words = answer(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
    if os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0")) == "0":
        print(words)
