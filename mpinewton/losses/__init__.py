"""The losses, by name."""

from __future__ import annotations

from mpinewton.catalogue import make_callable
from mpinewton.errors import ConfigError
from mpinewton.extensions import Reference, find_class, verify
from mpinewton.losses.huber import Huber
from mpinewton.losses.linear import BinaryLoss
from mpinewton.losses.logistic import Logistic
from mpinewton.losses.loss import Loss
from mpinewton.losses.mlp import Mlp
from mpinewton.losses.poisson import Poisson
from mpinewton.losses.softmax import Softmax
from mpinewton.losses.softplus import Softplus
from mpinewton.losses.squared import Squared
from mpinewton.losses.torch.settings import TorchModule
from mpinewton.settings import build

__all__ = ["LOSSES", "BinaryLoss", "Loss", "make_loss"]

KINDS = (Logistic, Softmax, Squared, Huber, Poisson, Softplus, Mlp, TorchModule)
LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in KINDS}


def make_loss(named: str | Reference | Loss, sha256: str | None = None) -> Loss:
    """The loss that `NAME` or `NAME:key=value,key=value` asks for, as `huber:delta=1.5`.

    Parameters
    ----------
    named : str, Reference or Loss
        A built-in name, `FILE.py:Class` or `package.module:Class`, settings behind it; or the loss itself.
    sha256 : str, optional
        Digest that the file of an own loss must have.

    Raises
    ------
    ConfigError
        If there is no such loss or setting, a value does not fit, or the file has changed.
    """
    if isinstance(named, Loss):
        return named
    if isinstance(named, Reference):
        return named.build(Loss)  # type: ignore[type-abstract]
    if not isinstance(named, str):
        raise ConfigError(f"loss = {named!r}: expected the name of a loss, or a loss")
    verify(named, sha256)
    kind, settings = find_class(named, Loss, LOSSES | {"ridge": Squared}, "losses")  # type: ignore[type-abstract]
    return build(kind, settings, "loss")


make_callable(__name__)
