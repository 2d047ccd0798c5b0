"""Checkpoints: two files, written in turn and atomically; a run is resumed from the newest intact one."""

from __future__ import annotations

import json
import logging
import os
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
from mpinewton.fleet.ledger import Ledger
from mpinewton.fleet.wire import Layout, from_bytes, to_bytes
from mpinewton.methods.support.method import State
from mpinewton.runs.storage import open_sealed, read_text, sealed_file, write_text

log = logging.getLogger("mpinewton")
FORMAT = "mpinewton-checkpoint/2"
# Annotations of fields of a state, and the types of what is saved for them.
PLAIN: dict[str, tuple[type, ...]] = {"float": (float, int), "int": (int,), "bool": (bool,), "str": (str,)}
ARRAYS = ("Array", "AnyArray", "Bytes", "Indices", "Integers", "Mask", "Vectors")
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
            for field in fields(kind):
                _check_type(field.name, self.state[field.name], str(field.type))
            state = kind(**{field.name: _restored(self.state[field.name], str(field.type)) for field in fields(kind)})
            w, g = state.w, state.gradient
            if w.ndim != 1 or w.dtype != np.float64 or not np.isfinite(w).all():
                raise ValueError("the weights are not a vector of finite numbers")
            if g.shape not in (w.shape, (0,)) or g.dtype != np.float64:
                raise ValueError(f"the gradient has dtype {g.dtype} and shape {g.shape}")
        except (LookupError, ValueError, TypeError) as error:
            raise DataError(
                f"the checkpoint holds no {kind.__name__} of this version ({error}); start again with --fresh"
            ) from None
        return state

    def check(self, dim: int, workers: int) -> None:
        """Check that weights and ledger are those of such a fleet. Raises DataError."""
        shapes = dict.fromkeys(Ledger.COUNTS, (workers,)) | {"scalars": (3,), "compute": ()}
        found = {name: self.ledger[name].shape for name in shapes if name in self.ledger}
        counts = all(self.ledger[name].dtype.kind == "i" for name in found if name != "compute")
        if len(self.workers) != workers or found != shapes or not counts or np.shape(self.state.get("w", 0)) != (dim,):
            raise DataError(f"the checkpoint is not of {dim} weights and {workers} workers; start again with --fresh")


class _Facts(msgspec.Struct):
    """Types of what a file says."""

    number: int
    workers: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
    state: dict[str, float | bool | str | None]
    identity: dict[str, Any] = {}
    iteration: Annotated[int, msgspec.Meta(ge=0)] = 0
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    arithmetic: dict[str, list[str]] = {}
    history: tuple[Annotated[int, msgspec.Meta(ge=0)], str] = (0, "")
    ledger: tuple[Annotated[int, msgspec.Meta(ge=0)], str] = (0, "")


def state_fields(state: State) -> dict[str, Any]:
    """The fields of a state, for `Checkpoint.state`."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return {name: _saved(value) for name, value in values.items()}


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
        checked = msgspec.convert(facts, _Facts)
        facts = {"iteration": checked.iteration, "seconds": checked.seconds, **facts}
        arrays = _unpacked(index, file["data"][()])
        workers: list[dict[str, Any]] = [{} for _ in range(facts["workers"])]
        for name, array in arrays.items():
            if name.startswith("workers/"):
                _, number, key = name.split("/", 2)
                workers[int(number)][key] = array
    state = {**facts.pop("state"), **_below("state/", arrays)}
    return Checkpoint(facts.pop("number"), facts, state, _below("ledger/", arrays), workers)


def intact(folder: Path) -> list[Checkpoint]:
    """The intact checkpoints of a run folder, the newest first; [] if there are none.

    Raises
    ------
    DataError
        If there are checkpoints, but none is intact.
    """
    found, faults = [], []
    for path in (folder / name for name in NAMES):
        if os.path.lexists(path):
            try:
                found.append(read(path))
            except DataError as error:
                faults.append(str(error))
    if faults and not found:
        raise DataError(f"no checkpoint in {folder} can be read; start again with --fresh. " + "; ".join(faults))
    for fault in faults:
        log.warning("%s; the other checkpoint is used", fault)
    return sorted(found, key=lambda checkpoint: -checkpoint.number)


def newest(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint of a run folder; None if there is no checkpoint. Raises as `intact`."""
    return next(iter(intact(folder)), None)


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


def _check_type(name: str, value: Any, annotation: str) -> None:
    """Refuse numbers or text in place of an array, and the reverse, by the annotation of the field. Raises TypeError.

    Annotations of other kinds are not checked.
    """
    expected = PLAIN.get(annotation) or ((np.ndarray,) if annotation in ARRAYS else (object,))
    if not isinstance(value, expected):
        raise TypeError(f"{name} is a {type(value).__name__}, expected {annotation}")


def _saved(value: Any) -> Any:
    """A field of a state as it is saved: vectors as the rows of an array."""
    if isinstance(value, tuple):
        return np.array(value)
    return value.item() if isinstance(value, np.generic) else value


def _restored(value: Any, annotation: str) -> Any:
    return tuple(value) if annotation == "Vectors" else value


def _below(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
