"""The hidden generators from which modules draw random numbers: those of PyTorch, NumPy and Python."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def random_numbers(key: Sequence[int] | None, device: torch.device) -> Iterator[None]:
    """Context in which the generators are seeded by a key; afterwards they are as before. With None nothing happens."""
    if key is None:
        yield
        return
    seed = int(np.random.default_rng(list(key)).integers(2**32))
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002


def states(device: torch.device) -> tuple[Any, ...]:
    """The states of the generators: they differ where numbers have been drawn in between."""
    drawn = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    return drawn.numpy().tobytes(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
