"""PyTorch modules as functions of one vector of weights. The only file that computes with PyTorch."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from collections.abc import Iterator
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from mpinewton.arrays import Array
from mpinewton.data.scale import multiply
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.extensions import load_file
from mpinewton.launcher import number_on_host
from mpinewton.losses.loss import Classes, NonlinearPoint, Shape, row_weights, subset_weights
from mpinewton.losses.torch.settings import TorchModule

# The same weights give the same bits: sums in one order, on as many threads as the linear algebra uses.
torch.use_deterministic_algorithms(True)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))


def find_factory(setting: str, text: str, kind: type) -> Any:
    """The subclass of `kind`, or the function annotated to return one, named FILE.py:name or package.module:name.

    Model files and run folders are data and name their module: only such a class or function can be called for them.

    Raises
    ------
    ConfigError
        If there is no such class or function.
    """
    place, _, name = text.rpartition(":")
    try:
        found = getattr(load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place), name)
        made = found if inspect.isclass(found) else inspect.signature(found, eval_str=True).return_annotation
    except ImportError as error:
        raise ConfigError(f"torch: {setting} = {text}: {error}; is its folder on PYTHONPATH?") from None
    except (AttributeError, TypeError, ValueError, NameError) as error:
        raise ConfigError(f"torch: {setting} = {text}: {error}") from None
    if not (inspect.isclass(made) and issubclass(made, kind)):
        rule = f"a subclass of {kind.__name__}, or a function annotated to return one (-> {kind.__name__})"
        raise ConfigError(f"torch: {setting} = {text}: expected {rule}")
    return found


def make_module(loss: TorchModule, seed: int) -> nn.Module:
    """The module, with random weights from the seed; the random state of the process does not change."""
    factory = find_factory("module", loss.module, nn.Module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = factory(**loss.keywords())
        except Exception as error:  # raised by the user's code, most often about its arguments
            raise ConfigError(f"torch: module = {loss.module}: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"torch: module = {loss.module}: expected a torch.nn.Module; found a {type(made).__name__}")
    return made


def device(name: str) -> torch.device:
    """The device to compute on; the processes of a host share its GPUs in turn."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and not count:
        raise ConfigError(f"torch: device = cuda: PyTorch {torch.__version__} finds no GPU here; use device=cpu")
    return torch.device("cpu") if name == "cpu" or not count else torch.device("cuda", number_on_host() % count)


@cache
def network(loss: TorchModule) -> Network:
    """The module of a loss, shared by all workers of a process; it keeps no weights between evaluations."""
    return Network(loss)


class Network:
    """A module as a function of rows and one vector of weights."""

    def __init__(self, loss: TorchModule) -> None:
        self.loss, self.device, self.dtype = loss, device(loss.device), getattr(torch, loss.dtype)
        # In training mode, in which autograd can differentiate all modules twice.
        self.module = make_module(loss, 0).to(self.device, self.dtype).train()
        self.weights = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not self.weights:
            raise ConfigError(f"torch: {loss.module} has no trainable parameters")
        self.criterion: Any = find_factory("loss", loss.loss, torch.Tensor) if ":" in loss.loss else None
        self.validated: set[tuple[int, int | None]] = set()

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Names and shapes of the weights; kernels with more than two axes are matrices (outputs, the rest)."""
        listed = [p for _, p in self.module.named_parameters(remove_duplicate=False) if p.ndim > 1]  # tied: twice
        tables = [m.weight for m in self.module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        outer = {id(p) for p in (*tables, *listed[-1:])}
        return tuple(
            Shape(name, (len(p), p[0].numel()), id(p) not in outer) if p.ndim > 1 else Shape(name, tuple(p.shape))
            for name, p in self.weights.items()
        )

    def initial_weights(self, seed: int) -> Array:
        """The weights of a new module, shape (d,)."""
        made = dict(make_module(self.loss, seed).named_parameters())
        return np.concatenate([made[name].detach().double().numpy().ravel() for name in self.weights])

    def tensor(self, a: NDArray[Any]) -> torch.Tensor:
        """A copy on the device of the module: floats in its precision, integers as int64."""
        # A copy, not the memory of numpy: its alignment changes from run to run, and with it the last bits of products.
        return torch.tensor(a, dtype=self.dtype if a.dtype.kind == "f" else torch.int64, device=self.device)

    def rows(self, X: Any, scale: Fraction = Fraction(1)) -> torch.Tensor:
        """Rows of a shard times `scale`, in the shape that the module takes."""
        dense = np.asarray(X.toarray() if sparse.issparse(X) else X)
        if self.tokens:
            return self.tensor(dense.astype(np.int64))
        sizes = [int(size) for size in self.loss.input.split("x")] if self.loss.input else [dense.shape[1]]
        return self.tensor(multiply(dense, scale)).reshape(len(dense), *sizes)

    def outputs(self, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Outputs of the module with weights w (d,) for the rows x."""
        parts = w.split([p.numel() for p in self.weights.values()])
        named = {name: part.view(p.shape) for part, (name, p) in zip(parts, self.weights.items())}
        with sdpa_kernel(SDPBackend.MATH):  # only this kind of attention has second derivatives
            answer: torch.Tensor = torch.func.functional_call(self.module, named, (x,))
        return answer

    def losses(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Loss of every row, shape (n,)."""
        if self.criterion is not None:
            return self.criterion(z, t)
        if self.loss.loss == "cross-entropy":
            z = z.movedim(-1, 1)  # those of a language model are (n, T, C)
            return functional.cross_entropy(z, t, reduction="none").reshape(len(z), -1).mean(1)
        kinds: dict[str, Any] = {
            "bce": functional.binary_cross_entropy_with_logits,
            "mse": functional.mse_loss,
            "huber": functional.huber_loss,
        }
        return kinds[self.loss.loss](z.reshape(len(z)), t.to(z.dtype), reduction="none")

    # -- validation ---------------------------------------------------------------------------------------------

    def validate(self, features: int, classes: Classes) -> None:
        """Check that the module can be trained on rows of so many features.

        Raises
        ------
        ConfigError
            If the rows or the classes do not fit, or the output of a row is random, or depends on earlier evaluations
            or on other rows.
        """
        key = (features, None if classes is None else len(classes))
        if key in self.validated:
            return
        who = f"torch: {self.loss.module}"
        for name, part in self.module.named_modules():
            rate = getattr(part, "p" if isinstance(part, nn.modules.dropout._DropoutNd) else "dropout", 0.0)
            if isinstance(rate, float) and rate > 0:
                raise ConfigError(f"{who}: {name} drops values at random: set dropout to 0")
            if isinstance(part, nn.modules.batchnorm._BatchNorm) or getattr(part, "track_running_stats", False):
                raise ConfigError(
                    f"{who}: {name} ({type(part).__name__}) makes the output of a row depend on other rows: "
                    "use GroupNorm or LayerNorm"
                )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self.check_determinism(who, features)
            z = self.probe(who, features)
        self.check_outputs(who, z, features, classes)
        self.validated.add(key)

    def probe(self, who: str, features: int, rows: slice = slice(None)) -> torch.Tensor:
        """Outputs for (some of) two arbitrary rows."""
        X = np.linspace(-1.0, 1.0, 2 * features).reshape(2, features)
        w = torch.cat([p.detach().reshape(-1) for p in self.weights.values()])
        try:
            return self.outputs(w, self.rows(np.arange(2 * features).reshape(2, -1) % 2 if self.tokens else X)[rows])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason, shape = str(error).partition("\n")[0], self.loss.input or "none"
            raise ConfigError(f"{who} does not take rows of {features} features, input = {shape}: {reason}") from error

    @property
    def tokens(self) -> bool:
        return self.loss.input == "tokens"

    def check_determinism(self, who: str, features: int) -> None:
        before = copy.deepcopy(self.module.state_dict())
        both, again = self.probe(who, features), self.probe(who, features)
        alone = torch.cat([self.probe(who, features, slice(row, row + 1)) for row in (0, 1)])
        if any(not torch.equal(before[name], value) for name, value in self.module.state_dict().items()):
            raise ConfigError(f"{who} changes when it is evaluated: remove running means and counters")
        if not torch.equal(both, again):
            raise ConfigError(f"{who} gives different outputs for the same rows: set dropout to 0")
        if both.shape != alone.shape or not torch.allclose(both, alone, rtol=1e-3, atol=1e-5):
            raise ConfigError(f"{who} gives different outputs for a row beside other rows: use GroupNorm or LayerNorm")

    def check_outputs(self, who: str, z: torch.Tensor, features: int, classes: Classes) -> None:
        """Refuse outputs for two rows that do not fit the loss."""
        found, expected = list(z.shape[1:]), "one number"
        if self.loss.labels == "next":
            most = max(classes or (0,))
            fits = z.ndim == 3 and found[0] == features and found[1] > most
            expected = f"shape ({features}, C) with C > {most:g}"
        elif self.loss.loss == "cross-entropy":
            fits, expected = found == [len(classes or ())], f"one number for each of the {len(classes or ())} classes"
        elif self.criterion is not None:
            losses = self.losses(z, torch.zeros(2, dtype=z.dtype, device=z.device))
            if losses.shape != (2,):
                raise ConfigError(
                    f"{who}: {self.loss.loss}: expected one loss per row; found {losses.numel()} for 2 rows"
                )
            fits = True
        else:
            fits = z.numel() == 2
        if not fits:
            raise ConfigError(
                f"{who} with loss={self.loss.loss}: expected as output of a row {expected}; found shape {tuple(found)}"
            )


class TorchModel:
    """Weighted mean of a `TorchModule` over the rows of one shard; 0 on an empty shard."""

    def __init__(self, loss: TorchModule, network: Network, shard: Shard, classes: Classes) -> None:
        self.loss, self.network, self.classes = loss, network, classes
        self.X, self.scale, self.t = shard.X, shard.scale, loss.targets(shard.y, classes)
        self.row_weight = row_weights(shard)
        self.dim = sum(shape.size for shape in network.shapes)
        values = np.asarray(shard.X.data if sparse.issparse(shard.X) else shard.X)
        if network.tokens and not (shard.scale == 1 and ((values >= 0) & (values == np.floor(values))).all()):
            raise DataError("torch: input = tokens: expected whole numbers, at least 0; pack the data without --scale")

    def subset(self, rows: NDArray[np.intp]) -> TorchModel:
        """The mean over some of the rows, whose numbers have shape (k,)."""
        part = copy.copy(self)
        part.X, part.t, part.row_weight = self.X[rows], self.t[rows], subset_weights(self.row_weight, rows)
        return part

    def at(self, w: Array, **kept: Array) -> TorchPoint:
        """The mean loss at w, shape (d,)."""
        return TorchPoint(self, w)

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
        losses = self.network.losses(self.network.outputs(w, x), t).double()
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
    """A `TorchModel` at w. Derivatives are evaluated block by block; nothing of a block is kept."""

    def __init__(self, model: TorchModel, w: Array) -> None:
        super().__init__(model, w, TorchModule.name)
        self.model = model

    @cached_property
    def flat(self) -> torch.Tensor:
        """The weights as a tensor, shape (d,)."""
        return self.model.network.tensor(self.w).requires_grad_()

    def parts(self) -> Iterator[torch.Tensor]:
        """The parts of the mean loss, block by block."""
        return (self.model.mean(self.flat, rows) for rows in self.model.blocks())

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
