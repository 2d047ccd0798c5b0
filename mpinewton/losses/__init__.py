"""The losses, by name."""

from mpinewton.losses.base import Loss
from mpinewton.losses.logistic import Logistic

LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (Logistic,)}
