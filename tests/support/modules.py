"""PyTorch modules for tests, found by name as a user's own are; imported by nobody who lacks PyTorch."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def linear(features: int, outputs: int) -> nn.Module:
    return nn.Linear(features, outputs)


def layers(features: int, width: int, outputs: int) -> nn.Module:
    """What `mlp:hidden=width,activation=tanh` is."""
    return nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, outputs))


def smooth_cnn(classes: int = 3) -> nn.Module:
    """Images of 1 x 6 x 4; GroupNorm; no kinks."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(4 * 3 * 2, classes),
    )  # fmt: skip


class Lstm(nn.Module):
    """Rows as sequences of single numbers."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 5, batch_first=True), nn.Linear(5, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Tied(nn.Module):
    """One matrix both to read tokens and to tell them."""

    def __init__(self, vocabulary: int = 7, width: int = 4) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(vocabulary, width), nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.middle(self.embedding(x))))


class Dice(nn.Module):
    """Drops at random in evaluation mode, too."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(self.linear(x), 0.5)


class Counter(nn.Module):
    """Remembers how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("asked", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return self.linear(x)


class Neighbours(nn.Module):
    """Subtracts the mean of the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x - x.mean(0))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))


def dropping(p: float = 0.5) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(p), nn.Linear(5, 3))


def dropping_cnn() -> nn.Module:
    """Images of 8 x 8."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 10),
    )  # fmt: skip


class Deep(nn.Module):
    """Stochastic depth, by the generators of PyTorch, Python and NumPy in turn; in evaluation mode all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(6, 6) for _ in range(3)), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, draw in zip(self.layers, (lambda: torch.rand(1).item(), random.random, np.random.random)):
            if not self.training or draw() > 0.01:
                x = x + torch.tanh(layer(x))
        return self.head(x)


class Stubborn(nn.Module):
    """Draws from a generator of its own, which nobody seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.generator = nn.Linear(6, 3), np.random.default_rng(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * (self.generator.random() if self.training else 1.0)


class Twofold(nn.Module):
    """In evaluation mode it always says the first class."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.linear(x)
        return z if self.training else torch.eye(3, dtype=z.dtype)[0].repeat(len(z), 1) + 0 * z


def frozen() -> nn.Module:
    """BatchNorm in evaluation mode, with statistics of its own; gains are trained."""
    norm = nn.BatchNorm1d(6)
    with torch.no_grad():
        norm.running_mean.copy_(torch.arange(6.0))
        norm.running_var.copy_(torch.arange(1.0, 7.0))
    return nn.Sequential(norm.eval(), nn.Linear(6, 3))


class Answers(nn.Module):
    """A linear layer whose output comes as `kind`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(6, 3), kind

    def forward(self, x: torch.Tensor) -> object:
        z = self.linear(x)
        return {
            "dict": {"logits": z, "hidden": x}, "one": (z,), "object": SimpleNamespace(logits=z),
            "pair": (z, x), "list": [z, x], "text": "z", "nothing": None,
        }[self.kind]  # fmt: skip


def lazy() -> nn.Module:
    return nn.LazyLinear(3)


def half() -> nn.Module:
    return nn.Linear(6, 3).bfloat16()


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 3, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(self.weight.dtype) @ self.weight).abs()


def nothing() -> nn.Module:
    return nn.ReLU()


def no_module() -> nn.Module:
    return "a word"


def unannotated():
    raise AssertionError("called")


def quartic(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A loss of one's own."""
    return (outputs[:, 0] - y) ** 4


def one_number(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return outputs.mean()
