"""Model files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import DataError
from mpinewton.fleet import Plan
from mpinewton.losses import Loss, make_loss
from mpinewton.runs.storage import open_sealed, sealed_file

FORMAT = "mpinewton-model/1"


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes
    ----------
    w : array, shape (d,)
        Weights.
    loss : str
        The loss with its settings, such as "huber:delta=1.5".
    l2 : float
    features : int
        Number of features of the data, without the intercept.
    intercept : bool
    classes : tuple of float or None
        The labels of a classification, in ascending order.
    class_names : tuple of str or None
        The labels as words, if the source had words.
    scale : str
        Factor of the features, as given to `mpinewton pack`.
    data_sha256 : str
        Digest of the training data.
    loss_sha256 : str
        Digest of the file of the user's own loss; "" for a built-in one. Another file is refused.
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
    loss_sha256: str = ""

    @classmethod
    def of(cls, w: Array, plan: Plan) -> Model:
        """The model of weights w, shape (d,), of a plan."""
        m = plan.manifest
        assert isinstance(plan.loss, str), "runs name their loss"
        return cls(
            w, plan.loss, plan.l2, m.features, plan.intercept, m.classes, m.class_names, m.scale, m.data_sha256,
            plan.loss_sha256 or "",
        )  # fmt: skip

    def build_loss(self) -> Loss:
        """The loss. Raises ConfigError where the file of an own loss is missing or has changed."""
        return make_loss(self.loss, self.loss_sha256)

    def predict(self, shard: Shard) -> Array:
        """Predicted labels as numbers, shape (n,).

        Raises
        ------
        DataError
            If the rows have another number of features.
        """
        if shard.features != self.features:
            raise DataError(f"expected rows with {self.features} features, but they have {shard.features}")
        # A loss needs labels, but the prediction does not depend on them.
        labels = np.full(shard.rows, 0.0 if self.classes is None else self.classes[0])
        rows = Shard(shard.X, labels)
        return (
            self.build_loss().on_shard(rows.with_intercept() if self.intercept else rows, self.classes).predict(self.w)
        )


def write_model(path: Path, model: Model) -> None:
    """Write a model file atomically. Raises OSError."""
    shapes = model.build_loss().shapes(model.features + model.intercept, model.classes)
    with sealed_file(path, FORMAT) as file:
        file.create_dataset("w", data=model.w.reshape(shapes[0].sizes) if len(shapes) == 1 else model.w)
        for name in ("loss", "l2", "features", "intercept", "scale", "data_sha256", "loss_sha256"):
            value = getattr(model, name)
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value + 0  # a bool as a number
        if model.classes is not None:
            file.attrs["classes"] = np.asarray(model.classes)
        if model.class_names is not None:
            file.attrs["class_names"] = np.char.encode(np.asarray(model.class_names), "utf-8")


def read_model(path: Path) -> Model:
    """Read a model file. Raises DataError if it is not one."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the model file, {path / 'model.h5'}")
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
        a.get("loss_sha256", ""),
    )
