"""A trained model in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import DataError
from mpinewton.fleet import Plan
from mpinewton.losses import make_loss
from mpinewton.runs.storage import open_sealed, sealed_file

FORMAT = "mpinewton-model/1"


@dataclass(frozen=True)
class Model:
    """Weights and what they mean.

    Attributes
    ----------
    w : array, shape (d,)
    features : int
        Columns of the data, without the intercept.
    classes, class_names : tuples or None
        Labels as numbers, and as words where the source had words.
    scale : str
        The factor that `pack` gave the features; rows to predict get it too.
    """

    w: Array
    loss: str
    l2: float
    features: int
    intercept: bool
    classes: tuple[float, ...] | None
    class_names: tuple[str, ...] | None
    scale: str
    data_sha256: str

    @classmethod
    def of(cls, w: Array, plan: Plan) -> Model:
        m = plan.manifest
        return cls(w, plan.loss, plan.l2, m.features, plan.intercept, m.classes, m.class_names, m.scale, m.data_sha256)

    def predict(self, shard: Shard) -> Array:
        """Labels as numbers, shape (n,).

        Raises
        ------
        DataError
            If the rows have another number of features.
        """
        if shard.features != self.features:
            raise DataError(f"the rows have {shard.features} features, and the model {self.features}")
        # Labels are not needed to predict: any that fit will do.
        fitting = np.full(shard.rows, 0.0 if self.classes is None else self.classes[0])
        rows = Shard(shard.X, fitting)
        return (
            make_loss(self.loss)
            .on_shard(rows.with_intercept() if self.intercept else rows, self.classes)
            .predict(self.w)
        )


def write_model(path: Path, model: Model) -> None:
    """Write a model file, whole or not at all. Raises OSError."""
    shapes = make_loss(model.loss).shapes(model.features + model.intercept, model.classes)
    with sealed_file(path, FORMAT) as file:
        file.create_dataset("w", data=model.w.reshape(shapes[0].sizes) if len(shapes) == 1 else model.w)
        for name in ("loss", "l2", "features", "intercept", "scale", "data_sha256"):
            value = getattr(model, name)
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value + 0  # a bool as a number
        if model.classes is not None:
            file.attrs["classes"] = np.asarray(model.classes)
        if model.class_names is not None:
            file.attrs["class_names"] = np.char.encode(np.asarray(model.class_names), "utf-8")


def read_model(path: Path) -> Model:
    """Read a model file. Raises DataError where it is none."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the model file, as {path / 'model.h5'}")
    with open_sealed(path, FORMAT) as file:
        a: dict[str, Any] = {k: v.decode() if isinstance(v, bytes) else v for k, v in file.attrs.items()}
        w = file["w"][()].ravel()
    classes = tuple(a["classes"].tolist()) if "classes" in a else None
    names = tuple(name.decode() for name in a["class_names"]) if "class_names" in a else None
    return Model(
        w,
        a["loss"],
        float(a["l2"]),
        int(a["features"]),
        bool(a["intercept"]),
        classes,
        names,
        a["scale"],
        a["data_sha256"],
    )
