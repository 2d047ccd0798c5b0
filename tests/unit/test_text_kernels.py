"""The compiled readers of numbers: against Python's float, and against the readers in numpy, errors included."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpinewton.data.csv_text import read_numbers
from mpinewton.data.libsvm import parse, parse_by_numpy

text = pytest.importorskip("mpinewton.kernels.text", reason="this installation has no compiled kernels")

WORDS = """1 -1 +1 0 3 12 2:1 1:0.5 7:-1e-3 3:1e400 9:.5 4:5. 5:+.25e+2 0:1 007:1 1: :1 1:2:3 99999999999999999999:1 1-2
1e e1 . - nan inf 0x1 1_0 x # qid:1 12345678901234567890.5 1:1e-320""".split()  # noqa: SIM905
pieces = st.sampled_from([*WORDS, " ", "  ", "\t", "\n", "\n", "\r\n", "\r", "# no\te", "\0", "é"])


def outcome(read, raw, limit):
    try:
        X, y = read(raw, limit)
    except ValueError:
        return None
    return X.shape, X.indptr.tolist(), X.indices.tolist(), X.data.tobytes(), y.tobytes()


@given(st.lists(pieces, max_size=30), st.sampled_from([" ", ""]), st.sampled_from([5, 1 << 24]))
@example(["1 1:1 2:2\n", "\n", "# all\n", "-1 3:0.1\n"], "", 5)
@settings(max_examples=300, deadline=None)
def test_libsvm_lines_are_read_as_by_numpy(parts, between, limit):
    raw = (between.join(parts) + "\n").encode()
    assert outcome(parse, raw, limit) == outcome(parse_by_numpy, raw, limit)


def numbers(count):
    """Decimal numbers of all kinds, as text; some are within 1e-20 of the middle between two doubles."""
    draw = np.random.default_rng(1)

    def digits(most):
        return "".join(map(str, draw.integers(0, 10, draw.integers(1, most + 1))))

    for _ in range(count):
        d = draw.random() * 10.0 ** draw.integers(5)
        middle = (Decimal(d) + Decimal(float(np.nextafter(d, 9e99)))) / 2
        yield repr(draw.random())
        yield f"{draw.standard_normal() * 10.0 ** draw.uniform(-300, 300):.17g}"
        yield f"{digits(20)}e{draw.integers(-40, 40)}"
        yield f"-{digits(6)}.{digits(9)}"
        yield f"+.{'0' * draw.integers(25)}{digits(20)}E-{draw.integers(3)}"
        yield str(middle)[: draw.integers(17, 60)]
    yield from ("0", "-0", "0e999999999999", "1.", ".5", "4.9e-324", "1.7976931348623157e308", "9007199254740993")


def test_numbers_have_the_bits_of_float():
    words = list(numbers(4000))
    table = read_numbers(words, ",", 1, [0])
    assert table[:, 0].tobytes() == np.array([float(word) for word in words]).tobytes()


@pytest.mark.parametrize(
    "word",
    ["", " ", "1e", "e1", "+", "1e400", "-1e999", "nan", "inf", "1_0", "0x1", "1 2", "1,", '"1"', "1\0", "\u0661"],
)
def test_anything_else_is_left_to_numpy(word):
    with pytest.raises(ValueError):
        read_numbers([f"{word},1"], ",", 2, [0, 1])


@pytest.mark.parametrize(
    "delimiter, lines",
    [
        (",", ["1.5, a word,-2 ", "4,,5e2"]),
        (";", ["1.5;a, b;-2", " 4;;5e2"]),
        ("\t", ["1.5\ta b\t-2", "4\t\t5e2"]),
        (None, ["1.5 word\t-2", "  4 - \t 5e2  "]),
    ],
)
def test_columns_that_are_not_used_may_have_words(delimiter, lines):
    np.testing.assert_array_equal(read_numbers(lines, delimiter, 3, [0, 2]), [[1.5, 0, -2], [4, 0, 500]])
    for wrong in ("1 2", "1 2 3 4"):
        with pytest.raises(ValueError):
            read_numbers([*lines, wrong.replace(" ", delimiter or " ")], delimiter, 3, [0, 2])


def test_arrays_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="expected an array of type d with 2 items"):
        text.table(b"1,2\n", 44, 2, np.ones(2, dtype=bool), np.empty(1))
    sizes = [np.empty(2, np.int64), np.empty(1, np.int32), np.empty(1), np.empty(1)]
    assert text.libsvm(b"1 2:3\n", 9, *sizes) == (1, 1, 2)
    for place in range(4):
        with pytest.raises(ValueError, match="expected an array of type"):
            text.libsvm(b"1 2:3\n", 9, *(a[:-1] if place == k else a for k, a in enumerate(sizes)))
    with pytest.raises(ValueError, match="expected an array of type i"):
        text.libsvm(b"1 2:3\n", 9, sizes[0], np.empty(1, np.int64), *sizes[2:])
