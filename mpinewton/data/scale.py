"""The factor of the features, `--scale`: a number such as 0.5 or a fraction such as 1/255."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np

from mpinewton.errors import ConfigError


def factor(scale: str) -> Fraction:
    """The positive number in a text. Raises ConfigError if there is none."""
    if not re.fullmatch(r"[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,2}|/[0-9]{1,20})?", scale.strip()):
        raise ConfigError(f"--scale {scale}: expected a positive number such as 0.5 or a fraction such as 1/16")
    try:
        ratio = Fraction(scale)
    except (ValueError, ZeroDivisionError):
        ratio = Fraction(0)
    if not ratio:
        raise ConfigError(f"--scale {scale}: expected a positive number such as 0.5 or a fraction such as 1/16")
    return ratio


def multiply(X: Any, ratio: Fraction) -> Any:
    """Features, dense or sparse, times the factor, in float64. The division is last: 1/255 gives exactly x / 255."""
    X = X.astype(np.float64, copy=False)
    return X if ratio == 1 else X * float(ratio.numerator) / float(ratio.denominator)
