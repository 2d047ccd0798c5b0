"""Checkpoints: two files, written in turn and atomically; a run is resumed from the newest intact one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Annotated, Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, round_up
from mpinewton.errors import DataError
from mpinewton.fleet.wire import Layout, from_bytes, to_bytes
from mpinewton.methods.support.method import State
from mpinewton.runs.storage import open_sealed, read_text, sealed_file, write_text

FORMAT = "mpinewton-checkpoint/1"
NAMES = ("checkpoint-A.h5", "checkpoint-B.h5")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that is needed to resume a run with the same bits on any number of ranks.

    Attributes
    ----------
    number : int
        Number of the checkpoint within the run.
    facts : dict
        Iteration, seconds, identity of the run, sizes and digests of its tables; JSON-able.
    state : dict of str to array, float, int, bool or str
        The fields of the method's state.
    ledger : dict of str to array
    workers : list of dict of str to array
        What each logical worker remembers.
    """

    number: int
    facts: dict[str, Any]
    state: dict[str, Any]
    ledger: Mapping[str, NDArray[Any]]
    workers: list[dict[str, Array]]

    def state_of(self, kind: type[State]) -> State:
        """The method's state, an object of the class `kind`. Raises DataError if it is another's."""
        try:
            return kind(**{field.name: self.state[field.name] for field in fields(kind)})
        except (LookupError, ValueError, TypeError) as error:
            raise DataError(
                f"the checkpoint holds no {kind.__name__} of this version ({error}); start again with --fresh"
            ) from None


class _Facts(msgspec.Struct):
    """Types of what a file says."""

    number: int
    workers: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
    state: dict[str, float | bool | str | None]
    identity: dict[str, Any] = {}
    iteration: Annotated[int, msgspec.Meta(ge=0)] = 0
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    history: tuple[Annotated[int, msgspec.Meta(ge=0)], str] = (0, "")
    ledger: tuple[Annotated[int, msgspec.Meta(ge=0)], str] = (0, "")


def state_fields(state: State) -> dict[str, Any]:
    """The fields of a state, for `Checkpoint.state`."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write over the older of the two files. Raises OSError if that fails; both files are then unchanged."""
    path = folder / NAMES[checkpoint.number % 2]
    with sealed_file(path, FORMAT) as file:
        _fill(file, checkpoint)
    return path


def read(path: Path) -> Checkpoint:
    """Read one file. Raises DataError if it is not an intact checkpoint."""
    with open_sealed(path, FORMAT) as file:
        facts, index = (json.loads(read_text(file, name)) for name in ("facts", "index"))
        msgspec.convert(facts, _Facts)
        arrays = _unpacked(index, file["data"][()])
        workers = [_below(f"workers/{i}/", arrays) for i in range(facts["workers"])]
    state = {**facts.pop("state"), **_below("state/", arrays)}
    return Checkpoint(facts.pop("number"), facts, state, _below("ledger/", arrays), workers)


def newest(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint of a run folder; None if there is no checkpoint.

    Raises
    ------
    DataError
        If there are checkpoints, but none is intact.
    """
    found, faults = [], []
    for path in (folder / name for name in NAMES):
        if path.exists():
            try:
                found.append(read(path))
            except DataError as error:
                faults.append(str(error))
    if faults and not found:
        raise DataError(f"no checkpoint in {folder} can be read; start again with --fresh. " + "; ".join(faults))
    return max(found, key=lambda checkpoint: checkpoint.number, default=None)


def _fill(file: h5py.File, checkpoint: Checkpoint) -> None:
    plain = {name: value for name, value in checkpoint.state.items() if not isinstance(value, np.ndarray)}
    arrays = {f"state/{name}": a for name, a in checkpoint.state.items() if isinstance(a, np.ndarray)}
    arrays |= {f"ledger/{name}": np.asarray(a) for name, a in checkpoint.ledger.items()}
    for i, kept in enumerate(checkpoint.workers):
        arrays |= {f"workers/{i}/{name}": np.asarray(a) for name, a in kept.items()}
    facts = {**checkpoint.facts, "number": checkpoint.number, "state": plain, "workers": len(checkpoint.workers)}
    index, data = _packed(arrays)
    for name, content in (("facts", facts), ("index", index)):
        write_text(file, name, json.dumps(content).encode())
    file.create_dataset("data", data=data)


def _packed(arrays: Mapping[str, Any]) -> tuple[list[list[Any]], Any]:
    """Arrays as an index of (name, dtype, shape) and one array of bytes."""
    flat = [np.ascontiguousarray(a).reshape(a.shape) for a in arrays.values()]
    index = [[name, a.dtype.str, list(a.shape)] for name, a in zip(arrays, flat)]
    return index, to_bytes([*flat, np.zeros(0)])  # at least two arrays: a single one is not padded


def _unpacked(index: list[list[Any]], data: Any) -> dict[str, Any]:
    """The arrays of an index. Raises ValueError or TypeError if it does not describe the bytes of `data`."""
    for name, dtype, shape in index:
        if not isinstance(name, str) or np.dtype(dtype).kind not in "fiub" or any(size < 0 for size in shape):
            raise ValueError(f"the array {name!r} has dtype {dtype} and shape {shape}")
    sizes = [round_up(np.dtype(dtype).itemsize * prod(shape)) for _, dtype, shape in index]
    if data.dtype != np.uint8 or data.shape != (sum(sizes),):
        raise ValueError("the index does not describe the arrays")
    layout = Layout(False, (*(d for _, d, _ in index), "<f8"), (*(tuple(s) for _, _, s in index), (0,)))
    arrays, _ = from_bytes(layout, data)
    return {name: a.copy() for (name, _, _), a in zip(index, arrays)}


def _below(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
