"""Tables, arrays, images, recipes: the numbers that were written, or a refusal that says where."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn import datasets

from mpinewton.data.blocks import Block, ClassNames, Reading
from mpinewton.data.columns import Schema
from mpinewton.data.loading import load_rows
from mpinewton.data.sources import open_source
from mpinewton.errors import ConfigError, DataError, MpinewtonError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def load(path: str, **reading: object) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    source = open_source(path, Reading(**reading))  # type: ignore[arg-type]
    blocks = list(source.valid_blocks())
    weight = None if blocks[0].weight is None else np.concatenate([b.weight for b in blocks])
    y = source.class_names.renumber(np.concatenate([b.y for b in blocks]))
    dense = [b.X if isinstance(b.X, np.ndarray) else b.X.toarray() for b in blocks]
    return np.concatenate(dense), y, weight, source.class_names.names


def test_csv_with_header_and_words(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "size,kind,age\n1,pear,2.5\n-3e2, apple ,4\n\n.5,pear,0\n")
    X, y, weight, names = load(path, label_column="kind")
    assert X.tolist() == [[1, 2.5], [-300, 4], [0.5, 0]]
    assert (y.tolist(), names, weight) == ([1, 0, 1], ("apple", "pear"), None)


def test_csv_without_header_label_last_and_weights(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1;2;0.5;7\r\n3;4;2;8\r\n")
    X, y, weight, names = load(path, weight_column="3")
    assert X.tolist() == [[1, 2], [3, 4]]
    assert (y.tolist(), weight.tolist(), names) == ([7, 8], [0.5, 2], None)
    assert load(path, label_column="-4")[1].tolist() == [1, 3]


def test_csv_in_many_blocks_and_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(0).standard_normal((500, 3))
    text = "a,b,c,y\n" + "".join(f"{a!r},{b!r},{c!r},{n % 3}\n" for n, (a, b, c) in enumerate(X.tolist()))
    (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(text.encode()))
    monkeypatch.setattr("mpinewton.data.lines.line_blocks.__defaults__", (0, None, 1000, False))
    read, y, _, _ = load(str(tmp_path / "a.csv.bz2"))
    assert np.array_equal(read, X)
    assert np.array_equal(y, np.arange(500) % 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,y\n1,2,0\n1,x,0\n", "a.csv:3: .*'x'"),
        ("a,b,y\n1,2,0\n\n1,,0\n", "a.csv:4: "),
        ("a,b,y\n1,2,0\n1,0\n", "a.csv:3: the row has 2 cells"),
        ("a,b,y\n1,2,0,5\n", "a.csv:2: the row has 4 cells"),
        ("a,b,y\n1,nan,0\n", "a.csv:2: column .b.: the value is missing"),
        ("1,2,0\n1,2,pear\n", "a.csv:2: .*'pear'"),
        ("1,2,0\n1,2,3", "a.csv:2: the last line has no newline"),
        ("", "has no rows"),
        ("\n\n", "has no rows"),
    ],
)
def test_odd_csv_is_refused_by_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(write(tmp_path / "a.csv", text))


def test_odd_columns_and_codings_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "size,kind,age\n1,2,3\n")
    with pytest.raises(ConfigError, match=r"'knid'.*did you mean 'kind'"):
        load(path, label_column="knid")
    with pytest.raises(ConfigError, match="expected 1 to 3, or -1"):
        load(path, label_column="0")
    (tmp_path / "b.csv").write_bytes(b"a,b\n1,2\n\xff,3\n")
    with pytest.raises(DataError, match=r"b\.csv:3: not UTF-8"):
        load(str(tmp_path / "b.csv"))


def test_words_are_numbered_in_order_of_the_alphabet_or_of_the_training_data() -> None:
    words = ClassNames()
    y = words.encode(np.array(["pear", "fig", "pear"]))
    assert words.renumber(y).tolist() == [1, 0, 1]
    known = ClassNames(("pear", "fig"))
    assert known.renumber(known.encode(np.array(["fig", "pear"]))).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"'figs' is not a class of the training data.*'fig'"):
        known("figs")


def test_npz_dense_weighted_and_csr(tmp_path: Path) -> None:
    X = np.arange(12.0).reshape(4, 3)
    np.savez(tmp_path / "a.npz", X=X, y=np.array(["b", "a", "b", "c"]), weight=np.array([1, 0, 2, 3]))
    read, y, weight, names = load(str(tmp_path / "a.npz"))
    assert np.array_equal(read, X)
    assert (y.tolist(), names, weight.tolist()) == ([1, 0, 1, 2], ("a", "b", "c"), [1, 0, 2, 3])
    C = sparse.csr_array(X)
    np.savez(tmp_path / "c.npz", data=C.data, indices=C.indices, indptr=C.indptr, shape=C.shape, y=np.zeros(4))
    assert np.array_equal(load(str(tmp_path / "c.npz"))[0], X)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_npz_of_every_format_of_scipy(tmp_path: Path, form: str, kind: str) -> None:
    X = np.array([[0, 7.0], [1, 0]])  # square, so that a transpose is not noticed by shapes
    sparse.save_npz(tmp_path / "m.npz", getattr(sparse, f"{form}_{kind}")(X))
    with np.load(tmp_path / "m.npz") as file:
        np.savez(tmp_path / "t.npz", y=np.array([0, 1]), **file)
    assert np.array_equal(load(str(tmp_path / "t.npz"))[0], X)
    assert np.array_equal(load(str(tmp_path / "m.npz"), labels=False)[0], X)
    with pytest.raises(DataError, match="and y; found"):
        load(str(tmp_path / "m.npz"))


def test_npz_with_indices_out_of_range(tmp_path: Path) -> None:
    for form in ("csr", "csc", "bsr"):
        X = getattr(sparse, f"{form}_array")(np.eye(3))
        X.indices[1] = 99
        sparse.save_npz(tmp_path / "m.npz", X)
        with pytest.raises(DataError, match="not a sparse matrix"):
            load(str(tmp_path / "m.npz"), labels=False)


def test_labels_beyond_float64(tmp_path: Path) -> None:
    for odd in (2**53 + 1, -(2**63)):
        np.savez(tmp_path / "t.npz", X=np.eye(2), y=np.array([0, odd]))
        with pytest.raises(DataError, match="above 2\\^53"):
            load(str(tmp_path / "t.npz"))


def test_rows_without_labels(tmp_path: Path) -> None:
    table = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "t.npy", table)
    assert load_rows(str(tmp_path / "t.npy"), Schema(3, ()), Reading(labels=False))[0].X.tolist() == table.tolist()
    assert (
        load_rows(str(tmp_path / "t.npy"), Schema(2, ()), Reading(labels=False))[0].X.tolist() == table[:, :2].tolist()
    )
    np.savez(tmp_path / "t.npz", X=table, y=np.array([None, None]).astype("U"))
    assert load_rows(str(tmp_path / "t.npz"), Schema(3, ()), Reading(labels=False))[0].X.tolist() == table.tolist()
    header = b"\0\0\x08\x03" + np.array([2, 1, 3], ">u4").tobytes()
    (tmp_path / "images").write_bytes(header + bytes(range(6)))
    assert load_rows(str(tmp_path / "images"), Schema(3, ()), Reading(labels=False))[0].X.tolist() == table.tolist()


@pytest.mark.parametrize("name", ["sklearn:iris", "synthetic:logistic", "t"])
def test_options_of_tables_are_refused_for_other_sources(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "t", "1 1:2\n")
    for option, value in (("label_column", "1"), ("header", True), ("delimiter", ";"), ("missing", "mean")):
        with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} has no effect: .* is not a table"):
            open_source(name if ":" in name else path, Reading(**{option: value}))  # type: ignore[arg-type]


def test_npy_table_and_pair(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((7, 4))
    np.save(tmp_path / "t.npy", np.asfortranarray(table))
    X, y, _, _ = load(str(tmp_path / "t.npy"))
    assert np.array_equal(np.column_stack([X, y]), table)
    np.save(tmp_path / "trainX.npy", table.astype(np.float32))
    np.save(tmp_path / "trainy.npy", np.arange(7))
    X, y, _, _ = load(str(tmp_path / "trainX.npy"))
    assert np.array_equal(X, table.astype(np.float32))
    assert y.tolist() == list(range(7))


def test_odd_arrays_are_refused(tmp_path: Path) -> None:
    for number, (arrays, words) in enumerate(
        [
            ({"X": np.zeros((3, 2)), "y": np.zeros(2)}, "expected X of shape \\(n, p\\)"),
            ({"X": np.zeros((3, 2))}, "expected arrays X, y"),
            ({"X": np.zeros((3, 2), complex), "y": np.zeros(3)}, "expected arrays of numbers; found dtype complex128"),
            ({"X": np.array([[1.0], [np.nan]]), "y": np.zeros(2)}, "row 2 has a NaN"),
            ({"X": np.ones((2, 1)), "y": np.array([0, np.inf])}, "row 2 has a NaN"),
            ({"X": np.ones((2, 1)), "y": np.zeros(2), "weight": np.array([-1, 1])}, "row 1 .*negative weight"),
            ({"X": np.array([[None]]), "y": np.zeros(1)}, "plain arrays"),
            (
                {
                    "data": np.ones(1),
                    "indices": np.array([9]),
                    "indptr": np.array([0, 1]),
                    "shape": (1, 3),
                    "y": np.zeros(1),
                },
                "not a sparse matrix",
            ),
        ]
    ):
        path = tmp_path / f"{number}.npz"
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=words):
            load(str(path))
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(DataError, match="not a readable npy"):
        load(str(tmp_path / "bad.npy"))


def test_idx_images_find_their_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 3), dtype=np.uint8)
    header = b"\0\0\x08\x03" + np.array([5, 2, 3], ">u4").tobytes()
    path = tmp_path / "t-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(header + images.tobytes()))
    with pytest.raises(DataError, match="its labels beside it"):
        load(str(path))
    labels = tmp_path / "t-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(b"\0\0\x08\x01" + np.array([5], ">u4").tobytes() + bytes([3, 1, 4, 1, 5])))
    X, y, _, _ = load(str(path))
    assert np.array_equal(X, images.reshape(5, 6))
    assert y.tolist() == [3, 1, 4, 1, 5]
    path.write_bytes(gzip.compress(header + images.tobytes()[:-1]))
    with pytest.raises(DataError, match="truncated"):
        load(str(path))


def test_sklearn_sets() -> None:
    X, y, _, _ = load("sklearn:wine")
    wanted = datasets.load_wine(return_X_y=True)
    assert np.array_equal(X, wanted[0])
    assert np.array_equal(y, wanted[1])
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        load("sklearn:digit")


def test_rows_and_features_are_limits() -> None:
    X, y, _, _ = load("sklearn:digits", rows=100)
    assert np.array_equal(X, datasets.load_digits().data[:100])
    assert len(y) == 100
    with pytest.raises(DataError, match="150 rows, fewer than --rows 151"):
        load("sklearn:iris", rows=151)
    with pytest.raises(DataError, match="4 features, more than --features 3"):
        load("sklearn:iris", features=3)


def test_synthetic_rows_do_not_depend_on_how_many_are_drawn() -> None:
    for kind in ("logistic", "least-squares", "poisson", "blobs"):
        long, labels, _, _ = load(f"synthetic:{kind}?rows=9000&features=3&seed=4")
        short, few, _, _ = load(f"synthetic:{kind}?rows=5000&features=3&seed=4")
        assert np.array_equal(long[:5000], short)
        assert np.array_equal(labels[:5000], few)
        assert not np.array_equal(long[:4096], long[4096:8192])


def test_synthetic_conditioning_density_and_labels() -> None:
    X, y, _, _ = load("synthetic:logistic?rows=40000&features=3&condition=100")
    assert np.allclose(X.var(axis=0), [1, 0.1, 0.01], rtol=0.05)
    assert set(y) == {-1, 1}
    X, y, _, _ = load("synthetic:least-squares?rows=500&features=4")
    w, residual, *_ = np.linalg.lstsq(X, y)
    assert residual < 1e-20
    assert np.linalg.norm(w) > 0.1
    (block, *_) = open_source("synthetic:blobs?rows=4000&features=50&density=0.1&classes=4", Reading()).blocks()
    assert isinstance(block, Block)
    assert sparse.issparse(block.X)
    assert abs(block.X.nnz / 200000 - 0.1) < 0.01
    assert set(block.y) == {0, 1, 2, 3}


def test_pisa_least_squares_has_the_published_figures() -> None:
    source = open_source("synthetic:pisa?seed=0", Reading())
    (block,) = source.blocks()
    A, b, n = block.X, block.y, sum(source.sizes)
    H, g = A.T @ A / n, A.T @ b / n
    first = b @ b / (2 * n)
    assert first == pytest.approx(1.842107875, abs=1e-9)
    assert first - g @ np.linalg.solve(H, g) / 2 == pytest.approx(1.744912515, abs=1e-9)
    assert np.linalg.eigvalsh(H)[[0, -1]] == pytest.approx([2.2316, 5.4825], abs=1e-4)
    parts = np.split(A, np.cumsum(source.sizes)[:-1])
    assert max(np.linalg.norm(part, 2) ** 2 / len(part) for part in parts) == pytest.approx(33.526, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("synthetic:logistics", "did you mean 'logistic'"),
        ("synthetic:blobs?class=3", "did you mean 'classes'"),
        ("synthetic:blobs?rows=x", "rows = 'x': expected a number"),
        ("synthetic:blobs?rows=0", "rows = 0 is out of range: expected 1 to"),
        ("synthetic:blobs?density=nan", "density = nan is out of range"),
        ("synthetic:pisa?condition=3", "pisa has no setting 'condition'"),
        ("nowhere.csv", "no such file"),
    ],
)
def test_odd_names_are_refused(name: str, words: str) -> None:
    with pytest.raises(MpinewtonError, match=words):
        open_source(name, Reading())


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"mpinewton\[data\]"):
        open_source(write(tmp_path / "a.parquet", "PAR1"), Reading())


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"a": [1.0, 2.0], "kind": ["x", "w"], "n": [3, 4]})
    parquet.write_table(table, tmp_path / "a.parquet")
    X, y, _, names = load(str(tmp_path / "a.parquet"), label_column="kind")
    assert (X.tolist(), y.tolist(), names) == ([[1, 3], [2, 4]], [1, 0], ("w", "x"))


def test_load_rows_maps_names_and_widens(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,y\n1,pear\n2,fig\n")
    shard, classes = load_rows(path, Schema(1, ("apple", "pear", "fig"), "1/4"))
    assert shard.X.tolist() == [[0.25], [0.5]]
    with pytest.raises(DataError, match="has 1 features, but the training data have 3"):
        load_rows(path, Schema(features=3))
    narrow = write(tmp_path / "narrow", "1 1:3\n")
    assert load_rows(narrow, Schema(features=3))[0].X.toarray().tolist() == [[3, 0, 0]]
    assert (shard.y.tolist(), classes) == ([1, 2], (0, 1, 2))
    with pytest.raises(DataError, match=r"t\.csv:3: .*'fig' is not a class"):
        load_rows(path, Schema(class_names=("apple", "pear")))
    with pytest.raises(DataError, match=r"t\.csv:2: .*'pear' is not a class"):
        load_rows(path, Schema(class_names=()))
    numbers = write(tmp_path / "n.csv", "2,1\n3,4\n")
    assert load_rows(numbers, Schema(class_names=("1", "4")))[0].y.tolist() == [0, 1]
    with pytest.raises(DataError, match="found numbers"):
        load_rows("sklearn:iris", Schema(class_names=("a", "b")))
    wide = write(tmp_path / "wide", "1 9:1\n")
    with pytest.raises(DataError, match="has 9 features, but the training data have 3"):
        load_rows(wide, Schema(features=3))


def test_scales() -> None:
    X = datasets.load_digits().data
    assert np.array_equal(load_rows("sklearn:digits", Schema(scale="1/255"))[0].X, X / 255)
    assert np.array_equal(load_rows("sklearn:digits", Schema(scale="0.25"))[0].X, X * 0.25)
    for odd in ("0", "1/0", "-1", "x", "nan", "1e999999999"):
        with pytest.raises(ConfigError, match="--scale"):
            load_rows("sklearn:digits", Schema(scale=odd))


@pytest.mark.shared
def test_mnist() -> None:
    path = SHARED / "t10k-images-idx3-ubyte.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    shard, classes = load_rows(str(path), dtype="float32")
    assert (shard.X.shape, shard.X.dtype, classes) == ((10000, 784), np.float32, tuple(range(10)))
    assert np.bincount(shard.y.astype(int)).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
