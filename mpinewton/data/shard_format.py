"""What a shard says of itself: its header, the types of its content, and the digest of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpinewton.data.manifest import digest_of

FORMAT = "mpinewton-shard/2"
FIRST_FORMAT = "mpinewton-shard/1"  # types of the content alone, and `indptr` in place of `counts`
# Types of the content of data sets other than the features. Files hold it in the smallest type that is exact; entries
# of a row, `counts`, stand for the starts of the rows, the content `indptr`.
CONTENT = {"indices": "int32", "indptr": "int64", "counts": "int32", "y": "float64", "weight": "float64"}


@dataclass(frozen=True)
class Header:
    """Attributes of a shard: `classes` as in the manifest, `dtype` of the features, and their `scale`.

    The features must be multiplied by `scale` when they are read; it is "1" for floats, which are stored multiplied.
    """

    rows: int
    features: int
    classes: tuple[float, ...] | None
    dtype: str
    source: str
    scale: str = "1"

    def content(self, name: str) -> str:
        """Type of the content of a data set."""
        return CONTENT.get(name, self.dtype)


def content_digest(header: Header, digests: Mapping[str, str]) -> str:
    """Digest of a shard, from the digests of the contents `X`, or `data`, `indices` and `indptr`; `y`, `weight`.

    It depends neither on the types in which a file holds them nor on compression.
    """
    parts = [str(header.rows), str(header.features), header.dtype]
    parts += [f"scale {header.scale}"] if header.dtype == "uint8" else []
    named = {"indptr" if name == "counts" else name: digest for name, digest in digests.items()}
    return digest_of(parts + [f"{name} {named[name]}" for name in sorted(named)])
