"""Every method, and the settings that make another method of it, with what the zoo may expect of each."""

from __future__ import annotations

from typing import Any, NamedTuple

from problems import ZOO, Problem

from mpinewton.errors import ConfigError
from mpinewton.methods import Method
from mpinewton.methods.settings import make_method


class Variant(NamedTuple):
    """A method with settings, and how far it gets on the problems of the zoo.

    limit : iterations it may take.
    not_on : losses on which it need not arrive; a comment at the entry says why.
    gap : where a method is not made to arrive exactly, the part of P(start) - P* that it may leave; else |g| <= 1e-8.
    monotone : whether no iterate of it lies above the one before, convex or not.
    """

    method: str
    settings: dict[str, Any]
    limit: int
    not_on: tuple[str, ...] = ()
    gap: float = 0.0
    monotone: bool = False

    def made(self) -> Method:
        return make_method(self.method, self.settings)

    def fits(self, problem: Problem) -> bool:
        """Whether the method takes such a loss at all."""
        try:
            self.made().fit_loss(problem.loss)
        except ConfigError:
            return False
        return True


VARIANTS = {
    "newton": Variant("newton", {}, 30),
    # Steps of 1 without a search go to and fro where the curvature is 0 beyond a threshold.
    "newton-naive": Variant("newton", {"search": None}, 30, not_on=("huber",)),
    "giant": Variant("giant", {}, 5000),
    "giant-abs": Variant("giant", {"negative": "abs"}, 5000, monotone=True),
    "giant-truncate": Variant("giant", {"negative": "truncate"}, 5000, monotone=True),
    "dino": Variant("dino", {}, 5000, monotone=True),
    "dino-lanczos": Variant("dino", {"solver": "lanczos"}, 5000, monotone=True),
    "lbfgs": Variant("lbfgs", {}, 200, monotone=True),
    "gradient-descent": Variant("gradient-descent", {}, 2000, monotone=True),
    # As it is, sigma grows until the steps are spent: far enough for most of the way.
    "pisa": Variant("pisa", {}, 100, gap=0.02),
    "pisa-hessian": Variant("pisa", {"preconditioner": "hessian", "sigma": 1.0, "gamma": 1.0}, 500, gap=1e-4),
    "sisa": Variant("sisa", {}, 100, gap=0.05),
    "sisa-steady": Variant("sisa", {"gamma": 1.0, "rho": 10.0}, 500, gap=1e-3),
    "nsisa": Variant("nsisa", {}, 100, gap=0.05),
    # The workers' own optima draw it away from the common one, the less the smaller lr is.
    "fedavg": Variant("fedavg", {"lr": 0.05, "momentum": 0.5}, 300, gap=0.15),
    "fedprox": Variant("fedprox", {"lr": 0.05, "momentum": 0.5, "mu": 0.1}, 300, gap=0.15),
    "fednova": Variant("fednova", {"lr": 0.05, "momentum": 0.5}, 300, gap=0.15),
    "scaffold": Variant("scaffold", {"batch": None, "epochs": 2}, 300, gap=0.05),
    "sgdm": Variant("sgdm", {}, 500, gap=1e-6),
    "adam": Variant("adam", {"lr": 0.05}, 200, gap=0.01),
    "adamw": Variant("adamw", {"lr": 0.05, "weight_decay": 1e-4}, 200, gap=0.01),
    "muon": Variant("muon", {"other_lr": 0.05}, 200, gap=0.01),
}


def pairs(convex: bool, **wanted: Any) -> list[tuple[str, str]]:
    """Names of variants and problems that go together, of variants with the wanted attributes."""
    return [
        (variant, name)
        for variant, v in VARIANTS.items()
        for name, problem in ZOO.items()
        if problem.loss.convex is convex and problem.loss.name not in v.not_on and v.fits(problem)
        if all(getattr(v, attribute) == value for attribute, value in wanted.items())
    ]
