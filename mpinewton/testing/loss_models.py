"""Checks of the mean of a loss over a shard: derivatives, lines, subsets, storage, weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mpinewton.data.shard import Shard
from mpinewton.losses.linear import LinearPoint
from mpinewton.losses.loss import Model
from mpinewton.testing.loss_case import EXACT, SCALES, STEP, Case, close, differences
from mpinewton.testing.report import CheckFailed


def check_gradient(case: Case, model: Model) -> str:
    measured = ""
    for scale in SCALES:
        w, v = case.weights(model, scale)
        g = np.asarray(model.at(w).gradient())
        if g.shape != (model.dim,) or g.dtype != np.float64:
            raise CheckFailed("the gradient", expected=f"float64 {(model.dim,)}", found=f"{g.dtype} {g.shape}")
        values = [model.at(w + a * v).value() for a in (-STEP, 0.0, STEP)]
        what = "`gradient` is not the gradient of `value`"
        measured = differences(
            what, np.asarray(g @ v), values, np.max, f"weights of scale {scale:g}, number {{}}".format
        )
    return measured


def check_hvp(case: Case, model: Model) -> str:
    measured = ""
    for scale in SCALES:
        w, v = case.weights(model, scale)
        values = [model.at(w + a * v).gradient() for a in (-STEP, 0.0, STEP)]
        found, what = model.at(w).hvp(v), "`hvp` is not the derivative of `gradient`"
        measured = differences(what, found, values, np.max, f"weights of scale {scale:g}, number {{}}".format)
    return measured


def check_hessian(case: Case, model: Model) -> None:
    """The matrix is symmetric, and its columns are Hessian-vector products."""
    point = model.at(case.weights(model)[0])
    H, identity = point.hessian(), np.eye(model.dim)
    columns = np.column_stack([point.hvp(e) for e in identity])
    close("`hessian` is not the matrix of `hvp`", H, columns)
    if not np.array_equal(H, H.T):
        raise CheckFailed("`hessian` is not exactly symmetric", found=f"largest difference {np.abs(H - H.T).max():g}")
    if "hessian_diagonal" in case.loss.provides:
        close("`hessian_diagonal` is not the diagonal of `hessian`", point.hessian_diagonal(), np.diag(H))
    if isinstance(point, LinearPoint):
        close("`hvps` is not the matrix of `hvp`", point.hvps(identity), columns)
        if "second_derivatives" in case.loss.provides:
            h = point.model.row_weight_array * point.second_derivatives()
            close("`second_derivatives` do not make up `hessian`", point.model.rows.gram(h), H)


def check_convexity(case: Case, cause: str) -> None:
    """The value at the middle of two points is at most the mean of theirs; the Hessian has no negative eigenvalue."""
    model = case.model(40)
    for scale in SCALES:
        (a, _), (b, _) = case.weights(model, scale), case.weights(model, -scale)
        ends, middle = (model.at(a).value() + model.at(b).value()) / 2, model.at((a + b) / 2).value()
        if not middle <= ends + EXACT * max(abs(ends), 1.0):
            raise CheckFailed("the loss is not convex", expected=f"at most {ends}", found=middle, cause=cause)
        if "hvp" in case.loss.provides:
            Q = np.linalg.qr(case.rng.standard_normal((model.dim, min(model.dim, 200))))[0]
            e = np.linalg.eigvalsh(Q.T @ np.column_stack([model.at(a).hvp(q) for q in Q.T]))
            if not e[0] >= -1e-9 * max(e[-1], 1.0):
                what = "the loss is declared convex, but its Hessian has a negative eigenvalue"
                raise CheckFailed(what, expected="at least 0", found=f"{e[0]:.6g}", cause=cause)


def check_rays(case: Case, model: Model) -> None:
    """The values along a line are those at its points."""
    w, p = case.weights(model)
    ray, steps = model.at(w).along(p), np.array([0.0, 1.0, 0.5, -0.25, 2.0**-30])
    points = [model.at(w + step * p) for step in steps]
    close("`losses` of a line are not the values at its points", ray.losses(steps), [point.value() for point in points])
    for step, point in zip(steps, points):
        here, where = ray.at(step), f"step {step:g}"
        close("`at` of a line is another point: its weights differ", here.w, w + step * p, where, tolerance=0.0)
        close("`at` of a line is another point: its gradient differs", here.gradient(), point.gradient(), where)
    close("`losses` of no steps", ray.losses(np.empty(0)), np.empty(0))


def check_kept_points(case: Case, model: Model) -> None:
    """A point made again from its cache has the same bits."""
    w, p = case.weights(model)
    point = model.at(w).along(p).at(0.3)
    again = model.at(point.w, **point.cache())
    close("a point made again from `cache` has another value", again.value(), point.value(), tolerance=0.0)
    close("a point made again from `cache` has another gradient", again.gradient(), point.gradient(), tolerance=0.0)


def check_predictions(case: Case) -> None:
    """One finite number per row; for classes, one of them."""
    for n in (1, 40):
        model = case.model(n)
        found = np.asarray(model.predict(case.weights(model)[0]))
        if found.shape != (n,) or not np.isfinite(found).all():
            raise CheckFailed("`predict` is not one finite number per row", expected=f"shape {(n,)}", found=found)
        if case.loss.classifies and case.classes is not None and not np.isin(found, case.classes).all():
            cause = "define `predictions`, or derive from BinaryLoss"
            raise CheckFailed("`predict` is not a class", expected=f"of {list(case.classes)}", found=found, cause=cause)


def same(case: Case, what: str, one: Model, other: Model, cause: str = "") -> None:
    """Fail if two models differ in value, derivatives or predictions."""
    w, v = case.weights(one)
    a, b, provides = one.at(w), other.at(w), case.loss.provides
    close(f"{what}: the value differs", a.value(), b.value(), cause=cause)
    close(f"{what}: the gradient differs", a.gradient(), b.gradient(), cause=cause)
    if "hvp" in provides:
        close(f"{what}: the Hessian-vector product differs", a.hvp(v), b.hvp(v), cause=cause)
    if "hessian" in provides:
        close(f"{what}: the Hessian differs", a.hessian(), b.hessian(), cause=cause)


def check_storage(case: Case) -> None:
    same(case, "sparse rows, compared with dense ones", case.model(40, "csr", True), case.model(40, "dense", True))


def check_float32_rows(case: Case) -> None:
    """Rows of dtype float32 give what the rounded rows give in float64."""
    shard = case.shard(40)
    X = np.asarray(shard.X).astype(np.float32)
    narrow, wide = (case.loss.on_shard(Shard(rows, shard.y), case.classes) for rows in (X, X.astype(np.float64)))
    same(case, "float32 rows, compared with the same rows in float64", narrow, wide)


def check_row_weights(case: Case) -> None:
    """A weight k counts as k equal rows."""
    (X, y), times = case.draw(6), np.array([1, 3, 0, 2, 1, 5])
    weighted = case.loss.on_shard(Shard(X, y, times.astype(np.float64)), case.classes)
    repeated = case.loss.on_shard(Shard(np.repeat(X, times, axis=0), np.repeat(y, times)), case.classes)
    same(case, "rows of weight k, compared with k equal rows", weighted, repeated, "the mean must use `row_weights`")


def check_subsets(case: Case) -> None:
    """A subset of the rows is the mean over these rows."""
    rows = np.array([3, 7, 8, 20])
    for storage, weighted in (("dense", False), ("csr", True)):
        shard, model = case.shard(40, storage, weighted), case.model(40, storage, weighted)
        weight = None if shard.sample_weight is None else shard.sample_weight[rows]
        alone = case.loss.on_shard(Shard(shard.X[rows], shard.y[rows], weight), case.classes)
        same(case, "`subset`, compared with a shard of these rows", model.subset(rows), alone)
        same(case, "an empty `subset`, compared with an empty shard", model.subset(rows[:0]), case.model(0, storage))


def check_no_rows(case: Case) -> None:
    """An empty shard has the value 0 and derivatives 0."""
    for storage, weighted in (("dense", False), ("csr", True)):
        model = case.model(0, storage, weighted)
        (w, v), d = case.weights(model), model.dim
        point = model.at(w)
        close("the value of no rows", point.value(), 0.0, tolerance=0.0)
        close("the gradient of no rows", point.gradient(), np.zeros(d), tolerance=0.0)
        close("the losses of no rows along a line", point.along(v).losses(np.ones(3)), np.zeros(3), tolerance=0.0)
        close("the predictions of no rows", model.predict(w), np.zeros(0))
        if "hvp" in case.loss.provides:
            close("the Hessian-vector product of no rows", point.hvp(v), np.zeros(d), tolerance=0.0)
        if "hessian" in case.loss.provides:
            close("the Hessian of no rows", point.hessian(), np.zeros((d, d)), tolerance=0.0)


# Checks of one model, with what the loss must provide for them; and those that make their models themselves.
OF_A_MODEL: tuple[tuple[Callable[..., Any], str], ...] = (
    (check_gradient, "gradient"),
    (check_hvp, "hvp"),
    (check_hessian, "hessian"),
    (check_rays, "gradient"),
    (check_kept_points, "gradient"),
)
OF_A_LOSS = (check_predictions, check_storage, check_float32_rows, check_row_weights, check_subsets, check_no_rows)
