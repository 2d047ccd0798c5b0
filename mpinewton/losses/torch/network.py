"""PyTorch modules as functions of rows and one vector of weights, and what is refused."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from collections.abc import Mapping
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
from mpinewton.errors import ConfigError, DataError
from mpinewton.extensions import load_file
from mpinewton.launcher import number_on_host
from mpinewton.losses.loss import Classes, Shape
from mpinewton.losses.torch.chance import random_numbers, states
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


def refuse_types(who: str, module: nn.Module) -> None:
    """Refuse parameters and other tensors that would change where the module is cast to float64 or float32.

    Raises
    ------
    ConfigError
        If one is complex, in half precision, or not yet of any shape.
    """
    held = ((place, name, t) for place, part in module.named_modules() for kind in vars(part).values()
            if isinstance(kind, dict) for name, t in kind.items() if isinstance(t, torch.Tensor))  # fmt: skip
    for place, name, t in held:
        what = f"{who}: {'.'.join(filter(None, (place, name)))}"
        if nn.parameter.is_lazy(t):
            raise ConfigError(f"{what} has no shape before the first row: give its layer the number of inputs")
        if t.is_complex():
            raise ConfigError(f"{what} is complex, and weights are real: keep the real and the imaginary part")
        if t.is_floating_point() and t.dtype not in (torch.float32, torch.float64):
            raise ConfigError(f"{what} is {str(t.dtype).removeprefix('torch.')}: make the module in float32 or float64")


def only_tensor(who: str, answer: Any) -> torch.Tensor:
    """What a module returned, if it is a tensor, holds no other, or names one `logits`. Raises ConfigError else."""
    found = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", answer)
    if isinstance(answer, Mapping | tuple | list) and len(answer) == 1:
        (found,) = answer.values() if isinstance(answer, Mapping) else answer
    if isinstance(found, torch.Tensor):
        return found
    remedy = "write a module that returns that of the loss"
    raise ConfigError(f"{who} returns a {type(answer).__name__}: expected one tensor, or one named logits; {remedy}")


@cache
def network(loss: TorchModule) -> Network:
    """The module of a loss, shared by all workers of a process; it keeps no weights between evaluations."""
    return Network(loss)


class Network:
    """A module as a function of rows and one vector of weights."""

    def __init__(self, loss: TorchModule) -> None:
        self.loss, self.device, self.dtype = loss, device(loss.device), getattr(torch, loss.dtype)
        self.who, module = f"torch: {loss.module}", make_module(loss, 0)
        refuse_types(self.who, module)
        norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
        self.frozen = [part for part in norms if not part.training]  # stay in evaluation mode
        self.module = module.to(self.device, self.dtype)
        self.is_random = False  # whether training mode draws random numbers; known once validated
        self.weights = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not self.weights:
            raise ConfigError(f"{self.who} has no trainable parameters")
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

    def train(self, training: bool) -> None:
        """Set training or evaluation mode."""
        self.module.train(training)
        for part in self.frozen:
            part.eval()

    def outputs(self, w: torch.Tensor, x: torch.Tensor, training: bool = False) -> torch.Tensor:
        """Outputs of the module with weights w (d,) for the rows x, in training or evaluation mode."""
        if self.module.training != training:
            self.train(training)
        parts = w.split([p.numel() for p in self.weights.values()])
        named = {name: part.view(p.shape) for part, (name, p) in zip(parts, self.weights.items())}
        with sdpa_kernel(SDPBackend.MATH):  # only this kind of attention has second derivatives
            return only_tensor(self.who, torch.func.functional_call(self.module, named, (x,)))

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
            If the rows or the classes do not fit, or the output of a row depends on earlier evaluations or other rows,
            or is random in evaluation mode.
        """
        key = (features, None if classes is None else len(classes))
        if key in self.validated:
            return
        self.train(True)
        for name, part in self.module.named_modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
                raise ConfigError(
                    f"{self.who}: {name} ({type(part).__name__}) makes the output of a row depend on other rows: use "
                    "GroupNorm or LayerNorm, or call its eval() where the module is made"
                )
        with torch.no_grad():
            before = copy.deepcopy(self.module.state_dict())
            _, draws = self.check_mode(features, training=False)
            if draws:
                raise ConfigError(
                    f"{self.who} draws random numbers in evaluation mode, too: use nn.Dropout, or "
                    "functional.dropout with training=self.training"
                )
            z, self.is_random = self.check_mode(features, training=True)
            if any(not torch.equal(before[name], value) for name, value in self.module.state_dict().items()):
                raise ConfigError(f"{self.who} changes when it is evaluated: remove running means and counters")
        self.check_outputs(self.who, z, features, classes)
        self.validated.add(key)

    def probe(self, features: int, training: bool, rows: slice = slice(None)) -> torch.Tensor:
        """Outputs for (some of) two arbitrary rows, always with the same random numbers."""
        X = np.linspace(-1.0, 1.0, 2 * features).reshape(2, features)
        w = torch.cat([p.detach().reshape(-1) for p in self.weights.values()])
        try:
            x = self.rows(np.arange(2 * features).reshape(2, -1) % 2 if self.tokens else X)[rows]
            return self.outputs(w, x, training)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason, shape = str(error).partition("\n")[0], self.loss.input or "none"
            raise ConfigError(
                f"{self.who} does not take rows of {features} features, input = {shape}: {reason}"
            ) from error

    @property
    def tokens(self) -> bool:
        return self.loss.input == "tokens"

    def check_mode(self, features: int, training: bool) -> tuple[torch.Tensor, bool]:
        """Outputs for two rows, and whether random numbers were drawn. Raises ConfigError, as `validate`."""
        with random_numbers([0], self.device):
            begin = states(self.device)
            both = self.probe(features, training)
            draws = states(self.device) != begin
        with random_numbers([0], self.device):
            again = self.probe(features, training)
        if not torch.equal(both, again):
            raise ConfigError(f"{self.who} gives different outputs for the same rows and the same random numbers")
        if not draws:
            alone = torch.cat([self.probe(features, training, slice(row, row + 1)) for row in (0, 1)])
            if both.shape != alone.shape or not torch.allclose(both, alone, rtol=1e-3, atol=1e-5):
                raise ConfigError(
                    f"{self.who} gives different outputs for a row beside other rows: use GroupNorm or LayerNorm"
                )
        return both, draws

    def check_tokens(self, features: int, most: int) -> None:
        """Refuse data with tokens that the module does not know, up to `most`. Raises DataError."""
        x = torch.full((1, features), most, device=self.device)
        w = torch.cat([p.detach().reshape(-1) for p in self.weights.values()])
        tables = [part.num_embeddings for part in self.module.modules() if isinstance(part, nn.Embedding)]
        try:
            fits = most < max(tables, default=most + 1)
            with torch.no_grad():
                fits = fits and (self.outputs(w, x).shape[-1] > most or self.loss.labels != "next")
        except IndexError:
            fits = False
        if not fits:
            raise DataError(f"{self.who} does not know token {most} of the data: enlarge its vocabulary")

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
