"""Small networks, for `--loss torch:module=mpinewton.losses.torch.networks:small_cnn,...`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def small_cnn(side: int = 28, channels: int = 8, classes: int = 10) -> nn.Module:
    """Two convolutions and a linear layer, for grey images of side x side pixels: input=1x28x28."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * channels * (side // 4) ** 2, classes),
    )  # fmt: skip


def lenet() -> nn.Module:
    """Two convolutions of 5 x 5 pixels, 6 and 16 channels, then layers of 120, 84 and 10 (LeCun et al. 1998, with ReLU
    and max pooling): 44,426 weights, input=1x28x28.
    """
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class TinyGpt(nn.Module):
    """A decoder of the GPT kind for tokens (n, T), T at most `context`: logits (n, T, vocabulary)."""

    def __init__(
        self, vocabulary: int = 128, context: int = 64, width: int = 32, heads: int = 2, layers: int = 2
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Decoder(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for name, part in self.named_parameters():
            if part.ndim > 1:
                nn.init.normal_(part, std=0.02)  # as GPT-2: all tokens are nearly equally likely at the start
            elif name.endswith("bias"):
                nn.init.zeros_(part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.tokens(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h))


class Decoder(nn.Module):
    """Causal attention, then two layers for every token; each is added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        # Three matrices instead of one: methods may orthogonalise the update of each.
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.mix = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        x = self.before(h)
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.mix(seen.transpose(1, 2).flatten(2))
        return h + self.down(functional.gelu(self.up(self.between(h))))


class CharLstm(nn.Module):
    """An LSTM for tokens (n, T): logits (n, T, vocabulary)."""

    def __init__(self, vocabulary: int = 128, width: int = 64, layers: int = 1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.lstm, self.head = nn.LSTM(width, width, layers, batch_first=True), nn.Linear(width, vocabulary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.tokens(x))[0])
