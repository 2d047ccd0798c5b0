"""PyTorch modules as functions of one vector of weights. The one file that loads PyTorch to compute with it."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from collections.abc import Iterator
from fractions import Fraction
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from mpinewton.arrays import Array
from mpinewton.data.scale import multiplied
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.launcher import number_on_host
from mpinewton.losses.loss import Classes, PointRay, Shape, row_weights, weights_of_part
from mpinewton.losses.torch.settings import TorchModule

# Same weights, same bits: sums of one order, on as many threads as the linear algebra has.
torch.use_deterministic_algorithms(True)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))


def imported(setting: str, text: str, kind: type) -> Any:
    """What package.module:name is: a class of this kind, or a function annotated to return one.

    A model file and a run folder name their module, and are data: nothing else can be called by them.

    Raises
    ------
    ConfigError
        If there is no such thing.
    """
    place, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(place), name)
        made = found if inspect.isclass(found) else inspect.signature(found, eval_str=True).return_annotation
    except ImportError as error:
        raise ConfigError(f"torch: {setting} = {text}: {error}; a folder of your own belongs on PYTHONPATH") from None
    except (AttributeError, TypeError, ValueError, NameError) as error:
        raise ConfigError(f"torch: {setting} = {text}: {error}") from None
    if not (inspect.isclass(made) and issubclass(made, kind)):
        rule = f"a class of {kind.__name__}, or a function annotated to return one (-> {kind.__name__})"
        raise ConfigError(f"torch: {setting} = {text} must be {rule}")
    return found


def drawn(loss: TorchModule, seed: int) -> nn.Module:
    """The module, its weights from the seed; the process's own random numbers go on as if nothing had been drawn."""
    factory = imported("module", loss.module, nn.Module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = factory(**loss.keywords())
        except Exception as error:  # of someone else's code, about its arguments mostly
            raise ConfigError(f"torch: module = {loss.module}: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"torch: module = {loss.module} gave a {type(made).__name__}, and no torch.nn.Module")
    return made


def device(wanted: str) -> torch.device:
    """Where to compute: the GPUs of a host are dealt out to its processes."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cuda" and not count:
        raise ConfigError(f"torch: device = cuda, and PyTorch {torch.__version__} finds no GPU here; use device=cpu")
    return torch.device("cpu") if wanted == "cpu" or not count else torch.device("cuda", number_on_host() % count)


@cache
def network(loss: TorchModule) -> Network:
    """The module of a loss, once for all workers of a process: it keeps no weights between two evaluations."""
    return Network(loss)


class Network:
    """A module as a function of rows and one vector of weights."""

    def __init__(self, loss: TorchModule) -> None:
        self.loss, self.device, self.dtype = loss, device(loss.device), getattr(torch, loss.dtype)
        # In training mode, where modules do what autograd knows to go back through twice.
        self.module = drawn(loss, 0).to(self.device, self.dtype).train()
        self.weights = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not self.weights:
            raise ConfigError(f"torch: {loss.module} has no parameters to train")
        self.criterion: Any = imported("loss", loss.loss, torch.Tensor) if ":" in loss.loss else None
        self.fitted: set[tuple[int, int | None]] = set()

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The weights: kernels with more than two axes as matrices (outputs, the rest)."""
        listed = [p for _, p in self.module.named_parameters(remove_duplicate=False) if p.ndim > 1]  # tied ones twice
        tables = [m.weight for m in self.module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        outer = {id(p) for p in (*tables, *listed[-1:])}
        return tuple(
            Shape(name, (len(p), p[0].numel()), id(p) not in outer) if p.ndim > 1 else Shape(name, tuple(p.shape))
            for name, p in self.weights.items()
        )

    def initial_weights(self, seed: int) -> Array:
        """The weights a new module has, shape (d,)."""
        made = dict(drawn(self.loss, seed).named_parameters())
        return np.concatenate([made[name].detach().double().numpy().ravel() for name in self.weights])

    def tensor(self, a: NDArray[Any]) -> torch.Tensor:
        """A copy where the module computes: numbers in its precision, whole ones as they are."""
        # Never the memory of numpy: where that begins moves from run to run, and the last bits of products with it.
        return torch.tensor(a, dtype=self.dtype if a.dtype.kind == "f" else torch.int64, device=self.device)

    def rows(self, X: Any, scale: Fraction = Fraction(1)) -> torch.Tensor:
        """Rows of a shard, multiplied by `scale`, as the module wants them."""
        dense = np.asarray(X.toarray() if sparse.issparse(X) else X)
        if self.tokens:
            return self.tensor(dense.astype(np.int64))
        sizes = [int(size) for size in self.loss.input.split("x")] if self.loss.input else [dense.shape[1]]
        return self.tensor(multiplied(dense, scale)).reshape(len(dense), *sizes)

    def outputs(self, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What the module answers with weights w (d,)."""
        parts = w.split([p.numel() for p in self.weights.values()])
        named = {name: part.view(p.shape) for part, (name, p) in zip(parts, self.weights.items())}
        with sdpa_kernel(SDPBackend.MATH):  # the one kind of attention that has second derivatives
            answer: torch.Tensor = torch.func.functional_call(self.module, named, (x,))
        return answer

    def losses(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """One loss a row, shape (n,)."""
        if self.criterion is not None:
            return self.criterion(z, t)
        if self.loss.loss == "cross-entropy":
            z = z.movedim(-1, 1)  # a language model's are (n, T, C)
            return functional.cross_entropy(z, t, reduction="none").reshape(len(z), -1).mean(1)
        kinds: dict[str, Any] = {
            "bce": functional.binary_cross_entropy_with_logits,
            "mse": functional.mse_loss,
            "huber": functional.huber_loss,
        }
        return kinds[self.loss.loss](z.reshape(len(z)), t.to(z.dtype), reduction="none")

    # -- what is refused ----------------------------------------------------------------------------------------

    def validate(self, features: int, classes: Classes) -> None:
        """Refuse what cannot be trained on rows of so many features.

        Raises
        ------
        ConfigError
            If the rows or the classes do not fit, or an answer depends on chance, on the past or on other rows.
        """
        key = (features, None if classes is None else len(classes))
        if key in self.fitted:
            return
        who = f"torch: {self.loss.module}"
        for name, part in self.module.named_modules():
            rate = getattr(part, "p" if isinstance(part, nn.modules.dropout._DropoutNd) else "dropout", 0.0)
            if isinstance(rate, float) and rate > 0:
                raise ConfigError(f"{who}: {name} drops at random, and P(w) must be a function of w: set dropout to 0")
            if isinstance(part, nn.modules.batchnorm._BatchNorm) or getattr(part, "track_running_stats", False):
                raise ConfigError(
                    f"{who}: {name} ({type(part).__name__}) makes a row's answer depend on the rows beside it and on "
                    "those before: use GroupNorm or LayerNorm"
                )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self.refuse_unsteady(who, features)
            z = self.answered(who, features)
        self.refuse_outputs(who, z, features, classes)
        self.fitted.add(key)

    def answered(self, who: str, features: int, rows: slice = slice(None)) -> torch.Tensor:
        """The answer to (some of) two rows that mean nothing."""
        X = np.linspace(-1.0, 1.0, 2 * features).reshape(2, features)
        w = torch.cat([p.detach().reshape(-1) for p in self.weights.values()])
        try:
            return self.outputs(w, self.rows(np.arange(2 * features).reshape(2, -1) % 2 if self.tokens else X)[rows])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            sizes = self.loss.input or "none"
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"{who} does not take rows of {features} features, input = {sizes}: {reason}") from error

    @property
    def tokens(self) -> bool:
        return self.loss.input == "tokens"

    def refuse_unsteady(self, who: str, features: int) -> None:
        before = copy.deepcopy(self.module.state_dict())
        both, again = self.answered(who, features), self.answered(who, features)
        alone = torch.cat([self.answered(who, features, slice(row, row + 1)) for row in (0, 1)])
        if any(not torch.equal(before[name], value) for name, value in self.module.state_dict().items()):
            raise ConfigError(f"{who} changes as it is evaluated, and P(w) must be a function of w: no running means")
        if not torch.equal(both, again):
            raise ConfigError(f"{who} answers the same rows differently each time: set dropout to 0")
        if both.shape != alone.shape or not torch.allclose(both, alone, rtol=1e-3, atol=1e-5):
            raise ConfigError(f"{who} answers a row differently beside other rows: use GroupNorm or LayerNorm")

    def refuse_outputs(self, who: str, z: torch.Tensor, features: int, classes: Classes) -> None:
        """Refuse answers of two rows that the loss cannot take."""
        said, wanted = list(z.shape[1:]), "one number a row"
        if self.loss.labels == "next":
            most = max(classes or (0,))
            fits, wanted = z.ndim == 3 and said[0] == features and said[1] > most, f"({features}, more than {most:g})"
        elif self.loss.loss == "cross-entropy":
            fits, wanted = said == [len(classes or ())], f"one for each of the {len(classes or ())} classes"
        elif self.criterion is not None:
            losses = self.losses(z, torch.zeros(2, dtype=z.dtype, device=z.device))
            fits, said, wanted = losses.shape == (2,), list(losses.shape), "one loss a row, shape (2,) for two"
        else:
            fits = z.numel() == 2
        if not fits:
            raise ConfigError(f"{who} with loss={self.loss.loss} answers a row with {said}; wanted is {wanted}")


class TorchModel:
    """A `TorchModule` on the rows of one shard: mean over the rows by weight; 0 on an empty shard."""

    def __init__(self, loss: TorchModule, network: Network, shard: Shard, classes: Classes) -> None:
        self.loss, self.network, self.classes = loss, network, classes
        self.X, self.scale, self.t = shard.X, shard.scale, loss.targets(shard.y, classes)
        self.row_weight = row_weights(shard)
        self.dim = sum(shape.size for shape in network.shapes)
        values = np.asarray(shard.X.data if sparse.issparse(shard.X) else shard.X)
        if network.tokens and not (shard.scale == 1 and ((values >= 0) & (values == np.floor(values))).all()):
            raise DataError("torch: input = tokens needs rows of whole numbers from 0 on; pack them without --scale")

    def subset(self, rows: NDArray[np.intp]) -> TorchModel:
        """The model on some of its rows, shape (k,): their mean."""
        part = copy.copy(self)
        part.X, part.t, part.row_weight = self.X[rows], self.t[rows], weights_of_part(self.row_weight, rows)
        return part

    def at(self, w: Array, **kept: Array) -> TorchPoint:
        """The loss at w."""
        return TorchPoint(self, w)

    def blocks(self) -> Iterator[slice]:
        return (slice(first, first + self.loss.block) for first in range(0, len(self.t), self.loss.block))

    def rows(self, rows: slice) -> torch.Tensor:
        """A block of rows as the module wants them: bytes become numbers here, and never all of them."""
        return self.network.rows(self.X[rows], self.scale)

    def mean(self, w: torch.Tensor, rows: slice) -> torch.Tensor:
        """What a block of rows adds to the mean loss: one number."""
        x, t = self.rows(rows), self.network.tensor(self.t[rows])
        if self.loss.labels == "next":
            t = torch.cat([x[:, 1:], t[:, None]], dim=1)
        losses = self.network.losses(self.network.outputs(w, x), t).double()
        if isinstance(self.row_weight, float):
            return losses.sum() * self.row_weight
        return losses @ torch.tensor(self.row_weight[rows], device=losses.device)

    def predict(self, w: Array) -> Array:
        """Classes, or the next token, or numbers: shape (n,).

        Raises
        ------
        ConfigError
            If a loss of one's own has several outputs, whose meaning it alone knows.
        """
        flat, said = self.network.tensor(w), [np.zeros(0)]
        with torch.no_grad():
            for rows in self.blocks():
                said.append(self.said(self.network.outputs(flat, self.rows(rows))).cpu().numpy())
        numbers = np.concatenate(said)
        if self.loss.classifies and self.loss.labels == "y":
            return np.asarray(self.classes, dtype=np.float64)[numbers.astype(np.intp)]
        return numbers

    def said(self, z: torch.Tensor) -> torch.Tensor:
        """Numbers of classes, tokens, or what the module answers, of a block of rows."""
        if self.loss.loss == "cross-entropy":
            return z.reshape(len(z), -1, z.shape[-1])[:, -1].argmax(-1).double()
        if z.numel() != len(z):
            raise ConfigError(f"torch: what the {z.numel() // len(z)} outputs mean, {self.loss.loss} alone knows")
        z = z.reshape(len(z)).double()
        return (z > 0).double() if self.loss.loss == "bce" else z


class TorchPoint:
    """A `TorchModel` at w. Every derivative goes through the rows block by block, and keeps nothing of a block."""

    def __init__(self, model: TorchModel, w: Array) -> None:
        self.model, self.w = model, w

    @cached_property
    def flat(self) -> torch.Tensor:
        return self.model.network.tensor(self.w).requires_grad_()

    def parts(self) -> Iterator[torch.Tensor]:
        return (self.model.mean(self.flat, rows) for rows in self.model.blocks())

    def value(self) -> float:
        if "value_and_slope" in self.__dict__:
            return self.value_and_slope[0]
        # With what autograd keeps, as below: kernels that need keep nothing may round differently.
        return sum((part.item() for part in self.parts()), 0.0)

    @cached_property
    def value_and_slope(self) -> tuple[float, Array]:
        value, total = 0.0, torch.zeros(self.model.dim, dtype=torch.float64, device=self.flat.device)
        for part in self.parts():
            value += part.item()
            total += torch.autograd.grad(part, self.flat)[0]
        return value, total.cpu().numpy()

    def gradient(self) -> Array:
        return self.value_and_slope[1].copy()

    def hvp(self, v: Array) -> Array:
        """The derivative of g'v, g the gradient (Pearlmutter 1994)."""
        along = self.model.network.tensor(v)
        total = torch.zeros(self.model.dim, dtype=torch.float64, device=self.flat.device)
        for part in self.parts():
            (g,) = torch.autograd.grad(part, self.flat, create_graph=True)
            if g.requires_grad:  # else the loss is linear in w
                total += torch.autograd.grad(g @ along, self.flat, materialize_grads=True)[0]
        return total.cpu().numpy()  # type: ignore[no-any-return]

    def hessian(self) -> Array:
        raise ConfigError("torch has no Hessian matrix, only its products; use dino, giant with negative=abs, or lbfgs")

    def second_derivatives(self) -> Array:
        raise ConfigError("torch has no curvature coefficients, it is not linear in its weights; use a linear model")

    def along(self, p: Array) -> PointRay:
        return PointRay(self.model, self.w, p)

    def cache(self) -> dict[str, Array]:
        return {}
