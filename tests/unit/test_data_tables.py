"""Tables as people have them: headers, delimiters, categories, missing values; compared with scikit-learn and csv."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import impute, preprocessing, utils

from mpinewton.data.blocks import Reading, Source
from mpinewton.data.columns import Column, Columns, Schema
from mpinewton.data.csv_text import recognise_header
from mpinewton.data.loading import load_rows
from mpinewton.data.manifest import FILE, read_manifest
from mpinewton.data.pack import pack
from mpinewton.data.shard_io import read_shard
from mpinewton.data.sources import open_source
from mpinewton.errors import ConfigError, DataError


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def read(path: str, **reading: Any) -> tuple[list[list[float]], list[float], Source]:
    source = open_source(path, Reading(**reading))
    blocks = list(source.valid_blocks())
    X = np.concatenate([b.X if isinstance(b.X, np.ndarray) else b.X.toarray() for b in blocks])
    return X.tolist(), source.class_names.renumber(np.concatenate([b.y for b in blocks])).tolist(), source


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("a,b,y\n1,2,0\n3,4,1\n", True),
        ("1,2,0\n3,4,1\n", False),
        ("2019,2020,y\n1,2,1\n2,1,0\n", True),  # names that are numbers
        ("2019,2020,y\n1,2,yes\n2,1,no\n", True),
        ("1,2,yes\n2,1,no\n3,1,yes\n", False),
        ("39,clerk,yes\n50,nurse,no\n38,clerk,no\n", False),  # words in a row
        ("age,job,y\n39,clerk,yes\n50,nurse,no\n", True),
        ("a,b,y\n1,?,0\n3,4,1\n", True),
        ("color,y\nred,no\nred,yes\nblue,no\n", True),  # no column of numbers
        ("red,no\nred,yes\nblue,no\n", False),
        ("1,2,0\n", False),
        ("2019,2020,odd\n1,2,yes\n2,1,no\n3,1,no\n", None),  # a rare class, or a name
        ("red,no\nblue,yes\n", None),
        ("1.0D0,2,0\n1,2,1\n", None),  # a row with a cell that is no number
        (",a,y\n0,5,1\n1,6,0\n", True),
    ],
)
def test_a_header_is_recognised_or_asked_for(text: str, header: bool | None) -> None:
    first, *rest = csv.reader(io.StringIO(text))
    assert recognise_header(first, rest, len(first) - 1) is header


def test_a_header_that_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "2019,2020,odd\n1,2,yes\n2,1,no\n3,1,no\n")
    with pytest.raises(DataError, match="pass --header or --no-header"):
        read(path)
    assert read(path, header=True)[0] == [[1, 2], [2, 1], [3, 1]]
    assert len(read(path, header=False)[0]) == 4
    assert read(path, label_column="odd")[0] == [[1, 2], [2, 1], [3, 1]]
    assert read(write(tmp_path / "y.csv", "2019,2020,y\n1,2,yes\n2,1,no\n"), label_column="3")[1] == [1, 0]
    for odd in ("1.5", "nan", "9"):
        with pytest.raises(ConfigError, match=f"--label-column '?{odd}"):
            read(path, label_column=odd, header=False)
        with pytest.raises((ConfigError, DataError)):
            read(path, label_column=odd)
    numbers = write(tmp_path / "n.csv", "-1,0.5,7\n2,0.6,8\n")
    assert read(numbers)[1] == [7, 8]  # -1 is the last column, not a name
    with pytest.raises(ConfigError, match="has no header; give a number"):
        read(numbers, label_column="y")


cell = st.floats(-1e6, 1e6).map(repr) | st.integers(-999, 999).map(str)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.integers(2, 4).flatmap(lambda p: st.lists(st.lists(cell, min_size=p, max_size=p), min_size=2, max_size=5)),
    st.sampled_from([",", ";", "\t", "|", " ", "  ", "~"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_any_delimiter_header_line_end_quotes_and_mark(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    mark: str,
    header: bool,
    end: str,
    quotes: bool,
    bom: bool,
) -> None:
    names = [f'"n {place}"' if quotes else f"n{place}" for place in range(len(rows[0]))]
    lines = [mark.join(f'"{c}"' if quotes else c for c in row) for row in rows]
    text = end.join([mark.join(names)] * header + lines) + end
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
    X, y, source = read(str(path), delimiter="~" if mark == "~" else None)
    table = [[float(c) for c in row] for row in rows]
    assert [[*row, label] for row, label in zip(X, y)] == table
    assert source.columns is not None
    expected = [name.strip('"') for name in names] if header else [f"column {i + 1}" for i in range(len(names))]
    assert [column.name for column in source.columns] == expected[:-1]
    assert source.columns.named is header


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,y\n1,red,0\n2,blue,1\n", r"t\.csv:2: column 'b': 'red' is not a finite number; pass --categories onehot"),
        ("1,2,0\n1,x,1\n", r"t\.csv:2: column 2: 'x' is not a finite number"),
        ("a,b,y\n1,?,0\n", r"t\.csv:2: column 'b': the value is missing \('\?'\).*--missing mean"),
        ("a,b,y\n1,inf,0\n", r"t\.csv:2: column 'b': 'inf' is not a finite number"),
        ("a,b,y\n1,1_0,0\n2,3,1\n", r"t\.csv:2: column 'b': '1_0' is not a finite number"),
        ("a,b,y\n1,2,yes\n1,2,?\n", r"t\.csv:3: the label is missing"),
        ("a,b,y\n1,2,0\n1,2,\n", r"t\.csv:3: the label is missing"),
        ("a,b,y\n1,2,0\n1,2,no\n", r"t\.csv:3: the label 'no' is not a finite number"),
        ('a,b,y\n1,"2,0\n', r"t\.csv:2: a quote is not closed"),
        ("a,a,y\n1,2,0\n", "two columns have the name 'a'"),
        ("a,y,y\n1,2,0\n", "two columns have the name 'y'"),
        ("a,,y\n1,2,0\n", "column 2 has no name"),
        ("a title\na,b,y\n1,2,0\n1,2,1\n", "the first line has 1 cells, but the rows have 3"),
        ("a;y\n1,5;0\n", "'1,5' is not a finite number; write decimal points"),
        ("1,2,0\r3,4,1\r", "its lines end in CR alone"),
        ('{"a": 1}\n', "is JSON"),
        ("a\n1\n2\n", "expected features and a label; choose --delimiter"),
    ],
)
def test_a_fault_names_line_column_and_remedy(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(write(tmp_path / "t.csv", text))


def test_delimiters_that_cannot_be(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "1,2,0\n3,4,1\n")
    for odd in ("", "ab", "1", '"', "."):
        with pytest.raises(ConfigError, match="expected one character, tab or whitespace"):
            read(path, delimiter=odd)


def test_the_index_of_a_data_frame_is_left_out(tmp_path: Path) -> None:
    X, y, source = read(write(tmp_path / "t.csv", ",a,y\n0,5,1\n1,6,0\n"))
    assert (X, y) == ([[5], [6]], [1, 0])
    assert "index of a data frame" in source.notes[0]


TABLE = "n,color,y\n1,red,yes\n,blue,no\n4,?,yes\n7,red,no\n"


def test_categories_and_missing_values_as_scikit_learn_encodes_them(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", TABLE)
    colors = np.array([["red"], ["blue"], ["?"], ["red"]])
    numbers = np.array([[1.0], [np.nan], [4.0], [7.0]])
    X, _, source = read(path, categories="onehot", missing="indicator")
    onehot = preprocessing.OneHotEncoder(categories=[["blue", "red", "?"]], sparse_output=False).fit_transform(colors)
    filled = impute.SimpleImputer(add_indicator=True).fit_transform(numbers)
    assert np.array_equal(X, np.hstack([filled, onehot]))
    assert source.columns is not None
    names = ("n", "n missing", "color=blue", "color=red", "color missing")
    assert source.columns.feature_names == names
    assert source.columns.numbers.tolist() == [True, False, False, False, False]
    X, _, source = read(path, categories="onehot", missing="mean")
    assert np.array_equal(X, np.hstack([filled[:, :1], onehot[:, :2]]))
    assert not source.dense
    with pytest.raises(DataError, match=r":3: column 'n': the value is missing"):
        read(path, categories="onehot")
    with pytest.raises(DataError, match=r":2: column 'color': 'red' is not a finite number"):
        read(path, missing="mean")


def test_categories_in_many_blocks_and_first_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"w{n % 7}" if n else "12" for n in range(300)]  # a number that is a category, as later cells are words
    path = write(tmp_path / "t.csv", "c,y\n" + "".join(f"{word},{n % 2}\n" for n, word in enumerate(words)))
    monkeypatch.setattr("mpinewton.data.lines.line_blocks.__defaults__", (0, None, 100, False))
    X, _, source = read(path, categories="onehot")
    assert source.columns is not None
    assert source.columns.columns[0].categories == ("12", *(f"w{n}" for n in range(7)))
    assert [source.columns.columns[0].categories[row.index(1)] for row in X] == words
    _, _, source = read(path, categories="onehot", rows=3)
    assert source.columns is not None
    assert source.columns.feature_names == ("c=12", "c=w1", "c=w2")
    assert source.notes == ("column 'c' holds words and numbers, such as 'w1' and '12': each is a category",)


def test_rows_beyond_those_asked_for_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,y\n1,0\n2,1\nx\n")
    assert read(path, rows=2)[0] == [[1], [2]]
    with pytest.raises(DataError, match=":4: the row has 1 cells"):
        read(path)
    with pytest.raises(DataError, match="has 2 rows, fewer than --rows 3"):
        read(write(tmp_path / "s.csv", "a,y\n1,0\n2,1\n"), rows=3)


def test_too_many_categories_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id,y\n" + "".join(f"x{n},{n % 2}\n" for n in range(1001)))
    with pytest.raises(DataError, match="column 'id' has more than 1000 different words, such as 'x0'"):
        read(path, categories="onehot")


def packed(tmp_path: Path, text: str = TABLE, **settings: Any) -> Schema:
    reading = Reading(categories="onehot", missing="indicator")
    pack(write(tmp_path / "train.csv", text), tmp_path / "p", 1, partition="blocks", reading=reading, **settings)
    return read_manifest(tmp_path / "p").schema


def test_other_rows_are_matched_by_name(tmp_path: Path) -> None:
    schema = packed(tmp_path, standardize=True)
    train = read_shard(tmp_path / "p", read_manifest(tmp_path / "p"), 0)
    X = train.X.toarray() if hasattr(train.X, "toarray") else train.X
    other = write(tmp_path / "o.csv", "y,color,more,n\nyes,red,x,1\nno,blue,x,\nyes,?,x,4\nno,red,x,7\n")
    shard, classes = load_rows(other, schema)
    assert np.array_equal(shard.X, X)
    assert (shard.y.tolist(), classes) == (train.y.tolist(), (0, 1))
    unlabelled = Reading(labels=False)
    for text in ("color,n\nred,1\nblue,\n?,4\nred,7\n", "y,color,n\n?,red,1\n,blue,\nmaybe,?,4\n?,red,7\n"):
        assert np.array_equal(load_rows(write(tmp_path / "u.csv", text), schema, unlabelled)[0].X, X)
    for text, words in (
        ("color,m\nred,1\n", "has no column 'n', which the model needs"),
        ("colour,n\nred,1\n", "has no column 'color', which the model needs .did you mean 'colour'"),
        ("color,n\nred,1\ngreen,2\n", "u.csv:3: column 'color': 'green' is not a category of the training data"),
        ("color,n,n\nred,1,2\n", "two columns have the name 'n'"),
        ("color,n\nred,x\n", "u.csv:2: column 'n': 'x' is not a finite number; as in the training data"),
    ):
        with pytest.raises(DataError, match=words):
            load_rows(write(tmp_path / "u.csv", text), schema, unlabelled)
    with pytest.raises(DataError, match="has no label column 'y'"):
        load_rows(write(tmp_path / "u.csv", "color,n\nred,1\n"), schema)


def test_other_rows_without_header_are_matched_by_position(tmp_path: Path) -> None:
    reading = Reading(label_column="1")
    pack(
        write(tmp_path / "t.csv", "yes,1,2\nno,2,3\nyes,3,1\n"), tmp_path / "p", 1, partition="blocks", reading=reading
    )
    schema = read_manifest(tmp_path / "p").schema
    assert (schema.label_name, schema.columns and schema.columns.named) == ("1", False)
    X = [[1, 2], [2, 3], [3, 1]]
    assert load_rows(str(tmp_path / "t.csv"), schema)[0].X.tolist() == X
    assert load_rows(write(tmp_path / "u.csv", "1,2\n2,3\n3,1\n"), schema, Reading(labels=False))[0].X.tolist() == X
    assert (
        load_rows(write(tmp_path / "u.csv", "?,1,2\n?,2,3\n?,3,1\n"), schema, Reading(labels=False))[0].X.tolist() == X
    )
    with pytest.raises(
        DataError,
        match="has 2 columns, and they are matched by position, since it had no header; expected 2 of features",
    ):
        load_rows(write(tmp_path / "u.csv", "1,2\n2,3\n"), schema)


def test_parquet_of_words_missing_values_and_dictionaries(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table(
        {
            "n": pa.array([1.0, None, 4.0, 7.0]),
            "color": pa.array(["red", "blue", None, "red"]).dictionary_encode(),
            "when": pa.array([1, 2, 3, 4], pa.timestamp("s")),
            "y": [True, False, True, False],
        }
    )
    path = str(tmp_path / "t")  # recognised by its content
    parquet.write_table(table.drop(["when"]), path)
    X, y, _ = read(path, categories="onehot", missing="indicator")
    assert read(write(tmp_path / "t.csv", TABLE), categories="onehot", missing="indicator")[0] == X
    assert y == [1, 0, 1, 0]
    with pytest.raises(DataError, match="row 2: column 'n': the value is missing"):
        read(path, categories="onehot")
    parquet.write_table(table, path)
    with pytest.raises(DataError, match="column 'when' holds timestamp"):
        read(path)
    schema = Schema(1, (), columns=Columns((Column("n", fill=4.0),), True, "mean"))
    assert load_rows(path, schema, Reading(labels=False))[0].X.ravel().tolist() == [1, 4, 4, 7]
    with pytest.raises(ConfigError, match="--delimiter has no effect"):
        read(path, delimiter=";")


@pytest.mark.parametrize("storage", ["dense", "sparse"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_standardised_features_as_scikit_learn_scales_them(tmp_path: Path, storage: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 4)) * [1, 1e-6, 1e3, 0] + [0, 0, 1e6, 0.1]
    X[:, 0] *= rng.random(50) < 0.3
    np.savez(tmp_path / "t.npz", X=X, y=np.arange(50) % 2)
    pack(str(tmp_path / "t.npz"), tmp_path / "p", 3, storage=storage, dtype=dtype, standardize=True)
    pack(str(tmp_path / "t.npz"), tmp_path / "q", 3, storage=storage, dtype=dtype)
    manifest, plain = read_manifest(tmp_path / "p"), read_manifest(tmp_path / "q")
    assert manifest.shards == plain.shards  # the stored rows are the same
    assert manifest.data_sha256 != plain.data_sha256
    shards = [read_shard(tmp_path / "p", manifest, index).X for index in range(3)]
    found = np.concatenate([part if storage == "dense" else part.toarray() for part in shards])
    order = np.random.default_rng(0).permutation(50)
    expected = preprocessing.StandardScaler(with_mean=storage == "dense").fit_transform(X)
    expected = np.concatenate([expected[order[worker::3]] for worker in range(3)])
    # float32 rounds 1e6 + x to about 0.03
    np.testing.assert_allclose(
        found, expected, rtol=1e-9 if dtype == "float64" else 1e-4, atol=1e-7 if dtype == "float64" else 1e-4
    )
    shard, _ = load_rows(str(tmp_path / "p"), manifest.schema)
    again, _ = load_rows(str(tmp_path / "t.npz"), manifest.schema)
    assert np.isclose(abs(shard.X).sum(), abs(again.X).sum(), rtol=1e-5)
    with pytest.raises(ConfigError, match="--dtype uint8 are not standardised"):
        pack("sklearn:digits", tmp_path / "u", 1, dtype="uint8", standardize=True)


def test_words_and_marks_are_not_standardised(tmp_path: Path) -> None:
    schema = packed(tmp_path, standardize=True, storage="dense")
    assert schema.shift is not None and schema.factor is not None
    values = np.array([1, 4, 4, 7.0])
    assert schema.shift == (4, 0, 0, 0, 0)
    assert schema.factor == pytest.approx((1 / values.std(), 1, 1, 1, 1), rel=1e-15)


def test_weights_of_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,y\n1,cat\n2,dog\n3,dog\n4,dog\n")

    def weights(text: str, **reading: Any) -> list[float]:
        target = tmp_path / f"w{text}"
        pack(path, target, 1, partition="blocks", class_weight=text, reading=Reading(**reading))
        weight = read_shard(target, read_manifest(target), 0).sample_weight
        assert weight is not None
        return weight.tolist()

    y = np.array(["cat", "dog", "dog", "dog"])
    assert weights("balanced") == pytest.approx(utils.class_weight.compute_sample_weight("balanced", y))
    assert weights("cat=3") == [3, 1, 1, 1]
    assert weights("dog=0.5, cat=2") == [2, 0.5, 0.5, 0.5]
    for odd, words in (
        ("cow=1", "'cow' is not a label"),
        ("cat=-1", "'-1' is not a finite"),
        ("3", "'' is not a label"),
    ):
        with pytest.raises(ConfigError, match=words):
            weights(odd)
    numbers = write(tmp_path / "n.csv", "1,0.5\n2,0.7\n")
    with pytest.raises(ConfigError, match="real numbers"):
        pack(numbers, tmp_path / "n", 1, class_weight="balanced")


def test_weights_whose_sum_overflows_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", X=np.eye(4), y=[0, 1, 0, 1], weight=np.full(4, 1e308))
    with pytest.raises(DataError, match="the sum of the weights overflows"):
        pack(str(tmp_path / "w.npz"), tmp_path / "p", 1)


def test_the_digest_of_the_manifest_covers_every_field(tmp_path: Path) -> None:
    packed(tmp_path, standardize=True)
    path = tmp_path / "p" / FILE
    good = path.read_text(encoding="utf-8")
    edits = [("no", "on"), ("iid", "blocks"), ("color", "colour"), ("red", "rot")]
    fields = [("seed", "0", "1"), ("fill", "4.0", "5.0"), ("label_name", '"y"', '"n"'), ("scale", '"1"', '"2"')]
    texts = [(f'"{old}"', f'"{new}"') for old, new in edits]
    for old, new in texts + [(f'"{name}": {old}', f'"{name}": {new}') for name, old, new in fields]:
        if old in good:
            path.write_text(good.replace(old, new), encoding="utf-8")
            with pytest.raises(DataError, match="pack the data again"):
                read_manifest(path.parent)
    bare = "".join(line for line in good.splitlines(keepends=True) if "manifest_sha256" not in line)
    path.write_text(bare, encoding="utf-8")
    with pytest.raises(DataError, match="manifest_sha256 differs"):
        read_manifest(path.parent)


seeds = st.sampled_from(
    [
        b"a,b,y\n1,2,yes\n3,?,no\n",
        b"1 1:2 3:4\n-1 2:5\n",
        b"spam:2 1:3\nham:1 2:2\n",
        b"1;2;3\n4;5;6\n",
        b"1 2 3\n4 5 6\n",
    ]
)
pieces = st.sampled_from(
    [
        *(bytes([byte]) for byte in b",; \t|\n\r\"':?_#x-\0\x0b\x1c\x85\xff"),
        b"nan",
        b"1e999",
        b"9" * 30,
        b"\xef\xbb\xbf",
        b"\xc3\xa4",
    ]
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    seeds, st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), pieces), max_size=4),
    st.fixed_dictionaries(
        {
            "labels": st.booleans(), "format": st.sampled_from(["auto", "auto", "csv", "libsvm"]),
            "header": st.sampled_from([None, None, True, False]), "categories": st.sampled_from(["error", "onehot"]),
            "missing": st.sampled_from(["error", "mean", "indicator"]), "allow_partial_last_line": st.booleans(),
            "label_column": st.sampled_from([None, None, "1", "y"]),
        }
    ),
)  # fmt: skip
def test_any_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, edits: list[tuple[int, int, bytes]], reading: dict[str, Any]
) -> None:
    broken = bytearray(text)
    for at, length, piece in edits:
        broken[at : at + length] = piece
    path = tmp_path_factory.mktemp("any") / "t"
    path.write_bytes(broken)
    with contextlib.suppress(ConfigError, DataError):
        for block in open_source(str(path), Reading(**reading)).valid_blocks():
            assert block.X.shape[0] == len(block.y)
