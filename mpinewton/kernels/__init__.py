"""Loops over the rows of one shard: compiled, or their twins in numpy and scipy where the package has no compiled ones.

The choice is made when this package is imported. Compiled loops use the best instruction set of the processor, which
changes no bit. The environment variable `MPINEWTON_KERNELS` chooses otherwise: `numpy` for the twins; `baseline`,
`avx2` or `avx512` for an instruction set.

Attributes
----------
NAME : str
    What runs: "compiled" or "numpy".
LEVEL : str
    The instruction set of the compiled loops; empty for numpy.
SparseRows : type
    Products with the rows of a sparse matrix.
Group : type or None
    The rows of several shards, with a loss on each; None for numpy.
readers : module or None
    Readers of numbers in text; None for numpy.
gram : function
    X'diag(h)X for dense rows.
ritz : function
    The Rayleigh-Ritz method, on one matrix or many.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError
from mpinewton.kernels import twins

VARIABLE = "MPINEWTON_KERNELS"
LEVELS = ("baseline", "avx2", "avx512")


class Kernel(NamedTuple):
    """How the compiled loops know a loss.

    Attributes
    ----------
    name : str
        One of logistic, softmax, squared, huber, poisson, softplus.
    parameter : float
        delta of huber, the logit from which poisson is a polynomial, 1 for softmax without a last column.
    constants : array, shape (n,), or None
        Added to the values of the rows.
    """

    name: str
    parameter: float = 0.0
    constants: Array | None = None


def _choose(asked: str) -> tuple[str, str, Any]:
    if asked not in ("", "numpy", *LEVELS):
        raise ConfigError(f"{VARIABLE} = {asked!r}: choose from: numpy, {', '.join(LEVELS)}")
    if asked == "numpy":
        return "numpy", "", twins
    try:
        from mpinewton.kernels import compiled
    except ImportError:
        if asked:
            raise ConfigError(f"{VARIABLE} = {asked!r}: this installation has no compiled kernels") from None
        return "numpy", "", twins
    try:
        return "compiled", compiled.use_level(asked or None), compiled
    except ValueError as error:
        raise ConfigError(f"{VARIABLE} = {asked!r}: {error}") from None


NAME, LEVEL, _chosen = _choose(os.environ.get(VARIABLE, ""))
SparseRows, Group, readers = _chosen.SparseRows, _chosen.Group, _chosen.readers
gram, ritz = _chosen.gram, _chosen.ritz


def formula(kernel: Kernel | None, outputs: int, t: Any, weight: Array | float) -> Any:
    """The `compiled.Formula` of a loss on the rows, with labels t and weights; None if the loops do not know the loss.

    Parameters
    ----------
    kernel : Kernel or None
    outputs : int
        Logits of a row.
    t : array, shape (n,)
        Labels in the form that the loss uses.
    weight : array, shape (n,), or float
        Weights of the rows in the mean.
    """
    if NAME == "numpy" or kernel is None or (outputs != 1 and kernel.name != "softmax"):
        return None
    return _chosen.Formula(kernel, outputs, t, weight)
