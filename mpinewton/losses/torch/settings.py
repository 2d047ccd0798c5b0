"""Any PyTorch module as a loss: its settings. PyTorch is loaded when the first module is made, not before."""

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
    from mpinewton.losses.torch.model import Network, TorchModel

CRITERIA = ("cross-entropy", "bce", "mse", "huber")  # or a function of a module


@dataclass(frozen=True)
class TorchModule(Loss):
    """loss(module(x), y), module any torch.nn.Module.

    `module` names a class of modules, or a function annotated to return one, as package.module:name; every process
    calls it with the `arguments`. What it draws at random comes from the seed of the run. A module must answer every
    row by itself and always alike. Derivatives are autograd's: the gradient, and exact Hessian products by going back
    through the gradient.

    Kernels of convolutions count as matrices (outputs, the rest). l2 holds for matrices and leaves biases and gains
    alone; all matrices but embeddings and the last are hidden ones.
    """

    name = "torch"
    convex = False
    provides = frozenset({"gradient", "hvp"})
    keeps_bytes = True

    module: str = setting("", help="package.module:name")
    arguments: str = setting("", help="of what `module` names, as width=32;depth=2")
    loss: str = setting(
        "cross-entropy", help="bce, mse (z - y)^2, huber, or package.module:name of (outputs, y), one loss a row"
    )
    input: str = setting("", help="shape of a row, as 1x28x28; tokens: whole numbers; none: as it lies in the shard")
    labels: Literal["y", "next"] = setting(
        "y", help="next: a language model's: of every token the next, of the last one y"
    )
    dtype: Literal["float64", "float32"] = setting("float64", help="of the module; sums over rows are float64 always")
    device: Literal["cpu", "cuda", "auto"] = setting("cpu", help="auto: a GPU where there is one")
    block: int = setting(256, help="rows evaluated at once, which bounds the memory")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("module", "loss"):
            text = getattr(self, name)
            if text and text not in CRITERIA and not all(text.partition(":")):
                near = did_you_mean(text, CRITERIA) if name == "loss" else ""
                raise ConfigError(f"torch: {name} = {text!r} must be of the form package.module:name{near}")
        if self.input not in ("", "tokens") and not all(n.isdecimal() and int(n) for n in self.input.split("x")):
            raise ConfigError(f"torch: input = {self.input!r} must be tokens or a shape, as input=1x28x28")
        if self.labels == "next" and (self.input != "tokens" or self.loss != "cross-entropy"):
            raise ConfigError("torch: labels = next is for a language model: it needs input=tokens,loss=cross-entropy")
        if self.block < 1:
            raise ConfigError(f"torch: block = {self.block} must be 1 or more")
        self.keywords()

    # Of the loss chosen, not of the kind.
    @property
    def classifies(self) -> bool:  # type: ignore[override]
        return self.loss in ("cross-entropy", "bce")

    def keywords(self) -> dict[str, Any]:
        """The `arguments`: numbers, true and false, and words."""
        found = {}
        for item in self.arguments.split(";") if self.arguments else ():
            key, equals, value = (part.strip() for part in item.partition("="))
            if not (key.isidentifier() and equals):
                raise ConfigError(f"torch: arguments = {self.arguments!r} must be of the form width=32;depth=2")
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
            If PyTorch is missing, or there is no such module, or none that could be trained here.
        """
        if not self.module:
            raise ConfigError("torch: it is not said which module: write torch:module=package.module:name")
        # Products on a GPU repeat their bits with this alone, and it is read once, when PyTorch is loaded.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        try:
            from mpinewton.losses.torch.model import network
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ConfigError("torch: PyTorch is not installed: pip install 'mpinewton[torch]'") from None
        return network(self)

    def validate(self, features: int, classes: Classes, intercept: bool) -> None:
        super().validate(features, classes, intercept)
        self.regularised(features, classes, intercept)
        self.network().validate(features, classes)

    def shapes(self, features: int, classes: Classes) -> tuple[Shape, ...]:
        """The parameters that can be trained, in the order of the module."""
        return self.network().shapes

    def regularised(self, features: int, classes: Classes, intercept: bool) -> NDArray[np.bool_]:
        """The matrices."""
        if intercept:
            raise ConfigError("torch: a module has its own biases: leave --intercept out")
        shapes = self.shapes(features, classes)
        return np.concatenate([np.full(shape.size, len(shape.sizes) == 2) for shape in shapes])

    def initial_weights(self, features: int, classes: Classes, seed: int) -> Array:
        """The module's own first weights, shape (d,)."""
        return self.network().initial_weights(seed)

    def targets(self, y: Array, classes: Classes) -> Targets:
        """Numbers of the classes for cross-entropy and bce; tokens for labels=next; else the labels as they are."""
        if not self.classifies:
            return super().targets(y, classes)
        if self.labels == "next":
            self.refuse(y, ~((y >= 0) & (y == np.floor(y))), "labels that are tokens, whole numbers from 0 on")
            return y.astype(np.intp)
        if self.loss == "bce" and classes is not None and len(classes) != 2:
            raise DataError(f"torch: loss=bce needs two classes, and there are {len(classes)}: use loss=cross-entropy")
        return self.class_numbers(y, classes)

    def on_shard(self, shard: Shard, classes: Classes) -> TorchModel:
        """This loss on one shard."""
        network = self.network()
        from mpinewton.losses.torch.model import TorchModel

        network.validate(shard.features, classes)
        return TorchModel(self, network, shard, classes)
