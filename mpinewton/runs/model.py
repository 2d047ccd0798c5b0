"""Model files."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from mpinewton.arrays import Array
from mpinewton.data.columns import Schema
from mpinewton.data.scale import factor
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.fleet import Plan
from mpinewton.losses import Loss, make_loss
from mpinewton.losses.loss import Model as LossModel
from mpinewton.runs.storage import open_sealed, read_text, sealed_file, write_text

FORMAT = "mpinewton-model/2"


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
    intercept : bool
    classes : tuple of float or None
        The labels of a classification, in ascending order.
    schema : Schema
        How the training data were read: features, class names, scale, columns.
    data_sha256 : str
        Digest of the training data.
    loss_sha256 : str
        Digest of the file of the user's own loss; "" for a built-in one. Another file is refused.
    """

    w: Array = field(repr=False)
    loss: str
    l2: float
    intercept: bool
    classes: tuple[float, ...] | None
    schema: Schema
    data_sha256: str
    loss_sha256: str = ""

    @classmethod
    def of(cls, w: Array, plan: Plan) -> Model:
        """The model of weights w, shape (d,), of a plan."""
        m = plan.manifest
        assert isinstance(plan.loss, str), "runs name their loss"
        return cls(w, plan.loss, plan.l2, plan.intercept, m.classes, m.schema, m.data_sha256, plan.loss_sha256 or "")

    @property
    def features(self) -> int:
        """Number of features, without the intercept."""
        assert self.schema.features is not None
        return self.schema.features

    @cached_property
    def made_loss(self) -> Loss:
        """The loss. Raises ConfigError where the file of an own loss is missing or has changed."""
        return make_loss(self.loss, self.loss_sha256)

    @property
    def labels(self) -> list[str]:
        """The classes as texts: their names, or their numbers; [] for real numbers."""
        return list(self.schema.class_names or (f"{label:g}" for label in self.classes or ()))

    def on_rows(self, shard: Shard) -> LossModel:
        """The mean loss, without l2, of rows that were read by `schema`.

        Raises
        ------
        ConfigError, DataError
            If the rows have another number of features, or the weights do not fit the loss.
        """
        if shard.features != self.features:
            raise DataError(f"expected rows with {self.features} features, but they have {shard.features}")
        made = self.made_loss.on_shard(shard.with_intercept() if self.intercept else shard, self.classes)
        if made.dim != self.w.size:
            raise DataError(f"the model has {self.w.size} weights, but its loss, {self.loss}, has {made.dim}")
        return made

    def predict(self, shard: Shard) -> Array:
        """Predicted labels as numbers, shape (n,). The labels of the rows are not used. Raises as `on_rows`."""
        return self._unlabelled(shard).predict(self.w)

    def probabilities(self, shard: Shard) -> Array:
        """Probability of every class, shape (n, C). The labels of the rows are not used.

        The loss of a row with label c is minus the logarithm of the probability of c, if the loss is a likelihood.

        Raises
        ------
        ConfigError
            If the loss is not a likelihood of classes.
        """
        losses = self.class_losses(shard)
        P = np.exp(-losses)
        if not np.allclose(P.sum(axis=1), 1.0, atol=1e-4):
            raise ConfigError(f"loss {self.loss} gives no probabilities; use logistic or softmax")
        return np.asarray(P / P.sum(axis=1, keepdims=True))

    def class_losses(self, shard: Shard) -> Array:
        """The loss of every row, if its label was c, for every class c: shape (n, C). Raises ConfigError."""
        made = self._unlabelled(shard)
        if self.classes is None or not self.made_loss.classifies or not hasattr(made, "class_losses"):
            raise ConfigError(f"loss {self.loss} gives no probabilities of classes; use logistic or softmax")
        return np.asarray(made.class_losses(self.w))

    def _unlabelled(self, shard: Shard) -> LossModel:
        # A loss needs labels, but the prediction does not depend on them.
        return self.on_rows(Shard(shard.X, np.full(shard.rows, 0.0 if self.classes is None else self.classes[0])))


def write_model(path: Path, model: Model) -> None:
    """Write a model file atomically. Raises OSError."""
    shapes = model.made_loss.shapes(model.features + model.intercept, model.classes)
    with sealed_file(path, FORMAT) as file:
        file.create_dataset("w", data=model.w.reshape(shapes[0].sizes) if len(shapes) == 1 else model.w)
        facts = {field.name: getattr(model, field.name) for field in fields(model) if field.name != "w"}
        write_text(file, "facts", msgspec.json.encode(facts))


def read_model(path: Path) -> Model:
    """Read a model file. Raises DataError if it is not one, or what it says is not possible."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the model file, {path / 'model.h5'}")
    with open_sealed(path, FORMAT) as file:
        w = file["w"][()]
        model = msgspec.convert({**msgspec.json.decode(read_text(file, "facts")), "w": w.ravel()}, Model)
        if w.dtype != np.float64 or not np.isfinite(w).all():
            raise ValueError("a weight is no float64, or not finite")
        if fault := _contradiction(model):
            raise ValueError(fault)
    return model


def _contradiction(model: Model) -> str | None:
    """The first rule that a model breaks, as a statement about what it says."""
    schema, classes = model.schema, model.classes
    p, names = schema.features, schema.class_names
    if p is None or not 1 <= p < 1 << 31:
        return f"features is {p}"
    if not 0 <= model.l2 < np.inf:
        return f"l2 is {model.l2}"
    if classes is not None and sorted(set(classes)) != list(classes):
        return "classes are not distinct and increasing"
    if names and len(set(names)) != len(names):
        return "two classes have the same name"
    if names and classes != tuple(map(float, range(len(names)))):
        return "class_names do not fit the classes"
    if schema.columns is not None and len(schema.columns.feature_names) != p:
        return f"columns are of {len(schema.columns.feature_names)} features, not of {p}"
    for name in ("shift", "factor"):
        if (numbers := getattr(schema, name)) is not None and len(numbers) != p:
            return f"{name} has {len(numbers)} numbers for {p} features"
    try:
        factor(schema.scale)
    except ConfigError as error:
        return str(error)
    return None
