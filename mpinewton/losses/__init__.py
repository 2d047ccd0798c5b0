"""The losses, by name."""

from __future__ import annotations

import dataclasses
import inspect

from mpinewton.losses.huber import Huber
from mpinewton.losses.logistic import Logistic
from mpinewton.losses.loss import Loss
from mpinewton.losses.mlp import Mlp
from mpinewton.losses.poisson import Poisson
from mpinewton.losses.softmax import Softmax
from mpinewton.losses.softplus import Softplus
from mpinewton.losses.squared import Squared
from mpinewton.losses.torch.settings import TorchModule
from mpinewton.settings import parse_choice

__all__ = ["LOSSES", "Loss", "describe", "make_loss"]

KINDS = (Logistic, Softmax, Squared, Huber, Poisson, Softplus, Mlp, TorchModule)
LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in KINDS}


def make_loss(text: str) -> Loss:
    """The loss that `NAME` or `NAME:key=value,key=value` asks for, as `huber:delta=1.5`.

    Raises
    ------
    ConfigError
        If there is no such loss or setting, or a value does not fit.
    """
    return parse_choice(text, LOSSES | {"ridge": Squared}, "loss")


def describe() -> list[str]:
    """A table of the losses, line by line: name with settings, formula, convex or not, what methods may ask for."""
    rows = [("LOSS", "FORMULA, z = X w", "CONVEX", "PROVIDES")]
    for name, loss in LOSSES.items():
        settings = ",".join(f"{field.name}={field.default}".lower() for field in dataclasses.fields(loss))
        formula = (inspect.getdoc(loss) or "").partition("\n")[0].rstrip(".")
        title = f"{name}:{settings}" if settings else name
        rows.append((title, formula, "yes" if loss.convex else "no", " ".join(sorted(loss.provides))))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]) for row in rows]
