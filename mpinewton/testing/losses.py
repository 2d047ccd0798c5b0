"""`check_loss`: what every loss of mpinewton is tested for, applied to any loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import DataError
from mpinewton.losses.linear import LinearLoss, LinearModel
from mpinewton.losses.loss import Classes, Loss, Targets
from mpinewton.testing import loss_models as models
from mpinewton.testing.loss_case import STEP, TOLERANCE, Case, Draw, close, differences, place_of
from mpinewton.testing.report import CheckFailed, Report

WORDS = {
    "gradient",
    "hvp",
    "hessian",
    "hessian_diagonal",
    "second_derivatives",
    "rows",
    "hessian_bound",
    "hessian_lipschitz",
    "majorant",
}


def check_loss(loss: Loss | type[Loss], *, classes: Classes = None, data: Draw | None = None, seed: int = 0) -> Report:
    """Test a loss: its derivatives, convexity, bounds, labels, and its mean over the rows of a shard.

    Derivatives are compared with differences of step 1e-5: their relative error may be 1e-6. At a kink a derivative may
    lie anywhere between the one-sided differences. Values that are computed in two ways may differ by 1e-12.

    Parameters
    ----------
    loss : Loss, or subclass of Loss
        Of a class, the loss with its default settings is tested.
    classes : sequence of float, optional
        The distinct labels, increasing. Default: 4 classes, or 2 if the loss refuses 4; None if it does not classify.
    data : function (rng, n) -> X (n, p), y (n,), optional
        Draws the rows. Default: 5 features, about half of them 0; labels of the classes, normal labels, or counts,
        whichever the loss accepts.
    seed : int

    Returns
    -------
    Report
        The checks that were made.

    Raises
    ------
    CheckFailed
        If a check fails: what was compared, where, the expected and the found value, and the likely cause.

    Examples
    --------
    >>> from mpinewton.losses import make_loss
    >>> len(check_loss(make_loss("huber:delta=0.5")).passed) > 10
    True
    """
    case = Case(loss() if isinstance(loss, type) else loss, classes, data, seed)
    report, provides = Report(f"loss {case.loss.name}"), case.loss.provides
    linear = isinstance(case.loss, LinearLoss)
    check: Callable[..., Any]
    for check, applies, needed in (
        (check_declarations, True, ""),
        (check_labels, True, ""),
        (check_weights, True, ""),
        (check_formulas_row_by_row, linear, "LinearLoss"),
        (check_derivatives, linear, "LinearLoss"),
        (check_second_derivatives, linear and "hvp" in provides, "LinearLoss with second derivatives"),
        (check_large_logits, linear, "LinearLoss"),
        (check_hessian_bound, "hessian_bound" in provides, "hessian_bound"),
        (check_hessian_lipschitz, "hessian_lipschitz" in provides, "hessian_lipschitz"),
        (check_majorants, "majorant" in provides, "majorant"),
        (check_convexity, case.loss.convex, "convex = True"),
    ):
        _run(report, check, applies, needed, case)
    for n, storage, weighted in ((40, "dense", False), (40, "csr", True), (1, "dense", True)):
        model = case.model(n, storage, weighted)
        where = f"{n} rows, {storage}{', weighted' if weighted else ''}"
        for check, needed in models.OF_A_MODEL:
            _run(report, check, needed in provides, needed, case, model, where=where)
    for check in models.OF_A_LOSS:
        report.run(check, case)
    return report


def _run(
    report: Report, check: Callable[..., Any], applies: bool, needed: str, *arguments: Any, where: str = ""
) -> None:
    if applies:
        report.run(check, *arguments, where=where)
    else:
        report.skip(check.__name__.removeprefix("check_").replace("_", " "), f"needs {needed}", where)


# -- declarations, labels, weights ------------------------------------------------------------------------------------


def check_declarations(case: Case) -> None:
    loss = case.loss
    unknown = set(loss.provides) - WORDS
    if unknown or "gradient" not in loss.provides:
        expected = f"gradient, and words out of {', '.join(sorted(WORDS))}"
        raise CheckFailed("`provides` is not known to methods", expected=expected, found=sorted(loss.provides))
    if ("rows" in loss.provides) != isinstance(case.model(3), LinearModel):
        raise CheckFailed("`provides` contains rows if and only if the model is a LinearModel")


def check_labels(case: Case) -> None:
    """Labels that do not fit are refused with a DataError; the targets of a row depend on its label alone."""
    loss, classes = case.loss, case.classes
    y = case.draw(12)[1]
    t = loss.targets(y, classes)
    alone = np.concatenate([loss.targets(y[k : k + 1], classes) for k in range(len(y))])
    if t.shape != y.shape or not np.array_equal(t, alone) or loss.targets(y[:0], classes).shape != (0,):
        raise CheckFailed("`targets` is not one number per label", expected=alone, found=t)
    wrong = [np.nan, max(classes) + 0.5] if loss.classifies and classes is not None else [np.nan, np.inf]
    for label in wrong:
        try:
            loss.targets(np.append(y, label), classes)
        except DataError:
            continue
        raise CheckFailed(
            f"`targets` accepts the label {label:g}",
            expected="DataError",
            cause="call self.refuse, as Loss.targets does",
        )


def check_weights(case: Case) -> None:
    """`shapes`, `l2_mask` and `initial_weights` agree on d; the weights depend on the seed alone."""
    loss, p, classes = case.loss, case.draw(1)[0].shape[1], case.classes
    d = case.model(3).dim
    for name, found in (
        ("shapes", sum(shape.size for shape in loss.shapes(p, classes))),
        ("l2_mask", len(loss.l2_mask(p, classes, False))),
        ("initial_weights", len(loss.initial_weights(p, classes, 1))),
    ):
        if found != d:
            raise CheckFailed(f"`{name}` has another number of weights than the model", expected=d, found=found)
    first, again = loss.initial_weights(p, classes, 1), loss.initial_weights(p, classes, 1)
    if not np.array_equal(first, again) or not np.isfinite(first).all():
        raise CheckFailed(
            "`initial_weights` depends on more than the seed, or is not finite", expected=first, found=again
        )
    if isinstance(loss, LinearLoss):
        free = ~loss.l2_mask(p, classes, True).reshape(p, -1)
        if free[:-1].any() or not free[-1].all():
            raise CheckFailed("`l2_mask` with an intercept: the weights of the last feature alone are free")


# -- formulas of a linear loss ----------------------------------------------------------------------------------------


def check_formulas_row_by_row(case: Case) -> None:
    """A row does not depend on other rows; leading axes are evaluated independently."""
    loss = case.linear
    for z, t, _ in case.logits(9):
        steps = np.stack([z, 0.5 * z, -z])
        for name in (
            "values",
            "derivatives",
            *(("second_derivatives",) if "second_derivatives" in loss.provides else ()),
        ):
            formula = getattr(loss, name)
            whole, what = formula(steps, t), f"`{name}`: a row depends on other rows, or on other steps"
            close(what, whole, np.stack([formula(one, t) for one in steps]))
            rows = [formula(z[k : k + 1], t[k : k + 1]) for k in range(len(t))]
            close(what, whole[0], np.concatenate(rows), cause="use the last axis of z (n) as rows, not the first")


def check_derivatives(case: Case) -> str:
    loss, measured = case.linear, ""
    for z, t, dz in case.logits(60):
        values = [np.asarray(loss.values(z + a * dz, t)) for a in (-STEP, 0.0, STEP)]
        product = np.asarray(loss.derivatives(z, t)) * dz
        found = product if z.ndim == 1 else product.sum(axis=-1)
        what = "`derivatives` is not the derivative of `values`"
        measured = differences(what, found, values, np.asarray, partial(place_of(z, t), per_row=1))
    return measured


def check_second_derivatives(case: Case) -> str:
    loss, measured = case.linear, ""
    name = "second_derivatives" if "second_derivatives" in loss.provides else "apply_second"
    for z, t, dz in case.logits(60):
        values = [np.asarray(loss.derivatives(z + a * dz, t)) for a in (-STEP, 0.0, STEP)]
        found = np.asarray(loss.apply_second(loss.second_terms(z, t), dz))
        measured = differences(
            f"`{name}` is not the derivative of `derivatives`", found, values, np.asarray, place_of(z, t)
        )
        if name == "second_derivatives":
            close(
                "`apply_second` is not a product with `second_derivatives`", found, loss.second_derivatives(z, t) * dz
            )
    return measured


def check_large_logits(case: Case) -> None:
    """No NaN at logits of +-1000, which a line search may try."""
    loss, t = case.linear, case.targets(8)
    outputs = loss.outputs(case.classes)
    for z in (np.full(8, 1000.0), np.full(8, -1000.0)):
        if outputs > 1:
            z = np.column_stack([z, *[-z] * (outputs - 1)])
        for name in ("values", "derivatives"):
            with np.errstate(all="ignore"):
                found = np.asarray(getattr(loss, name)(z, t))
            if np.isnan(found).any():
                row = int(np.isnan(found).reshape(len(t), -1).any(axis=1).argmax())
                raise CheckFailed(
                    f"`{name}` is NaN for a large logit", where=place_of(z, t)(row * z[0].size),
                    cause="an overflow: use scipy.special.expit, np.logaddexp or np.log1p",
                )  # fmt: skip


def grid(case: Case) -> tuple[Array, Targets]:
    """A fine grid of logits (steps, n) for targets (n,) of one output."""
    t = case.targets(8)
    return np.repeat(np.linspace(-60.0, 60.0, 24001)[:, None], len(t), axis=1), t


def check_hessian_bound(case: Case) -> str:
    z, t = grid(case)
    found, bound = np.abs(case.linear.second_derivatives(z, t)).max(axis=0), np.asarray(case.linear.hessian_bound(t))
    return bounded("hessian_bound", "|second derivative|", found, bound, t)


def check_hessian_lipschitz(case: Case) -> str:
    z, t = grid(case)
    change = np.abs(np.diff(case.linear.second_derivatives(z, t), axis=0)) / np.diff(z, axis=0)
    return bounded(
        "hessian_lipschitz", "slope of the second derivative", change.max(axis=0), case.linear.hessian_lipschitz(t), t
    )


def check_majorants(case: Case) -> None:
    """No value lies above the quadratic majorant at some logits."""
    loss, (z, t) = case.linear, grid(case)
    values, slopes, c = loss.values(z, t), loss.derivatives(z, t), np.asarray(loss.majorants(z, t))
    if np.shape(c) != z.shape:
        raise CheckFailed("`majorants` is not one number per logit", expected=f"shape {z.shape}", found=np.shape(c))
    for step in (-30.0, -3.0, -0.3, 0.3, 3.0, 30.0):
        over = loss.values(z + step, t) - (values + slopes * step + 0.5 * c * step**2)
        if not (over <= TOLERANCE * (1.0 + np.abs(values))).all():
            i, k = np.unravel_index(int(np.argmax(over)), z.shape)
            raise CheckFailed(
                "`values` exceeds the majorant", where=f"t = {t[k]:g}, from z = {z[i, k]:g} to {z[i, k] + step:g}",
                expected="at most 0 above it", found=f"{over[i, k]:.6g}", cause="`majorants` is too small",
            )  # fmt: skip


def bounded(name: str, what: str, found: Array, bound: Array, t: Targets) -> str:
    if np.shape(bound) != t.shape:
        raise CheckFailed(f"`{name}` is not one number per row", expected=f"shape {t.shape}", found=np.shape(bound))
    if not (found <= bound * (1.0 + TOLERANCE) + 1e-9).all():
        k = int(np.argmax(found - bound))
        raise CheckFailed(
            f"`{name}` is exceeded by the {what}", where=f"t = {t[k]:g}, z between -60 and 60",
            expected=f"at most {bound[k]:.6g}", found=f"{found[k]:.6g}", cause="the bound is too small",
        )  # fmt: skip
    return f"{float(np.max(found / np.maximum(bound, 1e-300))):.3g} of the bound is reached"


def check_convexity(case: Case) -> None:
    """No second derivative is negative: of the formulas, or of a model that is not linear."""
    cause = "set convex = False, or correct the formulas"
    if not isinstance(case.loss, LinearLoss):
        models.check_convexity(case, cause)
        return
    loss, lines = case.loss, list(case.logits(60))
    if loss.outputs(case.classes) == 1:
        z, t = grid(case)
        lines.append((z, t, np.ones_like(z)))
    for z, t, dz in lines:
        if "hvp" in loss.provides:
            product, step = np.asarray(loss.apply_second(loss.second_terms(z, t), dz)) * dz, 1.0
        else:
            step = 0.01
            product = (np.asarray(loss.derivatives(z + step * dz, t)) - loss.derivatives(z, t)) * dz
        curvature = product / step if loss.outputs(case.classes) == 1 else product.sum(axis=-1) / step
        if not (curvature >= -1e-9 * max(1.0, np.abs(curvature).max())).all():
            at = np.unravel_index(int(np.argmin(curvature)), curvature.shape)
            raise CheckFailed(
                "the loss is declared convex, but its second derivative is negative", expected="at least 0",
                where=f"z = {np.round(z[at], 4)}, t = {t[at[-1]]:g}", found=f"{curvature[at]:.6g}", cause=cause,
            )  # fmt: skip
