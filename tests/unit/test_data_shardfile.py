"""Shards and manifests from elsewhere: what is damaged, hostile, newer or of another pack is refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy import sparse

from mpinewton.data.manifest import is_plain_name, read_manifest
from mpinewton.data.pack import pack
from mpinewton.data.shard_io import read_file, read_shard
from mpinewton.errors import DataError

CHECKED = {"fletcher32": True, "maxshape": (None,), "chunks": (5,)}


@pytest.fixture(params=["dense", "sparse"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    pack("synthetic:logistic?rows=20&features=3", tmp_path / "p", 2, storage=request.param)
    return tmp_path / "p"


def read_all(folder: Path) -> list[bytes]:
    manifest = read_manifest(folder)
    shards = [read_shard(folder, manifest, index) for index in range(manifest.workers)]
    return [shard.y.tobytes() + (shard.X @ np.eye(shard.features)).tobytes() for shard in shards]


def replaced(name: str, make: Callable[[h5py.File], Any]) -> Callable[[h5py.File], Any]:
    def edit(file: h5py.File) -> None:
        del file[name]
        made = make(file)
        if isinstance(made, h5py.Dataset):
            made.attrs["digest"] = np.bytes_("0" * 64)

    return edit


def compound(file: h5py.File) -> Any:
    return file.create_dataset("y", data=np.zeros(10, [("a", "f8"), ("b", "f8")]), **CHECKED)


def virtual(file: h5py.File) -> Any:
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "y", (10,))
    return file.create_virtual_dataset("y", layout)


HOSTILE = {
    "external link": replaced("y", lambda f: f.__setitem__("y", h5py.ExternalLink("/etc/passwd", "/y"))),
    "soft link": replaced("y", lambda f: f.__setitem__("y", h5py.SoftLink("/y"))),
    "external storage": replaced("y", lambda f: f.create_dataset("y", (10,), "f8", external=[("/etc/passwd", 0, 80)])),
    "virtual": replaced("y", virtual),
    "group": replaced("y", lambda f: f.create_group("y")),
    "vlen": replaced("y", lambda f: f.create_dataset("y", (10,), h5py.vlen_dtype("f8"))),
    "object": replaced("y", lambda f: f.create_dataset("y", (10,), h5py.string_dtype())),
    "compound": replaced("y", compound),
    "integers": replaced("y", lambda f: f.create_dataset("y", (10,), "i8", **CHECKED)),
    "big-endian": replaced("y", lambda f: f.create_dataset("y", (10,), ">f8", **CHECKED)),
    "matrix": replaced("y", lambda f: f.create_dataset("y", (10, 1), "f8", fletcher32=True, chunks=(5, 1))),
    "short": replaced("y", lambda f: f.create_dataset("y", data=np.zeros(9), **CHECKED)),
    "no checksum": replaced("y", lambda f: f.create_dataset("y", data=np.zeros(10), chunks=(5,))),
    "gzip": replaced("y", lambda f: f.create_dataset("y", data=np.zeros(10), compression="gzip", **CHECKED)),
    "never written": replaced("y", lambda f: f.create_dataset("y", (10,), "f8", **CHECKED)),
    "other numbers": replaced("y", lambda f: f.create_dataset("y", data=np.zeros(10), **CHECKED)),
    "missing": lambda f: f.__delitem__("y"),
    "stranger": lambda f: f.create_dataset("z", data=np.zeros(2)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_data_sets_are_refused(folder: Path, kind: str) -> None:
    path = folder / "shard-0001.h5"
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        HOSTILE[kind](file)
    named = r"expected data sets .*; found " if kind in ("missing", "stranger") else "data set 'y'"
    with pytest.raises(DataError, match=rf"shard-0001\.h5: {named}"):
        read_shard(folder, read_manifest(folder), 1)


ABSURD = 1 << 50


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("rows", 11, "shape"),
        ("rows", ABSURD, "shape"),
        ("rows", -1, "not valid"),
        ("features", 4, "shape|features is 4"),
        ("features", ABSURD, "not valid"),
        ("classes", np.array([0.0, 1.0]), r"classes is \(0.0, 1.0\), but the manifest says \(-1.0, 1.0\)"),
        ("source", np.bytes_("elsewhere"), "source is elsewhere"),
        ("dtype", np.bytes_("float32"), "has dtype float64; expected float32"),
        ("dtype", np.bytes_("object"), "none of"),
        ("format", np.bytes_("mpinewton-model/1"), "expected mpinewton-shard/2"),
        ("format", "a text of variable length", "neither short text"),
        ("classes", np.zeros(10_000), "neither short text"),
    ],
)
def test_odd_attributes_are_refused(folder: Path, attribute: str, value: Any, words: str) -> None:
    with h5py.File(folder / "shard-0000.h5", "r+", libver=("v110", "v110")) as file:
        del file.attrs[attribute]
        file.attrs[attribute] = value
    with pytest.raises(DataError, match=words):
        read_shard(folder, read_manifest(folder), 0)


def test_a_compression_bomb_is_refused_before_it_is_unpacked(folder: Path) -> None:
    huge = 1 << 45
    with h5py.File(folder / "shard-0000.h5", "r+", libver=("v110", "v110")) as file:
        file.attrs["rows"] = huge
        for name in ("y", "counts") if "counts" in file else ("y", "X"):
            del file[name]
            shape, kind = (huge, 3) if name == "X" else (huge,), "i4" if name == "counts" else "f8"
            file.create_dataset(name, shape, kind, chunks=(4096, 3)[: len(shape)], fletcher32=True, compression="lzf")
    with pytest.raises(DataError, match=r"claims \d{15,} bytes"):
        read_file(folder / "shard-0000.h5")


def test_indices_out_of_range_never_reach_scipy(tmp_path: Path) -> None:
    pack("synthetic:logistic?rows=20&features=3", tmp_path / "p", 1, storage="sparse")
    path = tmp_path / "p" / "shard-0000.h5"
    for name, place, value, words in [("indices", 5, 3, "'indices'"), ("counts", 3, 200, "'counts'")]:
        with h5py.File(path, "r+") as file:
            kept = file[name][place]
            file[name][place] = value
        with pytest.raises(DataError, match=words):
            read_file(path, verify=False)
        with h5py.File(path, "r+") as file:
            file[name][place] = kept
    assert read_file(path)[1].rows == 20


def test_a_shard_of_another_pack_is_refused(folder: Path, tmp_path: Path) -> None:
    pack("synthetic:logistic?rows=20&features=3&seed=1", tmp_path / "q", 2, storage="auto")
    for index, other in [(0, folder / "shard-0001.h5"), (0, tmp_path / "q" / "shard-0000.h5")]:
        mixed = tmp_path / f"mixed-{other.parent.name}"
        shutil.copytree(folder, mixed)
        shutil.copy(other, mixed / "shard-0000.h5")
        with pytest.raises(DataError, match=r"shard-0000\.h5: .* but the manifest says"):
            read_shard(mixed, read_manifest(mixed), index)


def test_formats_of_the_future_name_the_version_to_install(folder: Path) -> None:
    with h5py.File(folder / "shard-0000.h5", "r+", libver=("v110", "v110")) as file:
        for name, text in (("format", "mpinewton-shard/99"), ("min_reader", "9.9.0")):
            del file.attrs[name]
            file.attrs[name] = np.bytes_(text)
    with pytest.raises(DataError, match=r"shard/99, written by a newer.*pip install 'mpinewton>=9\.9\.0'"):
        read_shard(folder, read_manifest(folder), 0)
    edit_manifest(folder, format="mpinewton-manifest/99", min_reader="9.9.0", colour="blue")
    with pytest.raises(DataError, match=r"manifest/99, written by a newer.*pip install 'mpinewton>=9\.9\.0'"):
        read_manifest(folder)


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "blue"}, "unknown field `colour`"),
        ({"rows": 21}, "rows is 21"),
        ({"rows": "20"}, "Expected `int`"),
        ({"workers": 3}, "workers is 3"),
        ({"features": 0}, "features is 0"),
        ({"dtype": "object"}, "dtype"),
        ({"classes": [1, -1]}, "increasing"),
        ({"class_names": ["a"]}, "class_names"),
        ({"data_sha256": "0"}, "data_sha256"),
        ({"format": "other"}, "expected mpinewton-manifest/1"),
    ],
)
def test_odd_manifests_are_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(DataError, match=rf"manifest\.json: .*{words}"):
        read_manifest(folder)


@pytest.mark.parametrize("name", ["../x.h5", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "a\\b", "x" * 300, "a\nb"])
def test_only_plain_names_are_followed(folder: Path, name: str) -> None:
    assert not is_plain_name(name)
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    edit_manifest(folder, shards=[{**shards[0], "file": name}, shards[1]])
    with pytest.raises(DataError, match="not a plain name inside the folder"):
        read_manifest(folder)


def test_links_out_of_the_folder_and_missing_files_are_refused(folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(folder)
    shutil.move(folder / "shard-0000.h5", tmp_path / "away.h5")
    with pytest.raises(DataError, match="no such file"):
        read_shard(folder, manifest, 0)
    (folder / "shard-0000.h5").symlink_to(tmp_path / "away.h5")
    with pytest.raises(DataError, match="symbolic link to another folder"):
        read_shard(folder, manifest, 0)
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read"):
        read_manifest(tmp_path)


@pytest.mark.slow
def test_no_damaged_byte_gives_other_numbers(folder: Path) -> None:
    whole = read_all(folder)
    path = folder / "shard-0000.h5"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    damaged = [good[:cut] for cut in rng.integers(0, len(good), 20)]
    for at, bit in zip(rng.integers(0, len(good), 120), rng.integers(0, 8, 120)):
        flipped = bytearray(good)
        flipped[at] ^= 1 << bit
        damaged.append(bytes(flipped))
    for page in range(0, len(good), 512):
        damaged.append(good[:page] + bytes(512) + good[page + 512 :])
    for data in damaged:
        path.write_bytes(data)
        try:
            assert read_all(folder) == whole
        except DataError as error:
            assert "shard-0000.h5" in str(error)
            refused += 1
    assert refused > 50


def test_shards_are_open_to_readers_of_hdf5_1_10_and_checksummed(folder: Path) -> None:
    with h5py.File(folder / "shard-0000.h5", "r", locking=False) as file:
        assert file.attrs["format"] == b"mpinewton-shard/2"
        assert all(file[name].fletcher32 and len(file[name].attrs["digest"]) == 64 for name in file)


ENTRIES = {  # values of stored entries, and the type in which a file holds them
    "ones": (np.ones(40), None),
    "bytes": (np.r_[np.ones(39), 255.0], "uint8"),
    "signed": (np.r_[np.ones(39), -1.0], "int8"),
    "eighths": (np.r_[np.ones(39), 0.125], "float32"),
    "large": (np.r_[np.ones(39), 2.0**24 + 1], "int32"),
    "tenths": (np.r_[np.ones(39), 0.1], "float64"),
    "minus zero": (np.r_[np.ones(39), -0.0], "float32"),
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize(("features", "index"), [(256, "uint8"), (257, "uint16"), (65537, "int32")])
def test_files_hold_the_smallest_exact_types(tmp_path: Path, name: str, features: int, index: str) -> None:
    values, kind = ENTRIES[name]
    X = sparse.csr_array((values, np.tile([0, 1, 5, 255], 10), np.arange(0, 41, 4)), (10, features))
    np.savez(tmp_path / "s.npz", data=X.data, indices=X.indices, indptr=X.indptr, shape=X.shape, y=np.tile([-1, 1], 5))
    manifest = pack(str(tmp_path / "s.npz"), tmp_path / "p", 1, storage="sparse", partition="blocks").manifest
    with h5py.File(tmp_path / "p" / "shard-0000.h5", "r") as file:
        assert (str(file["data"].dtype) if "data" in file else None) == kind
        assert [str(file[part].dtype) for part in ("indices", "counts", "y")] == [index, "uint8", "int8"]
    shard = read_shard(tmp_path / "p", manifest, 0)
    assert shard.X.data.tobytes() == values.tobytes()
    assert np.array_equal(shard.X.toarray(), X.toarray())
    assert shard.y.dtype == np.float64


def to_first_format(path: Path) -> None:
    """Rewrite a shard as the first format has it."""
    shard = read_file(path)[1]
    X = shard.X
    arrays = {"X": X} if isinstance(X, np.ndarray) else {"data": X.data, "indices": X.indices.astype("i4")}
    arrays |= {} if isinstance(X, np.ndarray) else {"indptr": X.indptr.astype("i8")}
    with h5py.File(path, "r") as file:
        attributes = dict(file.attrs) | {"format": np.bytes_("mpinewton-shard/1")}
    attributes.pop("ones", None)
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs.update(attributes)
        for name, array in (arrays | {"y": shard.y}).items():
            made = file.create_dataset(
                name, data=array, chunks=True, maxshape=(None, *array.shape[1:]), fletcher32=True
            )
            made.attrs["digest"] = np.bytes_(hashlib.blake2b(array.tobytes(), digest_size=32).hexdigest())


def test_shards_of_the_first_format_are_read_and_have_the_same_digests(folder: Path) -> None:
    expected = read_all(folder)
    for path in folder.glob("*.h5"):
        to_first_format(path)
    assert read_all(folder) == expected
    with h5py.File(folder / "shard-0000.h5", "r+") as file:
        del file["y"]
        file.create_dataset("y", data=np.zeros(10, np.int8), **CHECKED)
    with pytest.raises(DataError, match="data set 'y' has dtype int8; expected float64"):
        read_shard(folder, read_manifest(folder), 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.attrs.__setitem__("ones", np.bytes_("0" * 64)), "data set 'data' has changed"),
        (lambda file: file.attrs.__delitem__("ones"), "expected data sets counts, data, indices, y; found counts"),
        (replaced("counts", lambda f: f.create_dataset("counts", data=np.full(10, -1, "i1"), **CHECKED)), "not count"),
        (replaced("counts", lambda f: f.create_dataset("counts", data=np.ones(10, "f4"), **CHECKED)), "dtype float32"),
        (replaced("indices", lambda f: f.create_dataset("indices", (40,), "u4", **CHECKED)), "dtype uint32"),
        (lambda file: file["indices"].__setitem__(slice(0, 2), [1, 0]), "digest differs|not increasing"),
        (lambda file: file["counts"].__setitem__(slice(0, 2), [5, 3]), "'counts' has changed"),
    ],
)
def test_narrow_data_sets_are_checked(tmp_path: Path, change: Callable[[h5py.File], Any], words: str) -> None:
    X = sparse.csr_array((np.ones(40), np.tile([0, 1, 5, 255], 10), np.arange(0, 41, 4)), (10, 300))
    np.savez(tmp_path / "s.npz", data=X.data, indices=X.indices, indptr=X.indptr, shape=X.shape, y=np.arange(10.0))
    manifest = pack(str(tmp_path / "s.npz"), tmp_path / "p", 1, storage="sparse").manifest
    with h5py.File(tmp_path / "p" / "shard-0000.h5", "r+") as file:
        change(file)
    with pytest.raises(DataError, match=words):
        read_shard(tmp_path / "p", manifest, 0)
