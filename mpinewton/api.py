"""mpinewton from Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import OptimizeResult
from threadpoolctl import threadpool_limits

from mpinewton.arrays import Array
from mpinewton.data.manifest import read_manifest
from mpinewton.data.partition import partition
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.fleet import Fleet, Plan
from mpinewton.fleet.local import local_fleet
from mpinewton.fleet.transport.session import join
from mpinewton.launcher import threads_per_rank
from mpinewton.losses import Loss, make_loss
from mpinewton.methods import Method
from mpinewton.methods.registry import make_method
from mpinewton.methods.support.method import AnyMethod, State
from mpinewton.runs.history import Row
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import GradientBelow, Iterations

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

Data = str | Path | Sequence[Shard] | tuple[Any, ArrayLike]


def minimize(
    method: str | AnyMethod,
    data: Data,
    *,
    loss: str,
    l2: float | None = None,
    intercept: bool = False,
    w0: ArrayLike | None = None,
    tol: float = 1e-8,
    max_iterations: int = 1000,
    workers: int = 1,
    seed: int = 0,
    callback: Callable[[Row, Array], None] | None = None,
) -> OptimizeResult | None:
    """Minimise P(w) = (1/N) sum_j loss_j(w) + (l2/2)|w|^2.

    Parameters
    ----------
    method : str or Method
        A name ("dino"), or a method object with its settings (`Dino(solver="lanczos")`), your own included.
    data : path, list of Shard, or (X, y)
        A folder that `mpinewton pack` wrote; or the shards themselves; or X, shape (n, p), dense or sparse, and labels
        y, shape (n,), which are permuted and dealt out to `workers` logical workers as `pack` does.
    loss : str
        "logistic", "softmax", "huber:delta=1.5", ...
    l2 : float, default 1/N
    w0 : array, shape (d,), default what the loss proposes: 0 for linear models
    tol : float
        Gradient norm to stop at.
    callback : function of (row of the history, w), called for every iterate

    Returns
    -------
    OptimizeResult
        x, fun, jac, nit, success, status (0 converged, 1 budget used up, 2 fail, 3 comes no closer), message; history
        (list of Row) and ledger. Under mpiexec: on every rank, with a folder; the result is on rank 0, else None.

    Raises
    ------
    ConfigError, DataError
        If something does not fit, before anything is started.
    WorkerError
        If a task fails on a worker.
    """
    made = method if isinstance(method, Method) else make_method(method, {})
    if l2 is not None and not (isinstance(l2, int | float) and 0 <= l2 < np.inf):
        raise ConfigError(f"l2 = {l2!r}, but it must be a number, 0 or more")
    results: list[OptimizeResult] = []

    def drive(session: Session) -> int:
        fleet = _opened(session, data, loss, l2, intercept, workers, seed)
        made.validate(fleet.problem)
        results.append(_result(made, fleet, w0, tol, max_iterations, callback))
        return 0

    with threadpool_limits(threads_per_rank()):  # numpy is loaded already: too late for the environment
        code = join(drive)
    if code:
        raise SystemExit(code)  # on a rank that served: the driver tells what went wrong
    return results[0] if results else None


def _result(
    method: AnyMethod,
    fleet: Fleet,
    w0: ArrayLike | None,
    tol: float,
    max_iterations: int,
    callback: Callable[[Row, Array], None] | None,
) -> OptimizeResult:
    fleet.adopt(method)
    w = fleet.problem.initial_weights() if w0 is None else np.array(w0, dtype=np.float64).ravel()
    if w.shape != (fleet.dim,):
        raise ConfigError(f"w0 has {w.size} numbers, but this objective has {fleet.dim} weights")
    history: list[Row] = []

    def watch(row: Row, state: State) -> None:
        history.append(row)
        if callback is not None:
            callback(row, state.w.copy())

    stops = [GradientBelow(tol), Iterations(max_iterations)]
    ended = run(method, fleet, w, stops, watchers=[watch])
    return OptimizeResult(
        x=ended.state.w, fun=ended.row.loss, jac=ended.state.gradient, nit=ended.row.iteration,
        success=ended.converged, status={"converged": 0, "budget": 1, "stalled": 3}.get(ended.kind, 2),
        message=ended.reason,
        history=history, ledger=fleet.ledger,
    )  # fmt: skip


def _opened(
    session: Session, data: Data, loss: str, l2: float | None, intercept: bool, workers: int, seed: int
) -> Fleet:
    if isinstance(data, str | Path):
        manifest = read_manifest(Path(data))
        ridge = 1.0 / max(1, manifest.rows) if l2 is None else l2
        return session.open(Plan(str(Path(data).resolve()), manifest, loss, ridge, seed, intercept))
    if session.ranks > 1:
        raise ConfigError("under mpiexec every rank reads its own shards: give the folder of packed data, not arrays")
    shards, classes = _shards(data, make_loss(loss), workers, seed)
    rows = sum(shard.rows for shard in shards)
    return local_fleet(shards, make_loss(loss), classes, 1.0 / max(1, rows) if l2 is None else l2, intercept, seed)


def _shards(data: Any, loss: Loss, workers: int, seed: int) -> tuple[list[Shard], tuple[float, ...] | None]:
    """The shards of arrays, and the classes of their labels where the loss tells classes apart."""
    if isinstance(data, tuple):
        X, y = data
        X = sparse.csr_array(X, dtype=np.float64) if sparse.issparse(X) else np.asarray(X, dtype=np.float64)
        y = np.asarray(y, dtype=np.float64)
        if X.ndim != 2 or y.shape != X.shape[:1]:
            raise ConfigError(f"X must be (n, p) and y (n,), but they are {X.shape} and {y.shape}")
        shards = [Shard(X[rows], y[rows]) for rows in partition(y, workers, "iid", seed)]
    else:
        shards = list(data)
    labels = np.unique(np.concatenate([shard.y for shard in shards])) if shards else np.zeros(0)
    classes = tuple(float(label) for label in labels) if loss.classifies else None
    return shards, classes
