"""The columns of a table, the features that they become, and what of the training data is needed to read other rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Missing = Literal["error", "mean", "indicator"]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of features.

    Attributes
    ----------
    name : str
        From the header; "column N", counted from 1, if the table has none.
    kind : {"number", "category"}
    categories : tuple of str or None
        The words of a category column, sorted. Each is a feature that is 1 in the rows with this word, else 0.
    fill : float or None
        Value of a number that is missing: the mean of the training data. A missing word is 0 in every feature.
    indicator : bool
        The last feature of this column is 1 where the value is missing, else 0.
    """

    name: str
    kind: Literal["number", "category"] = "number"
    categories: tuple[str, ...] | None = None
    fill: float | None = None
    indicator: bool = False

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The name of a number; "column=word" for each category; "column missing" for the indicator."""
        own = (self.name,) if self.categories is None else tuple(f"{self.name}={word}" for word in self.categories)
        return (*own, f"{self.name} missing") if self.indicator else own


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns of features of a table, in the order of the features.

    Attributes
    ----------
    columns : tuple of Column
    named : bool
        The names are from a header (or from Parquet): columns of other tables are matched by name, else by position.
    missing : {"error", "mean", "indicator"}
        How missing values are read.
    """

    columns: tuple[Column, ...]
    named: bool = True
    missing: Missing = "error"

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name for each feature."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @property
    def numbers(self) -> NDArray[np.bool_]:
        """Which features are numbers of the source, rather than 0 or 1 for categories and missing values."""
        return np.array([column.kind == "number" and name == column.name for column in self.columns
                         for name in column.feature_names], dtype=bool)  # fmt: skip


@dataclass(frozen=True)
class Schema:
    """What of the training data is needed to read other rows alike; every manifest and model has one.

    Attributes
    ----------
    features : int or None
        Number of features; None: any.
    class_names : tuple of str or None
        Names of the classes 0, 1, ...; (): the labels are numbers; None: any.
    scale : str
        Factor of all features, as given to `mpinewton pack`.
    columns : Columns or None
        None if the training data were no table.
    label_name : str or None
        Name of the label column; its number, counted from 1, in a table without header.
    shift, factor : tuple of float, shape (features,), or None
        Features are read as (x - shift) * factor; shift None: sparse rows, x * factor.
    """

    features: int | None = None
    class_names: tuple[str, ...] | None = None
    scale: str = "1"
    columns: Columns | None = None
    label_name: str | None = None
    shift: tuple[float, ...] | None = None
    factor: tuple[float, ...] | None = None


ANY = Schema()  # no training data: any features and labels
