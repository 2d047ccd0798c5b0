"""PyTorch modules as losses: the mean over the rows of one shard, and its derivatives."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.losses.loss import Classes, NonlinearPoint, RandomModel, row_weights, subset_weights
from mpinewton.losses.torch.chance import random_numbers
from mpinewton.losses.torch.network import Network
from mpinewton.losses.torch.settings import TorchModule


class TorchModel(RandomModel):
    """Weighted mean of a `TorchModule` over the rows of one shard; 0 on an empty shard."""

    def __init__(self, loss: TorchModule, network: Network, shard: Shard, classes: Classes) -> None:
        self.loss, self.network, self.classes = loss, network, classes
        self.X, self.scale, self.t = shard.X, shard.scale, loss.targets(shard.y, classes)
        self.row_weight = row_weights(shard)
        self.dim = sum(shape.size for shape in network.shapes)
        values = np.asarray(shard.X.data if sparse.issparse(shard.X) else shard.X)
        if network.tokens and not (shard.scale == 1 and ((values >= 0) & (values == np.floor(values))).all()):
            raise DataError("torch: input = tokens: expected whole numbers, at least 0; pack the data without --scale")
        if network.tokens and values.size:
            network.check_tokens(shard.features, int(values.max()))

    def subset(self, rows: NDArray[np.intp]) -> TorchModel:
        """The mean over some of the rows, whose numbers have shape (k,)."""
        part = copy.copy(self)
        part.X, part.t, part.row_weight = self.X[rows], self.t[rows], subset_weights(self.row_weight, rows)
        return part

    @property
    def is_random(self) -> bool:
        return self.key is not None and self.network.is_random

    def at(self, w: Array, **kept: Array) -> TorchPoint:
        """The mean loss at w, shape (d,); with the random numbers of another point, where `kept` is its `cache()`."""
        key = kept.get("key")
        if key is None and self.key is not None and self.is_random:
            key = np.array(self.key)
            self.key[-1] += 1
        return TorchPoint(self, w, key)

    def blocks(self) -> Iterator[slice]:
        """Consecutive rows that are evaluated at once."""
        return (slice(first, first + self.loss.block) for first in range(0, len(self.t), self.loss.block))

    def rows(self, rows: slice) -> torch.Tensor:
        """A block of rows, in the shape that the module takes; only these are converted from bytes to floats."""
        return self.network.rows(self.X[rows], self.scale)

    def mean(self, w: torch.Tensor, rows: slice) -> torch.Tensor:
        """The part of the mean loss that a block of rows contributes: one number."""
        x, t = self.rows(rows), self.network.tensor(self.t[rows])
        if self.loss.labels == "next":
            t = torch.cat([x[:, 1:], t[:, None]], dim=1)
        losses = self.network.losses(self.network.outputs(w, x, self.key is not None), t).double()
        if isinstance(self.row_weight, float):
            return losses.sum() * self.row_weight
        return losses @ torch.tensor(self.row_weight[rows], device=losses.device)

    def predict(self, w: Array) -> Array:
        """Predicted classes, next tokens or real numbers, shape (n,).

        Raises
        ------
        ConfigError
            If the loss is a user's function and the module has several outputs.
        """
        flat, found = self.network.tensor(w), [np.zeros(0)]
        with torch.no_grad():
            for rows in self.blocks():
                found.append(self.predict_block(self.network.outputs(flat, self.rows(rows))).cpu().numpy())
        numbers = np.concatenate(found)
        if self.loss.classifies and self.loss.labels == "y":
            return np.asarray(self.classes, dtype=np.float64)[numbers.astype(np.intp)]
        return numbers

    def class_losses(self, w: Array) -> Array:
        """The loss of every row if its label was c, for every class c: shape (n, C). Raises ConfigError for tokens."""
        if self.loss.labels == "next":
            raise ConfigError("torch: labels=next: a model of tokens gives no probabilities of classes of rows")
        flat, numbers, found = self.network.tensor(w), range(len(self.classes or ())), []
        with torch.no_grad():
            for rows in self.blocks():
                z = self.network.outputs(flat, self.rows(rows))
                each = [self.network.losses(z, self.network.tensor(np.full(len(z), number))) for number in numbers]
                found.append(torch.stack(each, dim=1).double().cpu().numpy())
        return np.concatenate([np.zeros((0, len(numbers))), *found])

    def predict_block(self, z: torch.Tensor) -> torch.Tensor:
        """Positions of classes, tokens or real numbers, shape (n,), from the outputs for a block of rows."""
        if self.loss.loss == "cross-entropy":
            return z.reshape(len(z), -1, z.shape[-1])[:, -1].argmax(-1).double()
        if z.numel() != len(z):
            raise ConfigError(
                f"torch: loss={self.loss.loss}: cannot predict from {z.numel() // len(z)} outputs of a row"
            )
        z = z.reshape(len(z)).double()
        return (z > 0).double() if self.loss.loss == "bce" else z


class TorchPoint(NonlinearPoint):
    """A `TorchModel` at w. Derivatives are evaluated block by block; nothing of a block is kept.

    The random numbers of a point, and of its line, are always those of its key.
    """

    def __init__(self, model: TorchModel, w: Array, key: Array | None = None) -> None:
        super().__init__(model, w, TorchModule.name)
        self.model, self.key = model, key

    def cache(self) -> dict[str, Array]:
        return {} if self.key is None else {"key": self.key}

    @cached_property
    def flat(self) -> torch.Tensor:
        """The weights as a tensor, shape (d,)."""
        return self.model.network.tensor(self.w).requires_grad_()

    def parts(self) -> Iterator[torch.Tensor]:
        """The parts of the mean loss, block by block."""
        with random_numbers(None if self.key is None else self.key.tolist(), self.flat.device):
            for rows in self.model.blocks():
                yield self.model.mean(self.flat, rows)

    def value(self) -> float:
        if "value_and_gradient" in self.__dict__:
            return self.value_and_gradient[0]
        # With gradients enabled, as below: kernels without them may round differently.
        return sum((part.item() for part in self.parts()), 0.0)

    @cached_property
    def value_and_gradient(self) -> tuple[float, Array]:
        value, total = 0.0, torch.zeros(self.model.dim, dtype=torch.float64, device=self.flat.device)
        for part in self.parts():
            value += part.item()
            total += torch.autograd.grad(part, self.flat)[0]
        return value, total.cpu().numpy()

    def gradient(self) -> Array:
        return self.value_and_gradient[1].copy()

    def hvp(self, v: Array) -> Array:
        """Hessian times v, shape (d,): the gradient of g'v, g the gradient of the loss (Pearlmutter 1994)."""
        along = self.model.network.tensor(v)
        total = torch.zeros(self.model.dim, dtype=torch.float64, device=self.flat.device)
        for part in self.parts():
            (g,) = torch.autograd.grad(part, self.flat, create_graph=True)
            if g.requires_grad:  # else the loss is linear in w
                total += torch.autograd.grad(g @ along, self.flat, materialize_grads=True)[0]
        return total.cpu().numpy()  # type: ignore[no-any-return]
