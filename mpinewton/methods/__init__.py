"""The methods, by name."""

from mpinewton.methods.base import Iterate, Method
from mpinewton.methods.dino import Dino
from mpinewton.methods.federated import FedAvg, FedNova, FedProx, Scaffold
from mpinewton.methods.giant import Giant
from mpinewton.methods.gradient_descent import GradientDescent
from mpinewton.methods.lbfgs import Lbfgs
from mpinewton.methods.newton import Newton
from mpinewton.methods.optimisers import Adam, AdamW, Muon, Sgdm
from mpinewton.methods.pisa import Nsisa, Pisa, Sisa

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Newton, Giant, Dino, Lbfgs, GradientDescent,
        Pisa, Sisa, Nsisa, FedAvg, FedProx, FedNova, Scaffold, Sgdm, Adam, AdamW, Muon,
    )
}  # fmt: skip

__all__ = ["METHODS", "Iterate", "Method"]
