"""Every method, and the settings that make another method of it, with what the zoo may expect of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from mpinewton.methods import Method
from mpinewton.methods.settings import make_method
from mpinewton.testing.method_checks import Expected


class Variant(NamedTuple):
    """A method with settings, and what may be expected of it; see `mpinewton.testing.method_checks.Expected`.

    At an entry with `not_on` or `gap` a comment says why.
    """

    method: str
    settings: dict[str, Any]
    limit: int
    not_on: tuple[str, ...] = ()
    gap: float = 0.0
    monotone: bool = False
    warm_up: int = 0

    def made(self) -> Method:
        return make_method(self.method, self.settings)

    @property
    def expected(self) -> Expected:
        return Expected(self.limit, self.gap, self.not_on, self.monotone, self.warm_up)


VARIANTS = {
    "newton": Variant("newton", {}, 30),
    "lazy-newton": Variant("lazy-newton", {}, 60, monotone=True, warm_up=3),
    "lazy-newton-coded": Variant("lazy-newton", {"levels": 2**14, "refresh": 0.6}, 60, monotone=True, warm_up=3),
    "lazy-newton-sample": Variant("lazy-newton", {"sample": 0.5}, 60, monotone=True, warm_up=3),
    "newton-cg": Variant("newton-cg", {}, 60, monotone=True),
    "newton-cg-none": Variant("newton-cg", {"preconditioner": "none"}, 200, monotone=True),
    "newton-cg-model": Variant("newton-cg", {"forcing": "model"}, 200, monotone=True),
    # Steps of 1 without a search go to and fro where the curvature is 0 beyond a threshold.
    "newton-naive": Variant("newton", {"search": None}, 30, not_on=("huber",)),
    "giant": Variant("giant", {}, 5000),
    "giant-abs": Variant("giant", {"negative": "abs"}, 5000, monotone=True),
    "giant-truncate": Variant("giant", {"negative": "truncate"}, 5000, monotone=True),
    "dino": Variant("dino", {}, 5000, monotone=True),
    "dino-lanczos": Variant("dino", {"solver": "lanczos"}, 5000, monotone=True),
    "lbfgs": Variant("lbfgs", {}, 200, monotone=True, warm_up=1),
    "lbfgs-search": Variant("lbfgs", {"trial": "search"}, 200, monotone=True),
    "quantised-bfgs": Variant("quantised-bfgs", {}, 300),
    "dino-adaptive": Variant("dino", {"solver": "lanczos", "adaptive": True}, 5000, monotone=True),
    "dino-adaptive-max": Variant("dino", {"adaptive": True, "size": "max"}, 5000, monotone=True),
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
    "auto": Variant("auto", {}, 0),
    "auto-rounds": Variant("auto", {"goal": "rounds"}, 0),
    "auto-bits": Variant("auto", {"goal": "bits"}, 0),
    "preconditioned-lbfgs": Variant("preconditioned-lbfgs", {}, 200, monotone=True, warm_up=3),
    "preconditioned-lbfgs-1": Variant("preconditioned-lbfgs", {"likely": 1}, 200, monotone=True),
    "gradient-descent": Variant("gradient-descent", {}, 2000, monotone=True),
    "newton-coefficients": Variant("newton-coefficients", {}, 30, not_on=("huber",)),
    "newton-coefficients-known": Variant("newton-coefficients", {"option": 2}, 30, not_on=("huber",)),
    "newton-coefficients-dense": Variant("newton-coefficients", {"rows": "dense"}, 30, not_on=("huber",)),
    # Rows whose curvature is 0 at the optimum and not on the way there make beta infinite.
    "max-newton": Variant("max-newton", {}, 500, not_on=("huber",)),
    "newton-star": Variant("newton-star", {}, 200),
    # Local methods, started too far away: without a search they go where exp overflows, or to and fro.
    "newton-zero": Variant("newton-zero", {}, 1000, not_on=("huber", "poisson")),
    "newton-zero-quarter": Variant("newton-zero", {"h0": "quarter"}, 5000),
    "newton-zero-search": Variant("newton-zero", {"search": {}}, 1000),
    "nl1": Variant("nl1", {}, 3000),
    "nl1-exact": Variant("nl1", {"h0": "exact", "r": 5}, 2000, not_on=("huber", "poisson")),
    "nl1-exact-search": Variant("nl1", {"h0": "exact", "r": 5, "search": {}}, 2000),
    "nl1-top": Variant("nl1", {"choice": "top", "search": {}}, 1000),
    "nl1-coin": Variant("nl1", {"r": 5, "p": 0.3, "eta": 0.005, "rows": "dense"}, 5000),
    "nl1-fresh": Variant("nl1", {"r": 5, "option": 2, "fresh": True, "search": {}}, 1000),
    "nl2": Variant("nl2", {"r": 5}, 3000),
    "nl2-top": Variant("nl2", {"choice": "top", "r": 5, "h0": "exact", "eta": 0.5, "option": 2}, 3000),
    "cnl": Variant("cnl", {"r": 5}, 3000, monotone=True),
    "cnl-radius": Variant("cnl", {"r": 5, "M": "radius", "h0": "exact"}, 3000, monotone=True),
    "cnl-adaptive": Variant("cnl", {"r": 5, "M": "adaptive", "p": 0.5}, 3000, monotone=True),
    "ship-data": Variant("ship-data", {}, 30),
    # Local methods without a safeguard, started too far away.
    "fednl": Variant("fednl", {}, 300, not_on=("huber", "poisson")),
    "fednl-dithering": Variant("fednl", {"compressor": "dithering", "alpha": 0.3}, 300, not_on=("huber", "poisson")),
    "fednl-2": Variant("fednl", {"option": 2, "hessian_start": "zero"}, 500),
    "fednl-ls": Variant("fednl-ls", {}, 300, monotone=True),
    "fednl-ls-formed": Variant("fednl-ls", {"products": 0, "r": 2}, 300, monotone=True),
    "fednl-ls-exact": Variant("fednl-ls", {"hessian_start": "exact", "r": 2}, 300, monotone=True),
    "fednl-ls-top": Variant("fednl-ls", {"compressor": "top", "r": 6}, 300, monotone=True),
    "fednl-ls-32": Variant("fednl-ls", {"compressor": "rank:word=32"}, 300, monotone=True),
    "fednl-cr": Variant("fednl-cr", {}, 2000, monotone=True),
    "fednl-cr-zero": Variant("fednl-cr", {"hessian_start": "zero", "r": 2}, 2000, monotone=True),
    "fednl-pp": Variant("fednl-pp", {}, 1000),
    "fednl-pp-zero": Variant("fednl-pp", {"hessian_start": "zero", "tau": 1}, 2000),
    # What a constant step and noise leave; and linear rates in the condition of the problem.
    "dcgd": Variant("dcgd", {}, 500, gap=0.1),
    "diana": Variant("diana", {}, 3000, gap=1e-4),
    "diana-dithering": Variant(
        "diana", {"compressor": "dithering", "smoothness": 3.0}, 1000, gap=1e-2, not_on=("poisson",)
    ),
    "adiana": Variant("adiana", {}, 2000, gap=1e-4),
    "bfgs": Variant("bfgs", {}, 200, monotone=True, warm_up=1),
    "bfgs-exact": Variant("bfgs", {"hessian_start": "exact"}, 200, monotone=True),
    "bfgs-bound": Variant("bfgs", {"hessian_start": "bound"}, 200, monotone=True),
    "bfgs-naive": Variant("bfgs", {"hessian_start": "exact", "search": None}, 200, not_on=("huber", "poisson")),
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
    # As local as newton-zero.
    "ranl": Variant("ranl", {}, 500, not_on=("huber", "poisson")),
    "ranl-full": Variant("ranl", {"policy": "full"}, 500, not_on=("huber", "poisson")),
    "ranl-round-robin": Variant("ranl", {"policy": "round-robin"}, 500, not_on=("huber", "poisson")),
    "ranl-groups": Variant(
        "ranl",
        {"policy": "round-robin", "split": "features", "groups": "1,2,3"},
        500,
        not_on=("huber", "poisson"),
    ),
    "ranl-resources": Variant("ranl", {"policy": "resources", "budget": "18,9"}, 500, not_on=("huber", "poisson")),
    "ranl-short-steps": Variant("ranl", {"step_size": 0.5}, 500, not_on=("huber", "poisson")),
}


SLOW = ("aide", "inexact-dane", "local-sgd", "sgd", "adaptive-local-newton", "dingo")  # inner loops in Python


def marks(variant: str) -> list[pytest.MarkDecorator]:
    """The marker slow for all but one variant of each method, which has its name, and for methods that take long."""
    return [] if variant == VARIANTS[variant].method and variant not in SLOW else [pytest.mark.slow]
