"""The methods, by name."""

from mpinewton.methods.auto import Auto
from mpinewton.methods.base import Iterate, Method
from mpinewton.methods.dane import Aide, Dane, InexactDane
from mpinewton.methods.dingo import Dingo
from mpinewton.methods.dino import Dino
from mpinewton.methods.disco import Disco
from mpinewton.methods.giant import Giant
from mpinewton.methods.gradient_descent import GradientDescent
from mpinewton.methods.lbfgs import Lbfgs
from mpinewton.methods.local_newton import AdaptiveLocalNewton, LocalNewton
from mpinewton.methods.newton import Newton
from mpinewton.methods.sgd import LocalSgd, Sgd

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Newton, Giant, Dino, Lbfgs, GradientDescent,
        Dingo, Disco, Dane, InexactDane, Aide, LocalNewton, AdaptiveLocalNewton, Sgd, LocalSgd, Auto,
    )
}  # fmt: skip

__all__ = ["METHODS", "Iterate", "Method"]
