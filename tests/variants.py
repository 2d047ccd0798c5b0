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
    "dino-adaptive": Variant("dino", {"solver": "lanczos", "adaptive": True}, 5000, monotone=True),
    "giant-exact": Variant("giant", {"solver": "exact"}, 5000),
    "dingo": Variant("dingo", {}, 500),
    "disco": Variant("disco", {}, 60, monotone=True),
    # Without a search it goes to and fro where the curvature is 0 beyond a threshold.
    "disco-published": Variant(
        "disco", {"step_rule": "damped", "forcing": False, "negative": "stop"}, 500, not_on=("huber",)
    ),
    "disco-preconditioned": Variant("disco", {"mu": 0.1}, 60, monotone=True),
    # Nothing keeps these three from rising: shards unlike in curvatures that grow with exp(z) make them.
    "dane": Variant("dane", {"mu": 0.1}, 500, not_on=("poisson",), gap=1e-4),
    "inexact-dane": Variant("inexact-dane", {"step_size": 0.05, "mu": 0.5}, 30, not_on=("poisson",), gap=0.2),
    "aide": Variant("aide", {"step_size": 0.05}, 30, not_on=("poisson",), gap=0.2),
    "local-newton": Variant("local-newton", {}, 50, gap=0.1),
    "local-newton-cg": Variant("local-newton", {"solver": "cg", "local_steps": 1}, 50, gap=0.1),
    "adaptive-local-newton": Variant("adaptive-local-newton", {}, 5000),
    "adaptive-local-newton-at-once": Variant("adaptive-local-newton", {"check": "at_once"}, 5000),
    "adaptive-local-newton-multi": Variant("adaptive-local-newton", {"check": "multi"}, 5000),
    "sgd": Variant("sgd", {"step_size": 0.1}, 300, gap=0.1),
    "local-sgd": Variant("local-sgd", {"step_size": 1.0}, 40, not_on=("poisson",), gap=0.2),
    "auto": Variant("auto", {}, 200, monotone=True),
    "gradient-descent": Variant("gradient-descent", {}, 2000, monotone=True),
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
