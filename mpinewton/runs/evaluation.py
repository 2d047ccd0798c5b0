"""What is measured for the record only: accuracy and loss on test rows, and the gap to the optimal value."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import msgspec
import numpy as np

from mpinewton.arrays import NAN, Array
from mpinewton.data.blocks import Reading
from mpinewton.data.loading import load_rows
from mpinewton.errors import ConfigError, DataError, Interrupted
from mpinewton.fleet import Fleet, Plan, Worker
from mpinewton.losses.linear import LinearLoss
from mpinewton.methods.lbfgs import Lbfgs
from mpinewton.methods.newton import Newton
from mpinewton.methods.support.tasks import linear_model
from mpinewton.runs.columns import Columns
from mpinewton.runs.job import ReadingOptions, optimum_shift
from mpinewton.runs.loop import run
from mpinewton.runs.model import read_model
from mpinewton.runs.stopping import GradientBelow, Iterations
from mpinewton.runs.storage import open_sealed, sealed_file

log = logging.getLogger("mpinewton")
FORMAT = "mpinewton-reference/1"
# Up to this dimension the optimum is computed by Newton, above it by L-BFGS.
EXACT_SIZE = 2000


@dataclass(frozen=True)
class Reference:
    """An optimum.

    Attributes
    ----------
    loss : float
        The optimal value P*.
    w : array, shape (d,), or None
        The optimal weights, if they are known.
    grad_norm : float
        Gradient norm at w; NaN if it is not known.
    """

    loss: float
    w: Array | None
    grad_norm: float


def tester(plan: Plan, source: str, reading: ReadingOptions) -> Callable[[Array], tuple[float, float]]:
    """A function that evaluates weights on test rows.

    Parameters
    ----------
    plan : Plan
    source : str
        The test rows: a folder of shards or anything `mpinewton pack` reads.
    reading : ReadingOptions
        How they are read.

    Returns
    -------
    function of w, shape (d,)
        Returns the accuracy (NaN if the loss is no classification loss) and the mean loss without l2.

    Raises
    ------
    DataError
        If the source does not fit the training data.
    """
    loss, manifest = plan.build_loss(), plan.manifest
    shard, _ = load_rows(source, manifest.schema, Reading(**msgspec.structs.asdict(reading)))
    if not shard.rows:
        raise DataError(f"{source}: no test rows")
    model = loss.on_shard(shard.with_intercept() if plan.intercept else shard, manifest.classes)

    def test(w: Array) -> tuple[float, float]:
        accuracy = float(np.mean(model.predict(w) == shard.y)) if loss.classifies else NAN
        return accuracy, model.at(w).value()

    return test


def find_optimum(
    fleet: Fleet, plan: Plan | None, text: str, columns: Columns, pause: Callable[[], str] = lambda: ""
) -> Reference:
    """The optimum of an objective.

    Parameters
    ----------
    fleet : Fleet
    plan : Plan or None
        The plan of the fleet, if its data are a folder of shards.
    text : str
        The optimal value; or "auto": the optimum is computed once and saved beside the shards.
    columns : Columns
        The variables of the fleet.
    pause : function without arguments
        Returns why the computation must be interrupted, or "".

    Raises
    ------
    ConfigError
        If `text` is neither, or the loss is not convex.
    Interrupted
        If `pause` interrupts the computation.
    """
    if text != "auto":
        try:
            value = float(text)
        except ValueError:
            value = NAN
        if not isfinite(value):
            raise ConfigError(f"--reference {text!r}: expected the optimal value, or auto to compute it")
        return Reference(value, None, NAN)
    loss = fleet.problem.loss
    if not loss.convex:
        raise ConfigError(f"--reference auto needs a convex loss: {loss.name} may have many minima")
    if plan is None:
        with fleet.ledger.closed():
            return _solve(fleet, columns, pause)
    path = plan.path() / f"reference-{_key(plan)}.h5"
    try:
        return _read(path)
    except DataError:
        pass
    log.info("computing the optimum, which is then saved beside the shards")
    with fleet.ledger.closed():
        found = _solve(fleet, columns, pause)
    try:
        _write(path, found)
    except OSError as error:
        log.warning("the optimum could not be saved beside the shards (%s): the next run computes it again", error)
    return found


def _solve(fleet: Fleet, columns: Columns, pause: Callable[[], str]) -> Reference:
    exact = fleet.dim <= EXACT_SIZE and "hessian" in fleet.problem.loss.provides
    method, limit = (Newton(), 200) if exact else (Lbfgs(memory=30), 10_000)
    fleet.adopt(method)
    w, target, best = np.zeros(fleet.dim), 1e-9, None
    # To the limit of rounding: the tolerance is divided by 10 until it is not met.
    while True:
        ended = run(method, fleet, w, [GradientBelow(target), Iterations(limit)], pause=pause)
        if ended.kind == "interrupted":
            raise Interrupted(f"interrupted while computing the optimum: {ended.reason}")
        if best is None or ended.row.grad_norm < best.row.grad_norm:
            best = ended
        if ended.kind != "converged" or target <= 1e-15:
            break
        w, target = ended.state.w, min(target, ended.row.grad_norm) / 10
        limit = 5 if exact else limit
    if not (best.row.grad_norm <= 1e-6 or best.kind == "precision"):  # the norm has the units of the columns
        raise ConfigError(
            f"--reference auto: the optimum was not found (gradient norm {best.row.grad_norm:.3g}: {best.reason}); "
            "give the optimal value, or set --l2 greater than 0"
        )
    return Reference(float(best.row.loss), columns.outside(best.state.w), best.row.grad_norm)


def _key(plan: Plan) -> str:
    """Digest of the objective: data, loss, l2, intercept, dtype."""
    facts = [plan.manifest.data_sha256, msgspec.to_builtins(plan.loss), plan.l2, plan.intercept, plan.dtype]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(path: Path) -> Reference:
    with open_sealed(path, FORMAT) as file:
        found = Reference(float(file.attrs["loss"]), file["w"][()], float(file.attrs["grad_norm"]))
        if not isfinite(found.loss) or found.w is None or not np.isfinite(found.w).all():
            raise ValueError("a number is not finite")
        return found


def _write(path: Path, found: Reference) -> None:
    with sealed_file(path, FORMAT) as file:
        file.attrs["loss"], file.attrs["grad_norm"] = found.loss, found.grad_norm
        file.create_dataset("w", data=found.w)


def proposed_weights(fleet: Fleet, columns: Columns) -> Array:
    """The weights the loss proposes to start from, shape (d,); for an intercept, a location estimate of the labels.

    The estimate takes one round, of one float a worker, which is charged to the run.
    """
    problem = fleet.problem
    w, loss = problem.initial_weights(), problem.loss
    if problem.intercept and isinstance(loss, LinearLoss) and type(loss).location is not LinearLoss.location:
        w[-1] = loss.location_logit(float(fleet.mean(location)) + columns.label)
    return w


def location(worker: Worker) -> float:
    """Worker task: a location estimate of the worker's labels: 1 float."""
    model = linear_model(worker)
    return model.loss.location(model.t, model.row_weight_array)


def initial_weights(fleet: Fleet, plan: Plan, text: str, optimum: Reference | None, columns: Columns) -> Array:
    """The first w, shape (d,).

    Parameters
    ----------
    fleet : Fleet
    plan : Plan
    text : str
        "auto" (the loss's own: zeros for linear models, random for networks; intercepts of regressions at a location
        estimate of the labels), "zero", a model file, or "optimum+C"
        (C added to every coordinate of the optimum).
    optimum : Reference or None
        Needed for "optimum+C".
    columns : Columns
        The variables of the fleet.

    Raises
    ------
    ConfigError, DataError
        If the file cannot be read, or does not have d weights.
    """
    if text == "auto":
        return proposed_weights(fleet, columns)
    if text == "zero":
        return np.zeros(plan.problem().dim)
    if (shift := optimum_shift(text)) is not None:
        assert optimum is not None and optimum.w is not None  # Job.check
        return optimum.w + shift
    model = read_model(Path(text))
    dim, schema = plan.problem().dim, plan.manifest.schema
    if model.w.shape != (dim,):
        raise ConfigError(f"--start {text}: expected {dim} weights, but the model has {model.w.size}")
    if model.schema.class_names != schema.class_names:
        names = [", ".join(some.class_names or ()) or "numbers" for some in (model.schema, schema)]
        raise ConfigError(f"--start {text}: the classes of the model are {names[0]}; those of the data are {names[1]}")
    own, others = model.schema.columns, schema.columns
    if own is not None and others is not None and own.feature_names != others.feature_names:
        raise ConfigError(f"--start {text}: the features of the model are not those of the data; names or order differ")
    return model.w.copy()
