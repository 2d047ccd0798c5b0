"""PyTorch modules for tests, found by name as a user's own are; imported by nobody who lacks PyTorch."""

from __future__ import annotations

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
    """Drops at random without saying so."""

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


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.01))


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
