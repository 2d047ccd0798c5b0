"""Packing: shards hold the source's rows, appear complete or not at all, however they were made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn import datasets

from mpinewton.data import pack as packing
from mpinewton.data.blocks import Reading
from mpinewton.data.columns import Schema
from mpinewton.data.loading import load_rows
from mpinewton.data.manifest import read_manifest
from mpinewton.data.pack import Packed, pack
from mpinewton.data.partition import partition
from mpinewton.data.shard import Shard
from mpinewton.data.shard_io import read_shard
from mpinewton.errors import ConfigError, DataError, MpinewtonError


def shards(folder: Path) -> list[Shard]:
    manifest = read_manifest(folder)
    return [read_shard(folder, manifest, index) for index in range(manifest.workers)]


def dense(X: Any) -> np.ndarray:
    return X if isinstance(X, np.ndarray) else X.toarray()


def libsvm_text(path: Path, rows: int = 400, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((rows, 30)) * (rng.random((rows, 30)) < 0.1), rng.integers(0, 3, rows)
    datasets.dump_svmlight_file(X, y, str(path), zero_based=False)
    return str(path)


def through_json(task: Callable[[dict[str, Any]], dict[str, Any]], items: Sequence[dict[str, Any]]) -> list[Any]:
    """Items and results travel as JSON, and the tasks are done in another order: as on several processes."""
    done = {k: json.loads(json.dumps(task(json.loads(json.dumps(items[k]))))) for k in reversed(range(len(items)))}
    return [done[k] for k in range(len(items))]


@pytest.mark.parametrize(
    ("rule", "storage", "dtype"),
    [
        ("iid", "dense", "float64"), ("iid", "sparse", "float32"), ("blocks", "dense", "float32"),
        ("label-skew:2", "sparse", "float64"), ("dirichlet:0.05", "dense", "float64"),
        ("quantity:0.05", "sparse", "float32"),
    ],
)  # fmt: skip
def test_shards_hold_the_rows_of_the_partition(tmp_path: Path, rule: str, storage: str, dtype: str) -> None:
    X, y = datasets.load_digits(return_X_y=True)
    pack("sklearn:digits", tmp_path / "p", 9, partition=rule, seed=3, scale="1/255", storage=storage, dtype=dtype)
    for shard, rows in zip(shards(tmp_path / "p"), partition(y, 9, rule, 3), strict=True):
        assert np.array_equal(dense(shard.X), (X[rows] / 255).astype(dtype))
        assert np.array_equal(shard.y, y[rows])


def test_text_becomes_sparse_shards_and_empty_ones_where_workers_outnumber_rows(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("1 2:1.5\n-1\n1 1:-1 3:2 # x\n")
    packed = pack(str(tmp_path / "t"), tmp_path / "p", 5, partition="blocks", reading=Reading(features=10))
    manifest = packed.manifest
    assert (manifest.sparse, manifest.features, manifest.classes) == (True, 10, (-1.0, 1.0))
    assert (packed.stored, packed.class_rows) == (3, (1, 2))
    parts = shards(tmp_path / "p")
    assert [shard.rows for shard in parts] == [1, 1, 1, 0, 0]
    assert dense(parts[2].X).tolist() == [[-1, 0, 2, 0, 0, 0, 0, 0, 0, 0]]
    assert parts[4].X.shape == (0, 10)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_empty_compressed_weighted_shards(tmp_path: Path, storage: str) -> None:
    weight = np.array([0.5, 2.0])
    np.savez(tmp_path / "a.npz", X=np.eye(2), y=np.array(["no", "yes"]), weight=weight)
    pack(str(tmp_path / "a.npz"), tmp_path / "p", 3, partition="blocks:0,2,0", storage=storage, compress=True)
    manifest = read_manifest(tmp_path / "p")
    assert (manifest.classes, manifest.class_names, manifest.weighted) == ((0.0, 1.0), ("no", "yes"), True)
    assert [entry.mass for entry in manifest.shards] == [0, 2.5, 0]
    assert np.array_equal(shards(tmp_path / "p")[1].sample_weight, weight)


def test_ranges_processes_names_and_compression_leave_the_content_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = libsvm_text(tmp_path / "t")
    whole = pack(source, tmp_path / "a", 4)
    monkeypatch.setattr(packing, "RANGE_BYTES", 1000)
    calls: list[int] = []

    def each(task: Any, items: Sequence[dict[str, Any]]) -> list[Any]:
        calls.append(len(items))
        return through_json(task, items)

    parts = pack(source, tmp_path / "b", 4, compress=True, each=each)
    assert calls[0] > 10
    assert calls[1] == 4
    assert parts.manifest == whole.manifest
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b", "t"]


@pytest.mark.parametrize("dtype", ["float64", "uint8"])
@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_a_sample_is_the_beginning_of_a_permutation(tmp_path: Path, storage: str, dtype: str) -> None:
    X, y = datasets.load_digits(return_X_y=True)
    chosen = np.random.default_rng(3).permutation(1797)[:500]
    packed = pack("sklearn:digits", tmp_path / "p", 4, sample=500, seed=3, storage=storage, dtype=dtype)
    assert (packed.manifest.rows, packed.manifest.partition) == (500, "iid")
    assert packed.stored == np.count_nonzero(X[chosen])
    assert packed.class_rows == tuple(np.bincount(y[chosen].astype(int)))
    for worker, shard in enumerate(shards(tmp_path / "p")):
        assert np.array_equal(dense(shard.X), X[chosen[worker::4]])
        assert np.array_equal(shard.y, y[chosen[worker::4]])


def test_a_sample_of_sparse_text_keeps_its_rows_and_its_width(tmp_path: Path) -> None:
    source = libsvm_text(tmp_path / "t")
    whole, _ = load_rows(source)
    pack(source, tmp_path / "p", 1, partition="blocks", sample=7)
    (shard,) = shards(tmp_path / "p")
    chosen = np.random.default_rng(0).permutation(400)[:7]
    assert np.array_equal(dense(shard.X), dense(whole.X)[chosen])
    assert np.array_equal(shard.y, whole.y[chosen])


@pytest.mark.parametrize("sample", [0, 151])
def test_a_sample_larger_than_the_source_is_refused(tmp_path: Path, sample: int) -> None:
    with pytest.raises(DataError, match=f"iris: --sample {sample}: expected 1 to 150, the number of rows"):
        pack("sklearn:iris", tmp_path / "p", 2, sample=sample)
    assert not (tmp_path / "p").exists()


def test_the_digest_sees_every_number(tmp_path: Path) -> None:
    def digest(name: str, **setting: Any) -> str:
        packed: Packed = pack("sklearn:iris", tmp_path / name, 2, **setting)
        return packed.manifest.data_sha256

    first = digest("a")
    assert digest("b") == first
    others = {digest("c", seed=1), digest("d", scale="2"), digest("e", dtype="float32"), digest("f", storage="sparse")}
    assert len({first, *others}) == 5


def test_auto_storage_goes_by_the_source_and_the_share_of_entries(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.write_text("".join(f"{n} 1:1 2:2 3:3\n" for n in range(5)))
    assert not pack(str(full), tmp_path / "a", 1).manifest.sparse
    assert pack(str(full), tmp_path / "b", 1, reading=Reading(features=13)).manifest.sparse
    assert not pack("sklearn:digits", tmp_path / "c", 1).manifest.sparse


def test_labels_are_classes_or_numbers(tmp_path: Path) -> None:
    assert pack("sklearn:diabetes", tmp_path / "a", 1).manifest.classes is not None  # 214 whole numbers
    assert pack("synthetic:least-squares?rows=50", tmp_path / "b", 1).manifest.classes is None
    many = tmp_path / "many"
    many.write_text("".join(f"{n} 1:1\n" for n in range(1001)))
    assert pack(str(many), tmp_path / "c", 1).manifest.classes is None
    assert pack(str(many), tmp_path / "d", 1, reading=Reading(rows=1000)).manifest.classes is not None


def test_the_prescribed_shards_of_a_source(tmp_path: Path) -> None:
    pack("synthetic:pisa?workers=6&features=4", tmp_path / "p", 6, partition="as-given")
    sizes = np.random.default_rng(0).integers(50, 151, size=6)
    assert [shard.rows for shard in shards(tmp_path / "p")] == sizes.tolist()
    with pytest.raises(ConfigError, match="prescribes no shards"):
        pack("sklearn:iris", tmp_path / "q", 6, partition="as-given")


@pytest.mark.parametrize(
    ("text", "setting", "words"),
    [
        ("1 1:1\n1 x\n", {}, "t:2: 'x' has no colon"),
        ("1 1:1\n", {"partition": "sizes:3"}, "sizes"),
        ("1 1:1\n", {"scale": "0"}, "--scale"),
        ("1 1:1e300\n", {"scale": "1e99"}, "is not finite; use a smaller factor"),
        ("1\n", {}, "no row has a feature"),
        ("", {}, "has no rows"),
        ("# nothing\n", {}, "has no rows"),
    ],
)
def test_nothing_is_left_behind_by_a_refusal(tmp_path: Path, text: str, setting: Any, words: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises((ConfigError, DataError), match=words):
        pack(str(tmp_path / "t"), tmp_path / "p", 1, **setting)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_nothing_is_left_behind_by_an_interrupt_and_the_earlier_pack_stays(tmp_path: Path) -> None:
    pack("sklearn:iris", tmp_path / "p", 2)
    before = read_manifest(tmp_path / "p")

    def interrupted(task: Any, items: Any) -> Any:
        task(items[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack("sklearn:wine", tmp_path / "p", 2, overwrite=True, each=interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert read_manifest(tmp_path / "p") == before


def test_the_same_pack_again_writes_nothing(tmp_path: Path) -> None:
    """Other arguments, a changed source and a missing shard are noticed."""
    text, target = tmp_path / "t.csv", tmp_path / "p"
    text.write_text("1,0\n2,1\n3,0\n4,1\n")
    first = pack(str(text), target, 2, reading=Reading(header=False))
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    again = pack(str(text), target, 2, reading=Reading(header=False), each=None)  # type: ignore[arg-type]
    assert again.manifest == read_manifest(target) and "packed before" in again.notes[0]
    assert again.manifest.data_sha256 == first.manifest.data_sha256
    assert before == {path: path.stat().st_mtime_ns for path in target.iterdir()}
    with pytest.raises(ConfigError, match="holds an earlier pack, of other data or options"):
        pack(str(text), target, 2, reading=Reading(header=False), seed=1)
    (target / "shard-0001.h5").rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="holds an earlier pack"):
        pack(str(text), target, 2, reading=Reading(header=False))
    (tmp_path / "away").rename(target / "shard-0001.h5")
    text.write_text("1,0\n2,1\n3,0\n5,1\n")
    with pytest.raises(ConfigError, match="holds an earlier pack"):
        pack(str(text), target, 2, reading=Reading(header=False))
    other = pack(str(text), target, 2, reading=Reading(header=False), overwrite=True)
    assert other.manifest.data_sha256 != first.manifest.data_sha256


def test_only_an_earlier_pack_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "p"
    target.mkdir()
    pack("sklearn:iris", target, 2)  # an empty folder is as good as none
    with pytest.raises(ConfigError, match="pass --overwrite"):
        pack("sklearn:wine", target, 2)
    pack("sklearn:wine", target, 3, overwrite=True)
    assert read_manifest(target).source == "sklearn:wine"
    (target / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"also holds thesis\.tex"):
        pack("sklearn:iris", target, 2, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("precious")
    for odd in (tmp_path / "other", tmp_path / "other" / "file"):
        with pytest.raises(ConfigError, match="not a folder made by pack"):
            pack("sklearn:iris", odd, 2, overwrite=True)


def test_a_full_disk_is_an_error_with_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import resource, signal, sys\n"
        "from mpinewton.data.pack import pack\n"
        "from mpinewton.errors import MpinewtonError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)\n"
        "try:\n    pack('synthetic:logistic?rows=4000&features=9', sys.argv[1], 1)\n"
        "except MpinewtonError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "p")], capture_output=True, text=True, check=True)
    assert "p: cannot be written (the file is larger than allowed" in done.stdout
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: SimpleNamespace(free=3000))
    with pytest.raises(
        MpinewtonError, match=r"p: cannot be written.*the shards need about 0\.006 MB, 0\.003 MB are free"
    ):
        pack("sklearn:iris", tmp_path / "p", 1)
    assert list(tmp_path.iterdir()) == []


def test_load_rows_of_a_packed_folder(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,pear\n2,fig\n3,pear\n")
    pack(str(tmp_path / "t.csv"), tmp_path / "p", 2, partition="blocks", scale="3")
    shard, classes = load_rows(str(tmp_path / "p"), Schema(1, ("apple", "pear", "fig"), "3"))
    assert shard.X.tolist() == [[3], [6], [9]]
    with pytest.raises(DataError, match=r"has 1 features, but the training data have 2; .* --features 2"):
        load_rows(str(tmp_path / "p"), Schema(features=2, scale="3"))
    with pytest.raises(DataError, match="was packed with --scale 3, and the training data with --scale 1"):
        load_rows(str(tmp_path / "p"), Schema(features=1))
    assert (shard.y.tolist(), classes) == ([1, 2, 1], (0, 1, 2))
    with pytest.raises(DataError, match="'fig' is not a class"):
        load_rows(str(tmp_path / "p"), Schema(class_names=("pear",)))
    with pytest.raises(DataError, match="'fig' is not a class"):
        load_rows(str(tmp_path / "p"), Schema(class_names=()))
    pack("sklearn:iris", tmp_path / "q", 2)
    with pytest.raises(DataError, match="has 4 features, but the training data have 3"):
        load_rows(str(tmp_path / "q"), Schema(features=3))
    with pytest.raises(DataError, match="found numbers"):
        load_rows(str(tmp_path / "q"), Schema(class_names=("a", "b")))


@pytest.mark.slow
def test_memory_is_bounded_by_the_block_not_by_the_file(tmp_path: Path) -> None:
    line = b"1 " + b" ".join(b"%d:0.5" % k for k in range(1, 100, 2)) + b"\n"
    (tmp_path / "t").write_bytes(line * 60_000)  # 20 MB of text, 36 MB of entries
    code = (
        "import sys, resource\n"
        "from mpinewton.data.pack import pack\n"
        "pack(sys.argv[1], sys.argv[2], 3, storage='sparse') if len(sys.argv) > 2 else None\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )

    def peak(*arguments: str) -> int:
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert (peak(str(tmp_path / "t"), str(tmp_path / "p")) - peak()) / 1024 < 160


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(bytes(tmp_path) + b"/\xff.csv")
    Path(path).write_text("1,2,0\n3,4,1\n", encoding="utf-8")
    pack(path, tmp_path / "p", 1)
    assert read_manifest(tmp_path / "p").source.endswith("\N{REPLACEMENT CHARACTER}.csv")
