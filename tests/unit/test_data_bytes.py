"""Features kept as bytes: an eighth of the space, and the same numbers, in every loss."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from scipy import sparse
from sklearn.datasets import load_digits

from mpinewton.cli import check, info, run_command_line
from mpinewton.cli import pack as pack_command
from mpinewton.data.loading import load_rows
from mpinewton.data.manifest import read_manifest
from mpinewton.data.pack import pack
from mpinewton.data.scale import factor, multiply
from mpinewton.data.shard import Shard
from mpinewton.data.shard_io import read_file, read_shard
from mpinewton.errors import DataError
from mpinewton.fleet.host import Host
from mpinewton.fleet.plan import Plan
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.losses import make_loss


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    for dtype in ("uint8", "float64"):
        pack("sklearn:digits", tmp_path / dtype, 3, scale="1/255", dtype=dtype)
    return tmp_path / "uint8", tmp_path / "float64"


def test_the_same_numbers_in_an_eighth_of_the_space(both: tuple[Path, Path]) -> None:
    manifests = [read_manifest(folder) for folder in both]
    for index in range(3):
        small, large = (read_shard(folder, m, index) for folder, m in zip(both, manifests))
        assert small.X.dtype == np.float64
        np.testing.assert_array_equal(small.X, large.X)
        np.testing.assert_array_equal(small.y, large.y)
        narrow = read_shard(both[0], manifests[0], index, dtype="float32")
        np.testing.assert_array_equal(narrow.X, large.X.astype(np.float32))
        stored = read_shard(both[0], manifests[0], index, dtype=None)
        assert (stored.X.dtype, stored.scale) == (np.uint8, Fraction(1, 255))
        with h5py.File(both[0] / f"shard-000{index}.h5") as a, h5py.File(both[1] / f"shard-000{index}.h5") as b:
            assert 8 * a["X"].nbytes == b["X"].nbytes
            assert a["X"].id.get_storage_size() < b["X"].id.get_storage_size() / 4  # chunks are whole


def test_sparse_rows(tmp_path: Path) -> None:
    X, y = load_digits(return_X_y=True)
    pack("sklearn:digits", tmp_path / "p", 2, scale="0.5", dtype="uint8", storage="sparse", partition="round-robin")
    manifest = read_manifest(tmp_path / "p")
    stored = read_shard(tmp_path / "p", manifest, 1, dtype=None)
    assert sparse.issparse(stored.X) and stored.X.dtype == np.uint8
    np.testing.assert_array_equal(read_shard(tmp_path / "p", manifest, 1).X.toarray(), X[1::2] / 2)
    whole, _ = load_rows(str(tmp_path / "p"))
    assert whole.scale == 1
    np.testing.assert_array_equal(whole.X.toarray(), np.concatenate([X[::2], X[1::2]]) / 2)
    np.testing.assert_array_equal(whole.y, np.concatenate([y[::2], y[1::2]]))


@pytest.mark.parametrize("loss", ["softmax", "mlp:hidden=5"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_losses_that_want_numbers_get_the_same_to_the_bit(both: tuple[Path, Path], loss: str, dtype: str) -> None:
    w, found = None, []
    for folder in both:
        plan = Plan(str(folder), read_manifest(folder), loss, 1e-3, dtype=dtype)
        host = Host.load(plan, range(3))
        w = plan.problem().initial_weights() + 0.1 if w is None else w
        found.append([worker.evaluate(w) for worker in host.workers])
    for (f, g), (other, h) in zip(*found):
        assert f == other
        np.testing.assert_array_equal(g, h)


def test_what_is_no_byte_is_refused_with_its_row(tmp_path: Path) -> None:
    for number, X in enumerate((np.array([[0.0, 255.0], [3.0, 0.5]]), np.array([[1.0, 0.0], [0.0, 256.0]]))):
        np.savez(tmp_path / "x.npz", X=X, y=np.zeros(2))
        form = sparse.csr_array(X)
        parts = {"data": form.data, "indices": form.indices, "indptr": form.indptr, "shape": form.shape}
        np.savez(tmp_path / "s.npz", y=np.zeros(2), **parts)
        for name in ("x.npz", "s.npz"):
            with pytest.raises(DataError, match=rf"row 2 has the feature {('0.5', '256')[number]}; --dtype uint8"):
                pack(str(tmp_path / name), tmp_path / "p", 1, dtype="uint8")
    assert not (tmp_path / "p").exists()


def test_the_scale_belongs_to_the_shard(tmp_path: Path) -> None:
    for scale in ("1", "1/255"):
        pack("sklearn:digits", tmp_path / scale.replace("/", "-"), 1, scale=scale, dtype="uint8")
    plain, divided = (read_manifest(tmp_path / name) for name in ("1", "1-255"))
    assert plain.data_sha256 != divided.data_sha256  # it is another problem
    path = tmp_path / "1-255" / "shard-0000.h5"
    assert read_file(path)[0].scale == "1/255"
    for text, words in (("1", "scale is 1, but the manifest says 1/255"), ("1/0", "not a number or a fraction")):
        with h5py.File(path, "r+") as file:
            file.attrs["scale"] = np.bytes_(text)
        with pytest.raises(DataError, match=words):
            read_shard(tmp_path / "1-255", divided, 0)


def test_check_and_info_show_it(both: tuple[Path, Path]) -> None:
    def said(module, path):
        result = CliRunner().invoke(module.command, [str(path)], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    assert said(check, both[0]).splitlines()[0] == "shard-0000.h5: ok, 599 rows"
    assert "ok, 599 rows" in said(check, both[0] / "shard-0000.h5")
    assert "dtype        uint8" in said(info, both[0])
    shown = said(info, both[0] / "shard-0000.h5")
    assert "scale        1/255" in shown
    assert "X            uint8 599x64" in shown


def test_images_are_kept_as_bytes_unless_told_otherwise(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 3), dtype=np.uint8)
    (tmp_path / "t-images-idx3-ubyte").write_bytes(
        b"\0\0\x08\x03" + np.array([6, 2, 3], ">u4").tobytes() + images.tobytes()
    )
    (tmp_path / "t-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + np.array([6], ">u4").tobytes() + bytes([0, 1] * 3))
    source = str(tmp_path / "t-images-idx3-ubyte")
    said = (
        CliRunner()
        .invoke(
            pack_command.command,
            [source, "-o", str(tmp_path / "p"), "--workers", "1", "--partition", "blocks", "--scale", "1/255"],
        )
        .output
    )
    assert "dense uint8" in said
    manifest = read_manifest(tmp_path / "p")
    np.testing.assert_array_equal(read_shard(tmp_path / "p", manifest, 0).X, images.reshape(6, 6) / 255)
    pack(source, tmp_path / "q", 1, dtype="float32", scale="1/255")
    assert read_manifest(tmp_path / "q").dtype == "float32"


@pytest.mark.slow
def test_a_model_trained_on_bytes_predicts_on_floats(both: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    options = ["--loss", "softmax", "--max-iterations", "5", "--test", str(both[1])]
    for folder in both:
        assert (
            run_command_line(
                LocalSession(), ["run", "lbfgs", str(folder), "-o", str(tmp_path / f"r-{folder.name}"), *options]
            )
            == 0
        )
    histories = [(tmp_path / f"r-{folder.name}" / "history.csv").read_text().splitlines() for folder in both]
    kept = [[line.split(",")[8:15] for line in history] for history in histories]
    assert kept[0] == kept[1]  # loss, grad_norm, ..., test_loss
    capsys.readouterr()
    said = []
    for folder in both:
        assert (
            run_command_line(
                LocalSession(), ["evaluate", str(tmp_path / "r-uint8" / "model.h5"), str(folder), "--json"]
            )
            == 0
        )
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


@pytest.mark.slow
def test_a_module_takes_bytes_a_block_at_a_time() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'mpinewton[torch]'")
    rng, classes = np.random.default_rng(0), (0.0, 1.0, 2.0)
    X, y = rng.integers(0, 256, (20, 6), dtype=np.uint8), rng.choice(classes, 20)
    loss = make_loss("torch:module=modules:layers,arguments=features=6;width=5;outputs=3,block=7")
    ratio, rows = factor("1/255"), np.array([2, 3, 11])
    w = loss.initial_weights(6, classes, 0)
    for bytes_ in (X, sparse.csr_array(X)):
        model, truth = (
            loss.on_shard(Shard(bytes_, y, None, ratio), classes),
            loss.on_shard(Shard(multiply(X, ratio), y), classes),
        )
        assert model.X.dtype == np.uint8
        for mine, theirs in ((model, truth), (model.subset(rows), truth.subset(rows))):
            assert mine.at(w).value() == theirs.at(w).value()
            np.testing.assert_array_equal(mine.at(w).gradient(), theirs.at(w).gradient())
        np.testing.assert_array_equal(model.predict(w), truth.predict(w))


def test_tokens_have_no_scale() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'mpinewton[torch]'")
    loss = make_loss("torch:module=modules:Tied,input=tokens,labels=next")
    tokens = np.ones((2, 6), np.uint8)
    assert loss.on_shard(Shard(tokens, np.ones(2)), None).X.dtype == np.uint8
    with pytest.raises(DataError, match="pack the data without --scale"):
        loss.on_shard(Shard(tokens, np.ones(2), None, Fraction(1, 255)), None)
