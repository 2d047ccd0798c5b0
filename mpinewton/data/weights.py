"""Weights of rows: factors of classes, and a sum that is a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mpinewton.arrays import Array
from mpinewton.data.spool import Spool
from mpinewton.errors import ConfigError, DataError, did_you_mean


def weigh(
    rows: Spool, y: Array, classes: Sequence[float] | None, names: Sequence[str] | None, class_weight: str | None
) -> Spool:
    """The rows with their weights multiplied by the factors of their classes.

    Parameters
    ----------
    class_weight : str or None
        As for `mpinewton.data.pack.pack`.

    Raises
    ------
    ConfigError
        If the text is not valid, or labels are real numbers.
    DataError
        If the sum of the weights overflows.
    """
    if class_weight is not None:
        if classes is None:
            raise ConfigError("--class-weight: the labels are real numbers, not classes")
        weight = np.array(rows.array("weight")) if rows.weighted else np.ones(rows.rows)
        number = np.searchsorted(classes, y)
        labels = list(names) if names is not None else [f"{label:g}" for label in classes]
        if class_weight == "balanced":
            total = np.bincount(number, weight, len(labels))
            factors = total.sum() / (len(labels) * np.where(total > 0, total, 1.0))
        else:
            factors = _factors(class_weight, labels)
        (weight * factors[number]).tofile(f"{rows.prefix}.weight")
        rows = replace(rows, weighted=True)
    if rows.weighted:
        with np.errstate(over="ignore"):
            total = np.sum(rows.array("weight"))
        if not np.isfinite(total):
            raise DataError("the sum of the weights overflows; divide all weights by a number")
    return rows


def _factors(text: str, labels: list[str]) -> Array:
    factors = np.ones(len(labels))
    for item in text.split(","):
        label, _, factor = item.rpartition("=")
        if label.strip() not in labels:
            raise ConfigError(
                f"--class-weight {text}: expected balanced or label=factor,...; {label.strip()!r} is not a label"
                f"{did_you_mean(label.strip(), labels)}"
            )
        try:
            number = float(factor)
        except ValueError:
            number = np.nan
        if not 0 <= number < np.inf:
            raise ConfigError(f"--class-weight {text}: {factor!r} is not a finite number of at least 0")
        factors[labels.index(label.strip())] = number
    return factors
