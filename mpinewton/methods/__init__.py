"""The methods, by family and by name. The module of a method is imported when the method is asked for."""

from typing import NamedTuple

from mpinewton.catalogue import Classes, make_callable
from mpinewton.methods.support.method import Algorithm, Method, Rule, State


class Family(NamedTuple):
    """Methods that belong together, and the problems that they suit. `places`: their modules and classes, by name."""

    name: str
    suits: str
    places: dict[str, str]


FAMILIES = (
    Family("Newton", "convex losses; `newton-cg`, and `giant` with `negative=abs`, for any", {
        "newton": "newton:Newton", "newton-cg": "newton_cg:NewtonCG", "newton-zero": "newton_zero:NewtonZero",
        "giant": "giant:Giant", "disco": "disco:Disco", "dane": "dane:Dane", "inexact-dane": "dane:InexactDane",
        "aide": "dane:Aide"}),
    Family("DINO (Crane and Roosta 2020)", "any smooth loss, any partition of the rows", {
        "dino": "dino:Dino", "dingo": "dingo:Dingo"}),
    Family("LocalNewton (Gupta et al. 2021)", "convex losses, rows in random order, few rounds", {
        "local-newton": "local_newton:LocalNewton", "adaptive-local-newton": "local_newton:AdaptiveLocalNewton",
        "local-sgd": "sgd:LocalSgd"}),
    Family("NEWTON-LEARN (Islamov, Qian and Richtarik 2021) and FedNL", "convex losses, few bits", {
        "nl1": "nl:Nl1", "nl2": "nl:Nl2", "cnl": "cnl:Cnl", "newton-star": "star:NewtonStar",
        "max-newton": "star:MaxNewton", "newton-coefficients": "newton_coefficients:NewtonCoefficients",
        "fednl": "fednl:FedNL", "fednl-ls": "fednl:FedNLSearch", "fednl-cr": "fednl:FedNLCubic",
        "fednl-pp": "fednl_pp:FedNLPartial"}),
    Family("RANL", "workers of different speed", {"ranl": "ranl:Ranl"}),
    Family("PISA", "minibatches, skewed labels, neural networks", {
        "pisa": "pisa:Pisa", "sisa": "pisa:Sisa", "nsisa": "pisa:Nsisa", "fedavg": "federated:FedAvg",
        "fedprox": "federated:FedProx", "fednova": "federated:FedNova", "scaffold": "federated:Scaffold",
        "sgdm": "optimisers:Sgdm", "adam": "optimisers:Adam", "adamw": "optimisers:AdamW", "muon": "optimisers:Muon"}),
    Family("quasi-Newton and first order", "any smooth loss", {
        "lbfgs": "lbfgs:Lbfgs", "bfgs": "bfgs:Bfgs", "gradient-descent": "gradient_descent:GradientDescent",
        "sgd": "sgd:Sgd", "dcgd": "compressed_gradients:Dcgd", "diana": "compressed_gradients:Diana",
        "adiana": "compressed_gradients:Adiana"}),
    Family("ours", "a rule that chooses; few Hessians; few rounds and bits; fewest bits up; centralised baseline", {
        "auto": "auto:Auto", "lazy-newton": "lazy_newton:LazyNewton",
        "preconditioned-lbfgs": "preconditioned_lbfgs:PreconditionedLbfgs",
        "quantised-bfgs": "quantised_bfgs:QuantisedBfgs", "ship-data": "ship_data:ShipData"}),
)  # fmt: skip
METHODS: Classes[Algorithm] = Classes(
    __name__, {name: place for family in FAMILIES for name, place in family.places.items()}
)

__all__ = ["FAMILIES", "METHODS", "Algorithm", "Method", "Rule", "State"]

make_callable(__name__)
