"""LIBSVM text: the same numbers as scikit-learn, or a refusal that names file and line."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.datasets import load_svmlight_file

from mpinewton.data.blocks import Reading
from mpinewton.data.libsvm import LibsvmText, first_fault, parse
from mpinewton.data.lines import line_blocks, line_number
from mpinewton.data.manifest import read_manifest
from mpinewton.data.pack import pack
from mpinewton.data.shard_io import read_shard
from mpinewton.data.sources import open_source
from mpinewton.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
LIMIT = 1 << 24


def oracle(text: bytes) -> tuple[sparse.csr_matrix, np.ndarray]:
    return load_svmlight_file(io.BytesIO(text), zero_based=False)


def assert_as_oracle(text: bytes) -> None:
    X, y = parse(text, LIMIT)
    wanted, labels = oracle(text)
    assert np.array_equal(y, labels)
    assert np.array_equal(X.indptr, wanted.indptr)
    assert np.array_equal(X.indices, wanted.indices)
    assert X.data.tobytes() == wanted.data.tobytes()


number = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-999, 999).map(str),
    st.sampled_from(["+1", ".5", "5.", "-0", "1E3", "4.9e-324", "1e-400", "0.1000000000000000055511151231257827"]),
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    out = []
    for _ in range(draw(st.integers(0, 6))):
        indices = sorted(draw(st.sets(st.integers(1, 5000), max_size=5)))
        pairs = [f"{index}:{draw(number)}" for index in indices]
        gap = draw(st.sampled_from([" ", "\t", "  "]))
        tail = draw(st.sampled_from(["", " ", " # note 1:x", "\r", "\n", "\n \n#only a comment"]))
        out.append(gap.join([draw(number), *pairs]) + tail + "\n")
    return "".join(out).encode()


@pytest.mark.slow
@settings(derandomize=True, max_examples=150, deadline=None)
@given(lines())
def test_valid_text_is_read_bit_by_bit_as_scikit_learn_reads_it(text: bytes) -> None:
    if parse(text, LIMIT)[1].size:
        assert_as_oracle(text)


@pytest.mark.slow
@settings(derandomize=True, max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines(), st.data())
def test_a_mutated_file_is_read_as_scikit_learn_reads_it_or_refused_by_line(text: bytes, data: st.DataObject) -> None:
    mutant = bytearray(text or b"1 1:1\n")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutant) - 1))
        piece = data.draw(
            st.sampled_from([b":", b" ", b"-", b"e", b"nan", b"inf", b"0x1", b"_", b"\0", b"qid:1 ", b"\n"])
        )
        mutant[at : at + data.draw(st.integers(0, 2))] = piece
    broken = bytes(mutant).removesuffix(b"\n") + b"\n"
    try:
        y = parse(broken, LIMIT)[1]
    except ValueError:
        line, _ = first_fault(broken, lambda text: parse(text, LIMIT))
        with pytest.raises(ValueError):
            parse(line, LIMIT)
    else:
        if len(y):
            assert_as_oracle(broken)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("1 3:1 2:1", "increase"),
        ("1 2:1 2:1", "increase"),
        ("1 0:1", "below 1"),
        ("1 -2:1", "whole number"),
        ("1 1.0:1", "whole number"),
        ("1 1e1:1", "whole number"),
        ("1 2147483648:1", "above 2147483647, the largest number of features"),
        ("1 16777217:1", "--max-features 16777216; increase --max-features"),
        ("1 3", "no colon"),
        ("1 3:", "value ''"),
        ("1 3: 4", "value ''"),
        ("1 :3", "whole number"),
        ("1 3:4:5", "value '4:5'"),
        ("1 3:nan", "finite"),
        ("1 3:inf", "finite"),
        ("1 3:1e999", "finite"),
        ("nan 3:1", "label 'nan'"),
        ("1 3:0x10", "finite decimal"),
        ("1 3:1_0", "finite decimal"),
        ("1 3:1-2", "finite decimal"),
        ("1 qid:7 3:1", "query id"),
        ("1 3:\0", "NUL"),
        ("1,2 3:1", "label '1,2'"),
        ("1,2,3", "CSV"),
        ("1:2 3:4", "label '1:2'"),
        ("1 3:1\r4:1", "no colon|a character that|finite"),
        ("1 3:\xb2", "finite"),
    ],
)
def test_every_fault_is_named_with_file_and_line(tmp_path: Path, line: str, word: str) -> None:
    path = tmp_path / "odd"
    path.write_bytes(b"1 1:1\n\n-1 1:2 # fine\n" + line.encode("latin-1") + b"\n1 1:1\n")
    with pytest.raises(DataError, match=rf"odd:4: .*({word})"):
        list(LibsvmText(path, Reading()).blocks())


def test_the_given_number_of_features_is_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "wide"
    path.write_bytes(b"1 7:1\n")
    with pytest.raises(DataError, match="wide:1: the index 7 is above --features 6"):
        list(LibsvmText(path, Reading(features=6)).blocks())


def test_a_file_cut_inside_a_line_is_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(b"1 1:1\n-1 1:2")
    with pytest.raises(DataError, match=r"cut:2: the last line has no newline.*--allow-partial-last-line"):
        list(LibsvmText(path, Reading()).blocks())
    (block,) = LibsvmText(path, Reading(allow_partial_last_line=True)).blocks()
    assert block.y.tolist() == [1, -1]


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"1 1:1\n" * 1000, mtime=0)
    (tmp_path / "a.gz").write_bytes(packed[:-9])
    with pytest.raises(DataError, match=r"a\.gz: the file is damaged or truncated"):
        list(open_source(str(tmp_path / "a.gz"), Reading()).blocks())
    (tmp_path / "b.xz").write_bytes(lzma.compress(b"1 1:1\n")[:-20])
    with pytest.raises(DataError, match=r"b\.xz"):
        list(open_source(str(tmp_path / "b.xz"), Reading()).blocks())


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 80), max_size=4), st.integers(1, 30))
def test_byte_ranges_share_out_the_lines(
    tmp_path_factory: pytest.TempPathFactory, long: list[int], cuts: list[int], size: int
) -> None:
    text = b"".join(b"x" * n + b"\n" for n in long)
    path = tmp_path_factory.mktemp("lines") / "text"
    path.write_bytes(text)
    ends = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    read = [list(line_blocks(path, first, last, size)) for first, last in itertools.pairwise(ends)]
    found = [pair for part in read for pair in part]
    assert b"".join(block for _, block in found) == text
    for offset, block in found:
        assert text[offset : offset + len(block)] == block
        assert line_number(path, offset) == text[:offset].count(b"\n") + 1


def test_a_fault_in_a_later_range_has_its_line_number(tmp_path: Path) -> None:
    path = tmp_path / "late"
    path.write_bytes(b"1 1:1\n" * 100 + b"1 x\n")
    with pytest.raises(DataError, match=re.escape("late:101: 'x' has no colon")):
        list(LibsvmText(path, Reading(), 50, 604).blocks())


pairs = st.dictionaries(st.integers(1, 50), st.integers(-9, 9), min_size=1, max_size=4).map(
    lambda found: "".join(f" {index}:{value}" for index, value in sorted(found.items()))
)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["spam", "ham", "Ü-x"]), st.integers(0, 9), pairs), min_size=1), st.booleans()
)
def test_labels_may_be_words_with_weights(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, str]], weighted: bool
) -> None:
    path = tmp_path_factory.mktemp("words") / "t"
    path.write_text("".join(f"{word}{f':{w}.5' * weighted}{row}\n" for word, w, row in rows), encoding="utf-8")
    source = open_source(str(path), Reading())
    (block,) = source.valid_blocks()
    names = source.class_names.names
    assert names == tuple(sorted({word for word, _, _ in rows}))
    assert [names[int(number)] for number in source.class_names.renumber(block.y)] == [word for word, _, _ in rows]
    assert block.weight is None or block.weight.tolist() == [w + 0.5 for _, w, _ in rows]
    assert (block.weight is not None) == weighted
    plain = parse("".join(f"0{row}\n" for _, _, row in rows).encode(), LIMIT)[0]
    assert np.array_equal(block.X.toarray(), plain.toarray())
    (block,) = open_source(str(path), Reading(labels=False)).valid_blocks()
    assert np.array_equal(block.X.toarray(), plain.toarray())
    path.write_text("".join(row.strip() + "\n" for _, _, row in rows))  # no labels
    (block,) = open_source(str(path), Reading(labels=False)).valid_blocks()
    assert np.array_equal(block.X.toarray(), plain.toarray())


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("1:2 1:3\n0 1:3\n", ":2: the label '0' has no weight, but that of the first row has one"),
        ("0:2 1:3\n0:x 1:3\n", ":2: the weight 'x' of label '0' is not a finite number"),
        ("0:2 1:3\n1:-2 1:3\n", "row 2 has .*a negative weight"),
        ("spam 1:3\nham x\n", ":2: 'x' has no colon"),
        ("spam 1:3\n? 1:2\n", r":2: the label is missing \('\?'\)"),
        ("1 1:3\nspam 1:2\n", ":2: the label 'spam' is not a finite decimal number, as that of the first row"),
        ("1:2 3:4\n2:3 5:1\n", "may be index:value or label:weight"),  # also rows without labels
    ],
)
def test_odd_words_and_weights_are_refused(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(DataError, match=word):
        list(open_source(str(tmp_path / "t"), Reading()).valid_blocks())


def test_words_of_the_training_data(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("ham 1:3\n1 1:3\n")
    (block,) = LibsvmText(tmp_path / "t", Reading(class_names=("1", "ham"))).blocks()
    assert block.y.tolist() == [1, 0]
    with pytest.raises(DataError, match=":1: the label 'ham' is not a class of the training data"):
        list(LibsvmText(tmp_path / "t", Reading(class_names=("spam", "eggs"))).blocks())
    with pytest.raises(DataError, match=":1: the label 'ham' is not a finite decimal number"):
        list(LibsvmText(tmp_path / "t", Reading(class_names=())).blocks())


def test_weights_in_byte_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").write_text("".join(f"{n % 2}:{n}.5 1:{n} 2:1\n" for n in range(100)))
    monkeypatch.setattr("mpinewton.data.pack.RANGE_BYTES", 100)
    pack(str(tmp_path / "t"), tmp_path / "p", 1, partition="blocks")
    shard = read_shard(tmp_path / "p", read_manifest(tmp_path / "p"), 0)
    assert shard.sample_weight is not None
    assert shard.sample_weight.tolist() == [n + 0.5 for n in range(100)]


@pytest.mark.parametrize("compress", [lambda text: text, gzip.compress, bz2.compress, lzma.compress])
def test_files_are_recognised_by_their_content(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    for text in (
        b"1 1:5 2:7\n-1 1:6 2:8\n",
        b"\xef\xbb\xbf1 1:5 2:7\n-1 1:6 2:8\n",
        b"5,7,1\n6,8,-1\n",
        b"5 7  1\n6\t8 -1\n",
    ):
        for name in ("t", "t.dat", "t.gz"):
            (tmp_path / name).write_bytes(compress(text))
            (block,) = open_source(str(tmp_path / name), Reading()).valid_blocks()
            X = block.X if isinstance(block.X, np.ndarray) else block.X.toarray()
            assert (X.tolist(), block.y.tolist()) == ([[5, 7], [6, 8]], [1, -1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1 1:1\n".encode("utf-16"), "UTF-16"),
        ("1 1:1\n".encode("utf-16-le"), "UTF-16"),
        (bytes(range(256)) * 9, "binary data"),
        (b"PK\x03\x04 no archive", "zip archive"),
        (b"\x89HDF\r\n\x1a\n 12", "HDF5"),
        (b"%PDF-1.7", "PDF"),
        (b"%%MatrixMarket matrix coordinate real general\n", "Matrix Market"),
        (b"\x28\xb5\x2f\xfd 12", "zstd"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    for name in ("t", "t.csv", "t.svm"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            list(open_source(str(tmp_path / name), Reading()).valid_blocks())


@pytest.mark.shared
@pytest.mark.parametrize("name", ["a1a", "australian", "pendigits", "splice"])
def test_published_files_are_read_as_scikit_learn_reads_them(name: str) -> None:
    path = SHARED / f"{name}.xz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    text = lzma.decompress(path.read_bytes())
    wanted, labels = oracle(text)
    blocks = list(LibsvmText(path, Reading()).blocks())
    assert np.array_equal(np.concatenate([block.y for block in blocks]), labels)
    assert np.array_equal(np.concatenate([block.X.indices for block in blocks]), wanted.indices)
    assert np.concatenate([block.X.data for block in blocks]).tobytes() == wanted.data.tobytes()
    assert np.array_equal(np.concatenate([np.diff(block.X.indptr) for block in blocks]), np.diff(wanted.indptr))
