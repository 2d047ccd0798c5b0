"""Compressors: few bits for a vector or a symmetric matrix, with what they promise. By name, `NAME:key=value`."""

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
    """The compressor of vectors, or of symmetric matrices, that `text` asks for, as `dithering:levels=11,norm=max`.

    `bernoulli:p=0.05,of=random:r=3` puts the coin around another. `r`, where given, is the setting of that name.

    Raises
    ------
    ConfigError
        If there is no such compressor or setting, a value does not fit, or it is not one for vectors.
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
        made = replace(made, r=r)
    if matrices and not made.matrices:
        return Triangle(made)
    if made.matrices and not matrices:
        raise ConfigError(f"compressor {made.name} is for symmetric matrices; vectors need random, top, dithering, ...")
    return made
