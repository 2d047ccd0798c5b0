"""Text as rows: windows of characters, the numbers of the training data, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mpinewton.cli import pack as pack_command
from mpinewton.data.blocks import Reading
from mpinewton.data.columns import Schema
from mpinewton.data.loading import load_rows
from mpinewton.data.manifest import read_manifest
from mpinewton.data.pack import pack
from mpinewton.data.shard_io import read_shard
from mpinewton.errors import ConfigError, DataError

TEXT = "to be, or not to be:\nthat is the question é"


@pytest.fixture
def name(tmp_path: Path) -> str:
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    return f"text:{tmp_path / 't.txt'}"


def told(shard, names):
    """Rows and labels as characters again."""
    return ["".join(names[int(n)] for n in row) for row in shard.X], "".join(names[int(n)] for n in shard.y)


@pytest.mark.parametrize("context", [1, 5, len(TEXT) - 1])
def test_rows_are_the_text_and_labels_what_follows(name: str, tmp_path: Path, context: int) -> None:
    pack(f"{name}?context={context}", tmp_path / "p", 1, partition="blocks")
    manifest = read_manifest(tmp_path / "p")
    shard = read_shard(tmp_path / "p", manifest, 0, dtype=None)
    assert (manifest.dtype, shard.X.dtype) == ("uint8", np.uint8)
    assert manifest.class_names == tuple(sorted(set(TEXT)))
    rows, labels = told(shard, manifest.class_names)
    n = (len(TEXT) - 1) // context
    assert rows == [TEXT[i * context : (i + 1) * context] for i in range(n)]
    assert labels == "".join(TEXT[(i + 1) * context] for i in range(n))


def test_a_text_to_test_on_has_the_numbers_of_the_training_data(name: str, tmp_path: Path) -> None:
    names = tuple(sorted({*TEXT, "x"}))
    shard, classes = load_rows(f"{name}?context=4&from=6&to=19", Schema(4, names))
    assert told(shard, names) == ([TEXT[6:10], TEXT[10:14], TEXT[14:18]], TEXT[10] + TEXT[14] + TEXT[18])
    assert classes == tuple(map(float, range(len(names))))
    with pytest.raises(DataError, match="has the character 'q', which the training data do not have"):
        load_rows(f"{name}?context=4", Schema(4, tuple(sorted(set(TEXT[:30])))))
    with pytest.raises(DataError, match="has 4 features, but the training data have 5"):
        load_rows(f"{name}?context=4", Schema(5, names))


def test_a_packed_text_is_tested_on_only_if_its_characters_are_the_same(name: str, tmp_path: Path) -> None:
    pack(f"{name}?context=4", tmp_path / "p", 2)
    names = read_manifest(tmp_path / "p").class_names
    assert load_rows(str(tmp_path / "p"), Schema(4, names))[0].rows == len(TEXT) // 4
    with pytest.raises(DataError, match="characters have other numbers"):
        load_rows(str(tmp_path / "p"), Schema(4, (*(names or ()), "ü")))


def test_a_part_of_the_text_has_the_characters_of_the_whole(name: str, tmp_path: Path) -> None:
    pack(f"{name}?context=4&to=9", tmp_path / "p", 1)
    manifest = read_manifest(tmp_path / "p")
    assert manifest.rows == 2
    assert manifest.class_names == tuple(sorted(set(TEXT)))


def test_compressed_text_and_characters_on_the_screen(name: str, tmp_path: Path) -> None:
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    arguments = [f"text:{tmp_path / 'z.txt.gz'}?context=2", "-o", str(tmp_path / "z"), "--workers", "2"]
    said = CliRunner().invoke(pack_command.command, arguments, catch_exceptions=False).output
    assert "dense uint8" in said
    assert r"classes  '\n': 1, ' ': 5, ,: 0, :: 0, a: 0, b: 0" in said
    pack(f"{name}?context=2", tmp_path / "p", 2)
    zipped, plain = (read_manifest(tmp_path / folder).shards for folder in ("z", "p"))
    assert [shard.digest for shard in zipped] == [shard.digest for shard in plain]
    first, second = (read_shard(tmp_path / n, read_manifest(tmp_path / n), 0) for n in "zp")
    np.testing.assert_array_equal(first.X, second.X)


def test_python_brings_a_text_along() -> None:
    shard, classes = load_rows("python:topics?context=64&to=64001")
    assert shard.X.shape == (1000, 64)
    assert classes is not None and 90 <= len(classes) <= 96
    whole, _ = load_rows("python:topics")
    assert whole.rows > 14_000


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        ("?contxt=3", ConfigError, "did you mean 'context'"),
        ("?context=0", ConfigError, "expected at least 1"),
        ("?context=few", ConfigError, "expected a whole number"),
        ("?from=-1", ConfigError, "expected a whole number"),
        ("?context=99", DataError, "fewer than the 100 of a row"),
        ("?from=99", DataError, "has 0 characters"),
    ],
)
def test_what_is_refused(name: str, query: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_rows(name + query)


def test_other_refusals(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected labels that are numbers"):
        load_rows(f"{name}?context=4", Schema(4, ()))
    with pytest.raises(ConfigError, match="a row has 32 characters: set context="):
        pack(name, tmp_path / "p", 1, reading=Reading(features=64))
    with pytest.raises(ConfigError, match="expected python:topics"):
        load_rows("python:poems")
    with pytest.raises(DataError, match="cannot be opened"):
        load_rows(f"text:{tmp_path / 'absent'}")
    (tmp_path / "nul").write_bytes(b"a\0b\0")
    with pytest.raises(DataError, match="has the character NUL"):
        load_rows(f"text:{tmp_path / 'nul'}?context=1")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not text in UTF-8"):
        load_rows(f"text:{tmp_path / 'bytes'}")
    (tmp_path / "many").write_text("".join(map(chr, range(0x4E00, 0x4E00 + 1001))), encoding="utf-8")
    with pytest.raises(DataError, match="1001 different characters"):
        load_rows(f"text:{tmp_path / 'many'}")


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("ab" * 9, encoding="utf-8-sig")
    assert pack(f"text:{tmp_path / 't'}?context=2", tmp_path / "p", 1).manifest.class_names == ("a", "b")
