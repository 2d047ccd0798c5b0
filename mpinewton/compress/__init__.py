"""Compressors of vectors and symmetric matrices, with their error bounds; chosen as `NAME:key=value`."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from mpinewton.compress.compressor import Compressor, Message
from mpinewton.compress.levels import Bernoulli, Dithering, Natural
from mpinewton.compress.matrices import Eigenpairs, Triangle
from mpinewton.compress.sparse import Identity, Random, Sparsifier, Top
from mpinewton.errors import ConfigError
from mpinewton.settings import parse_choice

__all__ = [
    "COMPRESSORS",
    "Bernoulli",
    "Compressor",
    "Dithering",
    "Eigenpairs",
    "Identity",
    "Message",
    "Natural",
    "Random",
    "Top",
    "Triangle",
    "make_compressor",
]

COMPRESSORS: dict[str, type[Compressor]] = {
    kind.name: kind for kind in (Identity, Random, Top, Eigenpairs, Dithering, Natural, Bernoulli)
}


@lru_cache(maxsize=64)
def make_compressor(text: str, r: int | None = None, matrices: bool = False) -> Compressor:
    """Make a compressor from its name and settings.

    Parameters
    ----------
    text : str
        `NAME` or `NAME:key=value,key=value`, as `dithering:levels=11,norm=max` or `bernoulli:p=0.05,of=random:r=3`.
    r : int or None
        The setting r, for compressors that have one.
    matrices : bool
        Whether it shall compress symmetric matrices (d, d); compressors of vectors then work on the triangle.

    Raises
    ------
    ConfigError
        If there is no such compressor or setting, a value is invalid, or it is a compressor of matrices for vectors.
    """
    head, *inner = re.split("[:,]of=", text, maxsplit=1)
    made = parse_choice(head, COMPRESSORS, "compressor")
    if inner:
        if not isinstance(made, Bernoulli):
            raise ConfigError(f"compressor {made.name} has no setting 'of'; bernoulli has")
        made = replace(made, of=make_compressor(inner[0]))
    if r is not None:
        if not isinstance(made, Sparsifier | Eigenpairs):
            raise ConfigError(f"compressor {made.name} has no setting 'r'; random, top and rank have")
        if re.search("[:,]r=", head):
            raise ConfigError(f"compressor {text}: r is given twice; leave out the setting r = {r}")
        made = replace(made, r=r)
    if matrices and not made.matrices:
        return Triangle(made)
    if made.matrices and not matrices:
        raise ConfigError(f"compressor {made.name} is for symmetric matrices; for vectors use random, top, ...")
    return made
