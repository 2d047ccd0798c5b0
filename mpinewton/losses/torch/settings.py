"""A PyTorch module as a loss: its settings. PyTorch is loaded when the first module is made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError, did_you_mean
from mpinewton.losses.loss import Classes, Loss, Shape, Targets
from mpinewton.settings import setting

if TYPE_CHECKING:
    from mpinewton.losses.torch.model import TorchModel
    from mpinewton.losses.torch.network import Network

CRITERIA = ("cross-entropy", "bce", "mse", "huber")  # or the name of a function


@dataclass(frozen=True)
class TorchModule(Loss):
    """loss(module(x), y) for any torch.nn.Module.

    `module` names a subclass of torch.nn.Module, or a function annotated to return one; every process calls it with the
    `arguments`. Random initial weights depend on the seed of the run; other random tensors are the same in every run.
    The output of a row must not depend on other rows or earlier evaluations. Gradients and Hessian-vector products
    are those of autograd.

    Training mode is for the objective, evaluation mode for test rows, `evaluate` and `predict`. BatchNorm must be in
    evaluation mode when it is made, and stays in it. The random numbers of dropout depend on (seed, worker, iteration):
    they are drawn anew for every iterate, local ones included, and are the same along a line search, so that a method
    with a line search sees another objective in every iteration.

    Kernels of convolutions are matrices (outputs, the rest). l2 applies to matrices, not to biases and gains. Hidden
    matrices are all but embeddings and the last.
    """

    name = "torch"
    convex = False
    provides = frozenset({"gradient", "hvp"})
    keeps_bytes = True

    module: str = setting("", help="class or function that makes the module, as FILE.py:name or package.module:name")
    arguments: str = setting("", help="keyword arguments of `module`, as width=32;depth=2")
    loss: str = setting(
        "cross-entropy",
        help="cross-entropy, bce, mse (without 1/2), huber, or a function FILE.py:name of (outputs, y) that "
        "returns one loss per row",
    )
    input: str = setting("", help="shape of a row, as 1x28x28, or tokens for whole numbers; empty: (features,)")
    labels: Literal["y", "next"] = setting(
        "y", help="labels of a row: y, or for language models the next token after every token, y after the last"
    )
    dtype: Literal["float64", "float32"] = setting("float64", help="precision of the module; sums are float64")
    device: Literal["cpu", "cuda", "auto"] = setting("cpu", help="device of the module; auto: a GPU if there is one")
    block: int = setting(256, ge=1, help="number of rows evaluated at once; limits the memory used")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("module", "loss"):
            text = getattr(self, name)
            if text and text not in CRITERIA and not all(text.partition(":")):
                near = did_you_mean(text, CRITERIA) if name == "loss" else ""
                raise ConfigError(f"torch: {name} = {text!r}: expected FILE.py:name or package.module:name{near}")
        shape = self.input in ("", "tokens") or all(n.isdecimal() and int(n) for n in self.input.split("x"))
        self.require(shape, "input", "tokens or a shape, as 1x28x28")
        if self.labels == "next" and (self.input != "tokens" or self.loss != "cross-entropy"):
            raise ConfigError("torch: labels = next is for language models: set input=tokens,loss=cross-entropy")
        self.keywords()

    # Depends on the setting `loss`.
    @property
    def classifies(self) -> bool:  # type: ignore[override]
        return self.loss in ("cross-entropy", "bce")

    def keywords(self) -> dict[str, Any]:
        """The `arguments`: numbers, true, false, or strings."""
        found = {}
        for item in self.arguments.split(";") if self.arguments else ():
            key, equals, value = (part.strip() for part in item.partition("="))
            if not (key.isidentifier() and equals):
                raise ConfigError(
                    f"torch: arguments = {self.arguments!r}: expected key=value pairs, as width=32;depth=2"
                )
            try:
                found[key] = msgspec.json.decode(value)
            except msgspec.DecodeError:
                found[key] = value
        return found

    def network(self) -> Network:
        """The module, ready to be evaluated.

        Raises
        ------
        ConfigError
            If PyTorch is not installed, or there is no such module, or it has no trainable parameters.
        """
        if not self.module:
            raise ConfigError(
                "torch: no module is given: write torch:module=FILE.py:name or torch:module=package.module:name"
            )
        # Products on a GPU are reproducible only with this setting, which is read when PyTorch is loaded.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        try:
            from mpinewton.losses.torch.network import network
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ConfigError("torch: PyTorch is not installed: pip install 'mpinewton[torch]'") from None
        return network(self)

    def validate(self, features: int, classes: Classes, intercept: bool) -> None:
        super().validate(features, classes, intercept)
        self.l2_mask(features, classes, intercept)
        self.network().validate(features, classes)

    def shapes(self, features: int, classes: Classes) -> tuple[Shape, ...]:
        """The trainable parameters, in the order of the module."""
        return self.network().shapes

    def l2_mask(self, features: int, classes: Classes, intercept: bool) -> NDArray[np.bool_]:
        """The matrices, shape (d,)."""
        if intercept:
            raise ConfigError("torch: a module has its own biases; remove --intercept")
        shapes = self.shapes(features, classes)
        return np.concatenate([np.full(shape.size, len(shape.sizes) == 2) for shape in shapes])

    def initial_weights(self, features: int, classes: Classes, seed: int) -> Array:
        """The initial weights of the module, shape (d,)."""
        return self.network().initial_weights(seed)

    def targets(self, y: Array, classes: Classes) -> Targets:
        """Positions of the classes for cross-entropy and bce, tokens for labels=next, else the labels: shape (n,)."""
        if not self.classifies:
            return super().targets(y, classes)
        if self.labels == "next":
            self.refuse(y, ~((y >= 0) & (y == np.floor(y))), "tokens as labels: whole numbers, at least 0")
            return y.astype(np.intp)
        if self.loss == "bce" and classes is not None and len(classes) != 2:
            raise DataError(f"torch: loss=bce: expected 2 classes; found {len(classes)}. Use loss=cross-entropy")
        return self.class_numbers(y, classes)

    def on_shard(self, shard: Shard, classes: Classes) -> TorchModel:
        """The mean loss of the rows of one shard, as a function of the weights."""
        network = self.network()
        from mpinewton.losses.torch.model import TorchModel

        network.validate(shard.features, classes)
        return TorchModel(self, network, shard, classes)
