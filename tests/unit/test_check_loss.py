"""`check_loss`: every built-in loss passes it, and errors that are planted in a loss are found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mpinewton.losses import LOSSES, make_loss
from mpinewton.losses.huber import Huber
from mpinewton.losses.linear import BinaryLoss, LinearLoss, LinearModel, LinearPoint
from mpinewton.losses.logistic import Logistic
from mpinewton.losses.mlp import Mlp
from mpinewton.losses.softmax import Softmax
from mpinewton.losses.squared import Squared
from mpinewton.settings import setting
from mpinewton.testing import CheckFailed, check_loss

# Settings to check besides the defaults.
MORE = {
    "softmax": ["softmax:reduced=true"],
    "huber": ["huber:delta=0.7"],
    "mlp": ["mlp:hidden=4,activation=tanh", "mlp:hidden=5-4-3"],
}
TORCH = {
    "torch:module=modules:linear,arguments=features=5;outputs=4": {},
    "torch:module=modules:smooth_cnn,input=1x6x4,block=7": {
        "classes": (2.0, 3.0, 7.0),
        "data": lambda rng, n: (rng.standard_normal((n, 24)), rng.choice((2.0, 3.0, 7.0), n)),
    },
    "torch:module=modules:Tied,input=tokens,labels=next": {
        "classes": tuple(map(float, range(7))),
        "data": lambda rng, n: (rng.integers(0, 7, (n, 6)).astype(float), rng.integers(0, 7, n).astype(float)),
    },
    "torch:module=modules:linear,arguments=features=5;outputs=1,loss=mse": {},
}


@pytest.mark.parametrize("text", [text for name in LOSSES for text in (name, *MORE.get(name, ())) if name != "torch"])
def test_every_built_in_loss_passes(text):
    report = check_loss(make_loss(text))
    assert {"labels", "gradient", "no rows"} <= {row.check for row in report.passed}


@pytest.mark.slow
@pytest.mark.parametrize("text", TORCH)
def test_torch_modules_pass(text):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'mpinewton[torch]'")
    check_loss(make_loss(text), **TORCH[text])


@dataclass(frozen=True)
class SquaredHinge(BinaryLoss):
    """max(0, margin - t z)^2 / 2."""

    name, convex = "squared-hinge", True
    margin: float = setting(1.0, ge=0, help="largest t z with a positive loss")

    def values(self, z, t):
        return np.maximum(self.margin - t * z, 0.0) ** 2 / 2

    def derivatives(self, z, t):
        return -t * np.maximum(self.margin - t * z, 0.0)

    def second_derivatives(self, z, t):
        return (t * z < self.margin).astype(float)


@dataclass(frozen=True)
class Sixth(LinearLoss):
    """(z - y)^6, of which no second derivative is known."""

    name, convex = "sixth", True

    def values(self, z, t):
        return (z - t) ** 6

    def derivatives(self, z, t):
        return 6 * (z - t) ** 5


def test_a_loss_of_a_user():
    report = check_loss(SquaredHinge)
    assert SquaredHinge.provides == {"gradient", "hvp", "hessian", "hessian_diagonal", "second_derivatives", "rows"}
    assert "convexity" in {row.check for row in report.passed}
    assert str(report).startswith("loss squared-hinge: ")
    assert check_loss(SquaredHinge(margin=2.0)).passed


def test_a_loss_without_second_derivatives():
    assert Sixth.provides == {"gradient", "rows"}
    assert {"hvp", "hessian", "second derivatives"} <= {row.check for row in check_loss(Sixth()).skipped}


def change(base, **formulas):
    """A loss of one formula or attribute changed: functions (self, *arguments) call the original by `super`."""
    return dataclass(frozen=True)(type(f"Changed{base.__name__}", (base,), formulas))()


def times(factor, name, base):
    return {name: lambda self, *given: factor * getattr(base, name)(self, *given)}


class Heavy(LinearModel):
    @property
    def row_weight(self):
        return 1.0 / max(1, len(self.t))

    @row_weight.setter
    def row_weight(self, weight):
        pass


class Forgetful(LinearModel):
    def subset(self, rows):
        return self


class Inexact(LinearModel):
    def at(self, w, **kept):
        return LinearPoint(self, w, kept["z"] * (1 + 1e-15) if kept else self.logits(w))


def on(model):
    return {"on_shard": lambda self, shard, classes: model(self, shard, classes)}


PLANTED = {
    "gradient twice": (
        change(SquaredHinge, **times(2.0, "derivatives", SquaredHinge)),
        "derivatives: `derivatives` is not the derivative of `values`.*z = .*, t = .*twice as large",
    ),
    "gradient of the wrong sign": (change(Logistic, **times(-1.0, "derivatives", Logistic)), "of the wrong sign"),
    "gradient of another loss": (change(Logistic, derivatives=Squared.derivatives), "not a constant factor"),
    "softmax gradient half": (change(Softmax, **times(0.5, "derivatives", Softmax)), "half as large"),
    "second derivative of the wrong formula": (
        change(Squared, **times(1.5, "second_derivatives", Squared)),
        "`second_derivatives` is not the derivative of `derivatives`.*1.5 times as large",
    ),
    "second derivative a little wrong": (
        change(Logistic, **times(1.001, "second_derivatives", Logistic)),
        "1.001 times",
    ),
    "softmax second derivative": (
        change(Softmax, apply_second=lambda self, P, dz: P * dz),
        "`apply_second` is not the",
    ),
    "softmax Hessian": (change(Softmax, **times(2.0, "hessian", Softmax)), "`hessian` is not the matrix of `hvp`"),
    "softmax diagonal": (
        change(Softmax, **times(2.0, "hessian_diagonal", Softmax)),
        "`hessian_diagonal` is not the diagonal",
    ),
    "declared convex": (
        change(LOSSES["softplus"], convex=True),
        "declared convex, but its second derivative is negative",
    ),
    "declared convex, not linear": (change(Mlp, convex=True), "declared convex, but its Hessian has a negative"),
    "bound too small": (change(Logistic, **times(0.9, "hessian_bound", Logistic)), "`hessian_bound` is exceeded"),
    "Lipschitz constant too small": (
        change(LOSSES["softplus"], **times(0.3, "hessian_lipschitz", LOSSES["softplus"])),
        "`hessian_lipschitz` is exceeded",
    ),
    "Lipschitz constant of a jump": (
        change(Huber, hessian_lipschitz=lambda self, t: np.full(len(t), 9.0)),
        "`hessian_lipschitz` is exceeded",
    ),
    "majorant too small": (change(Huber, **times(0.9, "majorants", Huber)), "`values` exceeds the majorant"),
    "a bound for all rows": (change(Squared, hessian_bound=lambda self, t: np.ones(1)), "not one number per row"),
    "a mean over the rows": (
        change(Squared, values=lambda self, z, t: 0.5 * (z - t) ** 2 + z.mean()),
        "a row depends on other rows",
    ),
    "an overflow": (
        change(Logistic, values=lambda self, z, t: np.log(1 + np.exp(-t * z)) * (1 + 0 * np.exp(-t * z))),
        "NaN for a large logit.*an overflow",
    ),
    "any label": (change(Squared, targets=lambda self, y, classes: y), "`targets` accepts the label nan"),
    "predictions that are logits": (
        change(SquaredHinge, predictions=LinearLoss.predictions),
        "`predict` is not a class.*derive from BinaryLoss",
    ),
    "unknown word": (change(Squared, provides=frozenset({"gradient", "hessians"})), "`provides` is not known"),
    "weights of the intercept": (
        change(Squared, l2_mask=lambda self, features, classes, intercept: np.ones(features, dtype=bool)),
        "`l2_mask` with an intercept",
    ),
    "weights ignored": (change(Squared, **on(Heavy)), "rows of weight k, compared with k equal rows"),
    "subsets ignored": (change(Squared, **on(Forgetful)), "`subset`, compared with a shard of these rows"),
    "another cache": (change(Squared, **on(Inexact)), "a point made again from `cache` has another"),
    "labels written to": (
        change(Squared, targets=lambda self, y, classes: np.add(Squared.targets(self, y, classes), 0, out=y)),
        "read-only",
    ),
    "an error": (change(Squared, values=lambda self, z, t: z @ "t"), "row by row: .*Error"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_errors_are_found(planted):
    loss, sentence = PLANTED[planted]
    with pytest.raises(CheckFailed, match=f"(?s){sentence}"):
        check_loss(loss)
