"""What is measured for the record alone: accuracy and loss on test rows, and the gap to an optimum computed once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from mpinewton.arrays import Array
from mpinewton.data.loading import load_rows
from mpinewton.errors import ConfigError, DataError, Interrupted
from mpinewton.fleet import Fleet, Plan
from mpinewton.methods.lbfgs import Lbfgs
from mpinewton.methods.newton import Newton
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import GradientBelow, Iterations
from mpinewton.runs.storage import open_sealed, sealed_file

log = logging.getLogger("mpinewton")
FORMAT = "mpinewton-reference/1"
# Up to here the Hessian of the whole objective is formed and factored; beyond, L-BFGS.
EXACT_SIZE = 2000


@dataclass(frozen=True)
class Reference:
    """An optimum: P* and, where known, w*."""

    loss: float
    w: Array | None
    grad_norm: float


def tested(plan: Plan, source: str) -> Callable[[Array], tuple[float, float]]:
    """What weights of this plan are worth on other rows: the share of them that is classed rightly, NaN where the loss
    does not class; and the mean loss, without l2.

    Raises
    ------
    DataError
        If the source does not fit the training data.
    """
    loss, manifest = plan.build_loss(), plan.manifest
    shard, _ = load_rows(source, manifest.features, manifest.class_names or (), manifest.scale)
    if not shard.rows:
        raise DataError(f"{source}: no rows to test on")
    model = loss.on_shard(shard.with_intercept() if plan.intercept else shard, manifest.classes)

    def measured(w: Array) -> tuple[float, float]:
        accuracy = float(np.mean(model.predict(w) == shard.y)) if loss.classifies else float("nan")
        return accuracy, model.at(w).value()

    return measured


def reference(fleet: Fleet, plan: Plan, text: str, pause: Callable[[], str] = lambda: "") -> Reference:
    """The optimum of a plan: `text` is its value, or `auto` to compute it once and keep it beside the shards.

    Raises
    ------
    ConfigError
        If `text` is neither, or the loss has no single optimum to compute.
    Interrupted
        If `pause` gives a reason to stop before it is found.
    """
    if text != "auto":
        if not isfinite(value := _number(text)):
            raise ConfigError(f"--reference {text!r}: give the optimal value, or auto to have it computed")
        return Reference(value, None, float("nan"))
    if not plan.build_loss().convex:
        raise ConfigError(f"--reference auto needs a convex loss: {plan.build_loss().name} may have many minima")
    path = plan.path() / f"reference-{_key(plan)}.h5"
    try:
        return _read(path)
    except DataError:
        pass
    log.info("computing the optimum once, for the gap")
    with fleet.ledger.closed():
        found = _solve(fleet, pause)
    try:
        _write(path, found)
    except OSError as error:
        log.warning("the optimum could not be kept beside the shards (%s): the next run computes it again", error)
    return found


def _solve(fleet: Fleet, pause: Callable[[], str]) -> Reference:
    exact = fleet.dim <= EXACT_SIZE and "hessian" in fleet.problem.loss.provides
    method, limit = (Newton(), 200) if exact else (Lbfgs(memory=30), 10_000)
    fleet.adopt(method)
    w, target, best = np.zeros(fleet.dim), 1e-9, None
    # As far as rounding lets it: tighter and tighter, until a tenth can no longer be gained.
    while True:
        ended = run(method, fleet, w, [GradientBelow(target), Iterations(limit)], pause=pause)
        if ended.kind == "interrupted":
            raise Interrupted(f"while the optimum was computed: {ended.reason}")
        if best is None or ended.row.grad_norm < best.row.grad_norm:
            best = ended
        if ended.kind != "converged" or target <= 1e-15:
            break
        w, target = ended.state.w, min(target, ended.row.grad_norm) / 10
        limit = 5 if exact else limit
    if not best.row.grad_norm <= 1e-6:
        raise ConfigError(
            f"--reference auto: no optimum was found (gradient norm {best.row.grad_norm:.3g}: {best.reason}); "
            "give the value, or set l2 > 0"
        )
    return Reference(float(best.row.loss), best.state.w, best.row.grad_norm)


def _key(plan: Plan) -> str:
    """Names an objective: data, loss, l2, intercept, storage."""
    facts = [plan.manifest.data_sha256, plan.loss, plan.l2, plan.intercept, plan.dtype]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(path: Path) -> Reference:
    with open_sealed(path, FORMAT) as file:
        return Reference(float(file.attrs["loss"]), file["w"][()], float(file.attrs["grad_norm"]))


def _write(path: Path, found: Reference) -> None:
    with sealed_file(path, FORMAT) as file:
        file.attrs["loss"], file.attrs["grad_norm"] = found.loss, found.grad_norm
        file.create_dataset("w", data=found.w)


def beginning(plan: Plan, text: str, optimum: Reference | None) -> Array:
    """The first w, shape (d,): `auto` (what the loss proposes: zeros for linear models, drawn from the seed for
    networks), `zero`, a model file, or `optimum+C` (C added to every coordinate of the optimum).

    Raises
    ------
    ConfigError
        If the text is none of these, or what it names does not fit.
    """
    if text == "auto":
        return plan.problem().initial_weights()
    if text == "zero":
        return np.zeros(plan.problem().dim)
    if text.startswith("optimum"):
        shift = 0.0 if text == "optimum" else _number(text.removeprefix("optimum"))
        if not isfinite(shift):
            raise ConfigError(f"--start {text!r}: write optimum+C with a number C, as in optimum+0.1")
        if optimum is None or optimum.w is None:
            raise ConfigError(f"--start {text} needs the optimum itself: add --reference auto")
        return optimum.w + shift
    from mpinewton.runs.model import read_model

    w = read_model(Path(text)).w
    size = plan.problem().dim
    if w.shape != (size,):
        raise ConfigError(f"--start {text}: {w.size} weights, but this objective has {size}")
    return w


def _number(text: str) -> float:
    """The number that a text is, NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
