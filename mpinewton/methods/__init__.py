"""The methods, by family and by name."""

from typing import NamedTuple

from mpinewton.catalogue import make_callable
from mpinewton.methods.auto import Auto
from mpinewton.methods.bfgs import Bfgs
from mpinewton.methods.cnl import Cnl
from mpinewton.methods.compressed_gradients import Adiana, Dcgd, Diana
from mpinewton.methods.dane import Aide, Dane, InexactDane
from mpinewton.methods.dingo import Dingo
from mpinewton.methods.dino import Dino
from mpinewton.methods.disco import Disco
from mpinewton.methods.federated import FedAvg, FedNova, FedProx, Scaffold
from mpinewton.methods.fednl import FedNL, FedNLCubic, FedNLSearch
from mpinewton.methods.fednl_pp import FedNLPartial
from mpinewton.methods.giant import Giant
from mpinewton.methods.gradient_descent import GradientDescent
from mpinewton.methods.lazy_newton import LazyNewton
from mpinewton.methods.lbfgs import Lbfgs
from mpinewton.methods.local_newton import AdaptiveLocalNewton, LocalNewton
from mpinewton.methods.newton import Newton
from mpinewton.methods.newton_cg import NewtonCG
from mpinewton.methods.newton_coefficients import NewtonCoefficients
from mpinewton.methods.newton_zero import NewtonZero
from mpinewton.methods.nl import Nl1, Nl2
from mpinewton.methods.optimisers import Adam, AdamW, Muon, Sgdm
from mpinewton.methods.pisa import Nsisa, Pisa, Sisa
from mpinewton.methods.preconditioned_lbfgs import PreconditionedLbfgs
from mpinewton.methods.quantised_bfgs import QuantisedBfgs
from mpinewton.methods.ranl import Ranl
from mpinewton.methods.sgd import LocalSgd, Sgd
from mpinewton.methods.ship_data import ShipData
from mpinewton.methods.star import MaxNewton, NewtonStar
from mpinewton.methods.support.method import Algorithm, Method, Rule, State


class Family(NamedTuple):
    """Methods that belong together, and the problems that they suit."""

    name: str
    suits: str
    methods: tuple[type[Algorithm], ...]


FAMILIES = (
    Family("Newton", "convex losses; `newton-cg`, and `giant` with `negative=abs`, for any", (
        Newton, NewtonCG, NewtonZero, Giant, Disco, Dane, InexactDane, Aide)),
    Family("DINO (Crane and Roosta 2020)", "any smooth loss, any partition of the rows", (Dino, Dingo)),
    Family("LocalNewton (Gupta et al. 2021)", "convex losses, rows in random order, few rounds", (
        LocalNewton, AdaptiveLocalNewton, LocalSgd)),
    Family("NEWTON-LEARN (Islamov, Qian and Richtarik 2021) and FedNL", "convex losses, few bits", (
        Nl1, Nl2, Cnl, NewtonStar, MaxNewton, NewtonCoefficients, FedNL, FedNLSearch, FedNLCubic, FedNLPartial)),
    Family("RANL", "workers of different speed", (Ranl,)),
    Family("PISA", "minibatches, skewed labels, neural networks", (
        Pisa, Sisa, Nsisa, FedAvg, FedProx, FedNova, Scaffold, Sgdm, Adam, AdamW, Muon)),
    Family("quasi-Newton and first order", "any smooth loss", (
        Lbfgs, Bfgs, GradientDescent, Sgd, Dcgd, Diana, Adiana)),
    Family("ours", "a rule that chooses; few Hessians; few rounds and bits; fewest bits up; centralised baseline", (
        Auto, LazyNewton, PreconditionedLbfgs, QuantisedBfgs, ShipData)),
)  # fmt: skip
METHODS: dict[str, type[Algorithm]] = {method.name: method for family in FAMILIES for method in family.methods}

__all__ = ["FAMILIES", "METHODS", "Algorithm", "Method", "Rule", "State"]

make_callable(__name__)
