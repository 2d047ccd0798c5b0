"""Rows that stay on disk: every product has the bits of the rows in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpinewton.data.manifest import read_manifest
from mpinewton.data.pack import pack
from mpinewton.data.shard import Shard
from mpinewton.data.shard_io import read_shard
from mpinewton.data.stored_rows import StoredRows
from mpinewton.errors import DataError
from mpinewton.linalg import rows as products
from mpinewton.linalg.rows import Rows
from mpinewton.losses import make_loss

SOURCES = {
    "dense": ("synthetic:logistic?rows=700&features=40", {"storage": "dense"}),
    "sparse": ("synthetic:logistic?rows=700&features=40&density=0.1", {"storage": "sparse"}),
    "full sparse": ("synthetic:logistic?rows=700&features=40", {"storage": "sparse"}),
    "centred": ("synthetic:logistic?rows=700&features=40", {"standardize": True}),
    "divided": ("synthetic:logistic?rows=700&features=40&density=0.1", {"storage": "sparse", "standardize": True}),
    "bytes": ("sklearn:digits", {"dtype": "uint8", "scale": "1/255"}),
    "empty": ("synthetic:logistic?rows=700&features=40&density=0.1", {"partition": "sizes:700,0"}),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SEGMENT_ENTRIES", 500)
    monkeypatch.setattr(products, "BLOCK_NUMBERS", 1000)
    monkeypatch.setattr("mpinewton.data.stored_rows.READ_NUMBERS", 2500)


@pytest.fixture(params=SOURCES)
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Shard, Shard]:
    source, options = SOURCES[request.param]
    manifest = pack(source, tmp_path / "p", 2, **options).manifest
    held, stored = (read_shard(tmp_path / "p", manifest, 1, keep=keep).with_intercept() for keep in (True, False))
    assert isinstance(stored.X, StoredRows)
    return held, stored


def same(one: Any, other: Any) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_products_have_the_same_bits(pair: tuple[Shard, Shard]) -> None:
    held, stored = (Rows(shard.X) for shard in pair)
    assert (held.n, held.p, held.sparse) == (stored.n, stored.p, stored.sparse)
    rng = np.random.default_rng(0)
    v, r, V = rng.standard_normal(held.p), rng.standard_normal(held.n), rng.standard_normal((held.p, 3))
    for name, *arguments in [("times", v), ("times", V), ("transpose_times", r), ("squares_transpose_times", r),
                             ("hvp", r, v), ("gram", r), ("gram", np.abs(r))]:  # fmt: skip
        assert same(getattr(held, name)(*arguments), getattr(stored, name)(*arguments)), name
    assert same(held.squares, stored.squares)


@pytest.mark.parametrize("name", ["logistic", "squared", "huber", "softmax"])
def test_losses_have_the_same_bits(pair: tuple[Shard, Shard], name: str) -> None:
    classes = tuple(float(c) for c in np.unique(pair[0].y)) or (-1.0, 1.0)
    if name == "logistic" and len(classes) > 2:
        name = "softmax"
    held, stored = (make_loss(name).on_shard(shard, classes) for shard in pair)
    rng = np.random.default_rng(1)
    w, p = rng.standard_normal((2, held.dim)) / 10
    for model in (held, stored):
        point = model.at(w)
        H = point.hessian()
        ray = point.along(p)
        model.found = [H, point.gradient(), point.value(), point.hvp(p), point.hessian_diagonal()]
        model.found += [ray.losses(np.array([1.0, 0.5])), ray.at(0.5).value(), ray.at(0.5).gradient()]
        model.found += [model.at(w).value(), model.at(w).gradient(), model.predict(w)]
        if pair[0].rows:
            some = np.array([7, 3, 4, 5, 300, 3])
            model.found += [model.subset(some).at(w).gradient(), model.subset(some[:0]).at(w).value()]
    assert all(same(one, other) for one, other in zip(held.found, stored.found, strict=True))


def test_the_hessian_of_softmax_reads_the_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = pack("sklearn:digits", tmp_path / "p", 1).manifest
    shard = read_shard(tmp_path / "p", manifest, 0, keep=False)
    point = make_loss("softmax").on_shard(shard, manifest.classes).at(np.zeros(640))
    point.gradient()
    reads, blocks = [], StoredRows.blocks
    monkeypatch.setattr(StoredRows, "blocks", lambda self, parts: reads.append(1) or blocks(self, parts))
    point.hessian()
    assert len(reads) == 1


def test_one_segment_is_the_sum_over_many(pair: tuple[Shard, Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(pair[0].X)
    r = np.random.default_rng(0).standard_normal(rows.n)
    parts = rows.transpose_times(r), rows.gram(r)
    monkeypatch.setattr(products, "SEGMENT_ENTRIES", 1 << 20)
    whole = Rows(pair[0].X)
    for one, other in zip(parts, (whole.transpose_times(r), whole.gram(r))):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_stored_rows_are_checked_when_they_are_opened(tmp_path: Path) -> None:
    pack("synthetic:logistic?rows=700&features=40", tmp_path / "p", 1)
    path = tmp_path / "p" / "shard-0000.h5"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"damaged|digest differs"):
        read_shard(tmp_path / "p", read_manifest(tmp_path / "p"), 0, keep=False)


def test_a_file_that_is_damaged_later_is_refused(tmp_path: Path) -> None:
    manifest = pack("synthetic:logistic?rows=700&features=40", tmp_path / "p", 1).manifest
    rows = Rows(read_shard(tmp_path / "p", manifest, 0, keep=False).X)
    path = tmp_path / "p" / "shard-0000.h5"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match="'X' is damaged"):
        rows.times(np.ones(40))
