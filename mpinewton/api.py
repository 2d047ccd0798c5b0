"""`minimize` and `minimize_function`: mpinewton from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult
from threadpoolctl import threadpool_limits

from mpinewton.arrays import NAN, Array
from mpinewton.data.in_memory import class_values
from mpinewton.data.manifest import read_manifest
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.extensions import Reference
from mpinewton.fleet import Entry, Fleet, Ledger, Plan
from mpinewton.fleet.host import Host
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.fleet.transport.session import join
from mpinewton.inputs import Objective, RankFunction, RankRows, as_point, make_shards
from mpinewton.launcher import promised_ranks, threads_per_rank
from mpinewton.losses import Loss, make_loss
from mpinewton.methods.support.method import Algorithm, State
from mpinewton.runs.columns import change_columns
from mpinewton.runs.ends import gap_bound
from mpinewton.runs.evaluation import find_optimum, proposed_weights
from mpinewton.runs.history import Row
from mpinewton.runs.loop import Evaluation, run
from mpinewton.runs.memory import place_rows
from mpinewton.runs.options import Callback, Options, flag, number, plain_number, whole_number
from mpinewton.runs.stopping import make_stops

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

Data = str | Path | Sequence[Shard] | tuple[Any, ...]
STATUS = {
    "converged": 0, "budget": 1, "trouble": 2, "stalled": 3, "interrupted": 4, "precision": 5, "unbounded": 6,
    "diverged": 7,
}  # fmt: skip
STOPPED = "the callback asked to stop"


def minimize(
    method: str | Algorithm,
    data: Data,
    *,
    loss: str | Loss,
    settings: Mapping[str, Any] | None = None,
    l2: float | None = None,
    intercept: bool = False,
    w0: ArrayLike | None = None,
    workers: int = 1,
    seed: int = 0,
    tol: float | None = None,
    rtol: float | None = None,
    ftol: float | None = None,
    gap: float | None = None,
    reference: float | Literal["auto"] | None = None,
    max_iterations: int | None = None,
    max_rounds: int | None = None,
    max_bits: float | None = None,
    max_seconds: float | None = None,
    measure_every: int | None = None,
    memory: str | None = None,
    callback: Callback | None = None,
    comm: Any = None,
) -> Any:
    """Minimise P(w) = (1/N) sum_j loss_j(w) + (l2/2)|w|^2.

    Parameters
    ----------
    method : str, Method or Rule
        A name ("dino", "mine.py:MyMethod"), or a method with its settings (`Dino(solver="lanczos")`, one of your own).
    data : path, (X, y), (X, y, sample_weight), or list of Shard
        A folder that `mpinewton pack` wrote; or X, shape (n, p), an array, a scipy sparse matrix of any format or a
        data frame, with labels y, shape (n,), of any kind, and weights, shape (n,); or the shards themselves.
        X and y are permuted and dealt out to `workers` logical workers, as `pack` does. With `comm`, they are the rows
        of this rank; a rank without rows passes None.
    loss : str or Loss
        "logistic", "softmax", "huber:delta=1.5", "mine.py:MyLoss:margin=2", or a loss object.
    settings : dict, optional
        Settings of a method that is given by name.
    l2 : float, default 1/N
    intercept : bool
        Whether a feature that is always 1 is added; it is not regularised.
    w0 : array, shape (d,), optional
        First weights; by default what the loss proposes: 0 for linear models, and for the intercept of a regression a
        location estimate of the labels.
    workers : int
        Logical workers, where (X, y) is dealt out.
    seed : int
    tol, rtol : float, optional
        Gradient norm to stop at, and the same relative to the first one.
    ftol : float, optional
        Estimated gap to the optimal value to stop at, relative to the decrease so far; it does not depend on the units
        of features and labels. Without any goal, ftol = 1e-14.
    gap, reference : float, optional
        Gap to the optimal value to stop at, and that value; "auto" computes it first.
    max_iterations, max_rounds : int, optional
    max_bits, max_seconds : float, optional
        Budgets. Without any, max_iterations = 1000.
    measure_every : int, optional
        Loss and gradient that the method does not know are measured at every so many iterations, and at the end; they
        are NaN in the other rows of the history. By default at every iteration, for minibatches once in an epoch.
    memory : str, optional
        Memory limit of a rank, such as "500M" or "2G", where `data` is a folder: rows that do not fit are read from
        disk in every pass.
    callback : function of (Row, w), optional
        Called after every iteration, on rank 0; the run stops where it returns True or raises StopIteration.
    comm : mpi4py.MPI.Intracomm, optional
        Every rank calls `minimize` with the same arguments and rows of its own. Worker i is the i-th rank with rows.

    Returns
    -------
    OptimizeResult
        x, fun, jac (of the measured iterate of least objective, at the end the last one of those equal to rounding),
        nit, method (the name of the one that ran, where `auto` chose it), success (kinds "converged" and "precision"),
        kind (see docs/ends.md), status (0 converged, 1 budget used
        up, 2 failed, 3 the method makes no further progress, 4 stopped by the callback, 5 no further progress possible
        in float64, 6 no finite minimiser, 7 diverged), message; gap_bound (|jac|^2 / (2 l2), where l2 > 0 applies to
        all weights of a convex objective, else NaN); history (list of Row), ledger (Ledger), and classes (the labels,
        in the order of the loss; None for numbers). With `comm`, on every rank. Under mpiexec with a folder, on rank 0;
        None elsewhere.

    Raises
    ------
    ConfigError, DataError
        If something does not fit, before anything is started.
    WorkerError
        If a task fails on a worker. With `comm`, every rank raises it, and the communicator stays usable.
    """

    def prepare() -> RankRows:
        options = Options.of(
            method, settings, w0, seed, callback, measure_every, reference,
            tol=tol, rtol=rtol, ftol=ftol, gap=gap, max_iterations=max_iterations, max_rounds=max_rounds,
            max_bits=max_bits, max_seconds=max_seconds,
        )  # fmt: skip
        if memory is not None and (comm is not None or not isinstance(data, str | Path)):
            raise ConfigError("memory: expected a packed folder as data; rows that are given are in memory already")
        about = Objective(make_loss(loss), number("l2", l2), flag("intercept", intercept), options.seed)
        return RankRows(about, options, data)

    with threadpool_limits(threads_per_rank()):  # numpy is loaded already: too late for the environment
        if comm is not None:
            return _together(comm, prepare)
        if isinstance(data, str | Path):
            return _in_folder(prepare(), Path(data), memory)
        return _in_memory(prepare(), whole_number("workers", workers, 1))


def minimize_function(
    fun: Callable[[Array], Any] | None,
    x0: ArrayLike,
    *,
    method: str | Algorithm = "lbfgs",
    jac: Callable[[Array], Any] | bool | None = None,
    hessp: Callable[[Array, Array], Any] | None = None,
    hess: Callable[[Array], Any] | None = None,
    reduce: Literal["sum", "mean"] = "sum",
    convex: bool = False,
    comm: Any = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    tol: float | None = None,
    rtol: float | None = None,
    ftol: float | None = None,
    gap: float | None = None,
    reference: float | None = None,
    max_iterations: int | None = None,
    max_rounds: int | None = None,
    max_bits: float | None = None,
    max_seconds: float | None = None,
    measure_every: int | None = None,
    callback: Callback | None = None,
) -> Any:
    """Minimise a sum of functions, one per rank: `scipy.optimize.minimize`, distributed.

    Parameters
    ----------
    fun : function of x
        The function of this rank, or (value, gradient) where `jac` is True. None on a rank that has no function.
    x0 : array, shape (d,)
        Where to start, the same on every rank.
    method : str, Method or Rule
        Any method whose needs are met: a gradient suffices for "lbfgs", "newton-cg" needs `hessp` or `hess`, "newton"
        needs `hess`.
    jac : True, or function of x
        Gradient of `fun`, shape (d,).
    hessp : function of (x, v), optional
        Hessian of `fun` times v, shape (d,).
    hess : function of x, optional
        Hessian of `fun`, shape (d, d).
    reduce : "sum" or "mean"
        Of the functions of all ranks.
    convex : bool
        Whether every function is convex, which some methods need.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that have a function each; without it, `fun` alone is minimised, in this process.
    settings, seed, tol, rtol, ftol, gap, max_iterations, max_rounds, max_bits, max_seconds, measure_every, callback
        As for `minimize`.
    reference : float, optional
        The optimal value.

    Returns
    -------
    OptimizeResult
        As of `minimize`, on every rank.

    Raises
    ------
    ConfigError
        If something does not fit, before anything is evaluated.
    WorkerError
        If a function raises: on every rank, and the communicator stays usable.
    """

    def prepare() -> RankFunction:
        options = Options.of(
            method, settings, None, seed, callback, measure_every, reference,
            tol=tol, rtol=rtol, ftol=ftol, gap=gap, max_iterations=max_iterations, max_rounds=max_rounds,
            max_bits=max_bits, max_seconds=max_seconds,
        )  # fmt: skip
        return RankFunction(fun, as_point(x0), jac, hessp, hess, reduce, convex, options)

    if comm is not None:
        return _together(comm, prepare)
    term = prepare()
    return _result(LocalFleet(term.build([term.describe()], 0)), term.options, None)


# -- in this process, or on the shards of a folder --------------------------------------------------------------------


def _in_memory(rows: RankRows, workers: int) -> OptimizeResult:
    if promised_ranks() > 1:
        raise ConfigError(
            "under mpiexec give comm=MPI.COMM_WORLD and the rows of every rank, or a packed folder; "
            "comm=MPI.COMM_SELF is for a run of this rank alone"
        )
    objective, loss = rows.objective, rows.objective.loss
    shards, labels = make_shards(rows.data, loss, workers, objective.seed)
    l2 = objective.l2_of(sum(shard.rows for shard in shards))
    values = None if labels is None else class_values(labels)
    return _result(local_fleet(shards, loss, values, l2, objective.intercept, objective.seed), rows.options, labels)


def _in_folder(rows: RankRows, folder: Path, memory: str | None) -> OptimizeResult | None:
    results: list[OptimizeResult] = []
    objective = rows.objective

    def drive(session: Session) -> int:
        manifest = read_manifest(folder)
        plan = Plan(
            str(folder.resolve()), manifest, Reference.of(objective.loss), objective.l2_of(manifest.rows),
            objective.seed, objective.intercept,
        )  # fmt: skip
        if memory is not None:
            plan = place_rows(plan, rows.options.method.choose(plan.problem()), session.ranks, memory)
        labels = (manifest.class_names or manifest.classes) if objective.loss.classifies else None
        results.append(_result(session.open(plan), rows.options, labels, plan))
        return 0

    code = join(drive)
    if code:
        raise SystemExit(code)  # on a rank that served: the driver tells what went wrong
    return results[0] if results else None


def _together(comm: Any, prepare: Callable[[], RankRows | RankFunction]) -> OptimizeResult:
    """The run of what all ranks bring. Whatever is wrong with the arguments of one is told to all."""
    if not hasattr(comm, "Dup"):
        raise ConfigError(f"comm = {comm!r}: expected a communicator of mpi4py, as MPI.COMM_WORLD")
    from mpinewton.fleet.transport.group import run_together

    inputs: list[RankRows | RankFunction] = []
    known: list[list[Any] | None] = []

    def describe() -> dict[str, Any]:
        inputs.append(prepare())
        return inputs[0].describe()

    def build(facts: list[dict[str, Any]], number: int) -> Host:
        host = inputs[0].build(facts, number)
        known.append(inputs[0].classes(facts))
        return host

    def drive(fleet: Fleet) -> bytes:
        return _to_bytes(_result(fleet, inputs[0].options, None))

    result = _from_bytes(run_together(comm, describe, build, drive))
    result.classes = None if known[0] is None else np.array(known[0])
    return result


# -- the run and its result -------------------------------------------------------------------------------------------


def _result(fleet: Fleet, options: Options, labels: Sequence[Any] | None, plan: Plan | None = None) -> OptimizeResult:
    """Run the method on the fleet."""
    problem = fleet.problem
    if not fleet.dim:
        raise ConfigError("the objective has no weights: X has no columns, or x0 has length 0")
    problem.loss.validate(problem.features, problem.classes, problem.intercept)
    method = options.method.choose(problem)
    method.validate(problem)
    columns = change_columns(fleet, method)
    w = proposed_weights(fleet, columns) if options.w0 is None else options.w0.copy()
    if w.shape != (fleet.dim,):
        raise ConfigError(f"w0: expected shape ({fleet.dim},), the weights of this objective; found {w.shape}")
    optimum = NAN if options.reference is None else find_optimum(fleet, plan, options.reference, columns).loss
    fleet.adopt(method)
    history: list[Row] = []
    stopped: list[str] = []

    def watch(row: Row, state: State) -> None:
        history.append(row)
        try:
            if options.callback is not None and options.callback(row, columns.outside(state.w).copy()) is True:
                stopped.append(STOPPED)
        except StopIteration:
            stopped.append(STOPPED)

    every = options.measure_every or method.iterations_per_epoch(problem)
    ended = run(
        method, fleet, columns.inside(w), make_stops(options.limits),
        evaluation=Evaluation(optimum, None, every, columns),
        watchers=[watch], pause=lambda: stopped[0] if stopped else "",
    )  # fmt: skip
    best = ended.best_row
    return OptimizeResult(
        x=columns.outside(ended.best.w), fun=best.loss, jac=columns.gradient(ended.best.gradient),
        nit=ended.row.iteration, method=method.name, kind=ended.kind,
        success=ended.kind in ("converged", "precision"), status=STATUS[ended.kind], message=ended.sentence,
        gap_bound=gap_bound(problem, best.grad_norm), history=history, ledger=fleet.ledger,
        classes=None if labels is None else np.array(labels),
    )  # fmt: skip


PLAIN = ("fun", "nit", "method", "success", "kind", "status", "message", "gap_bound")


def _to_bytes(result: OptimizeResult) -> bytes:
    """A result as it travels; classes are known on every rank."""
    ledger = result.ledger
    content = {name: result[name] for name in PLAIN} | {
        "x": result.x.tobytes(), "jac": result.jac.tobytes(), "history": [astuple(row) for row in result.history],
        "ledger": {name: counts.tolist() for name, counts in ledger.state().items()}, "workers": ledger.workers,
        "entries": ledger.entries(),
    }  # fmt: skip
    return msgspec.msgpack.encode(content, enc_hook=plain_number)


def _from_bytes(data: bytes) -> OptimizeResult:
    content = msgspec.msgpack.decode(data)
    ledger = Ledger(content["workers"])
    state = {name: np.asarray(counts) for name, counts in content["ledger"].items()}
    ledger.restore(state, [Entry(*entry) for entry in content["entries"]])
    return OptimizeResult(
        **{name: content[name] for name in PLAIN}, x=np.frombuffer(content["x"]).copy(),
        jac=np.frombuffer(content["jac"]).copy(), history=[Row(*row) for row in content["history"]], ledger=ledger,
    )  # fmt: skip
