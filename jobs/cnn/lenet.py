"""The network of Table 2 of the PISA paper: `torch:module=lenet:lenet,input=1x28x28`, this folder on PYTHONPATH."""

from __future__ import annotations

from torch import nn


def lenet() -> nn.Module:
    """Two convolutions of 5 x 5 pixels, 6 and 16 channels, then layers of 120, 84 and 10: 44,426 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
