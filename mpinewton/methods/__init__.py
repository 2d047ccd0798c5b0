"""The methods, by name."""

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
from mpinewton.methods.lbfgs import Lbfgs
from mpinewton.methods.local_newton import AdaptiveLocalNewton, LocalNewton
from mpinewton.methods.newton import Newton
from mpinewton.methods.newton_coefficients import NewtonCoefficients
from mpinewton.methods.newton_zero import NewtonZero
from mpinewton.methods.nl import Nl1, Nl2
from mpinewton.methods.optimisers import Adam, AdamW, Muon, Sgdm
from mpinewton.methods.pisa import Nsisa, Pisa, Sisa
from mpinewton.methods.quantised_bfgs import QuantisedBfgs
from mpinewton.methods.ranl import Ranl
from mpinewton.methods.sgd import LocalSgd, Sgd
from mpinewton.methods.ship_data import ShipData
from mpinewton.methods.star import MaxNewton, NewtonStar
from mpinewton.methods.support.method import AnyMethod, Method, State

ALL: tuple[type[AnyMethod], ...] = (
    Newton, GradientDescent, Lbfgs, Bfgs, Giant, Dino,
    # DINO, LocalNewton and what they are compared with
    Auto, Dingo, Disco, Dane, InexactDane, Aide, LocalNewton, AdaptiveLocalNewton, Sgd, LocalSgd,
    # NEWTON-LEARN and what it is compared with
    NewtonCoefficients, NewtonStar, MaxNewton, NewtonZero, Nl1, Nl2, Cnl, ShipData,
    FedNL, FedNLSearch, FedNLCubic, FedNLPartial, Dcgd, Diana, Adiana, QuantisedBfgs,
    Ranl,
    # PISA and what it is compared with
    Pisa, Sisa, Nsisa, FedAvg, FedProx, FedNova, Scaffold, Sgdm, Adam, AdamW, Muon,
)  # fmt: skip
METHODS: dict[str, type[AnyMethod]] = {method.name: method for method in ALL}

__all__ = ["METHODS", "State", "Method"]
