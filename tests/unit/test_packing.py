"""Arrays to bytes and back: what comes out is what went in, or it is refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from mpinewton.fleet.wire import arrays_of, from_bytes, from_vector, layout_of, to_bytes, to_reply, to_vector

DTYPES = st.sampled_from(["f8", "f4", "f2", ">f8", "i8", "i4", "u1", "i2", "?"])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


def same(got: Any, sent: np.ndarray) -> bool:
    return (got.dtype, got.shape, got.tobytes()) == (sent.dtype, sent.shape, sent.tobytes())


@pytest.mark.slow
@given(st.lists(ARRAYS, max_size=5), st.integers(0, 3))
def test_arrays_come_back_from_bytes_bit_by_bit(sent: list[np.ndarray], before: int) -> None:
    _, arrays = arrays_of(tuple(sent))
    layout = layout_of(False, arrays)
    data = np.concatenate([np.zeros(8 * before, np.uint8), to_bytes(arrays)])
    got, end = from_bytes(layout, data, 8 * before)
    assert end == len(data)
    assert [*map(same, got, sent)] == [True] * len(sent)
    assert layout.numbers == sum(a.size for a in sent)


@given(ARRAYS | st.tuples(ARRAYS, ARRAYS) | st.tuples(ARRAYS) | st.just(()) | st.none())
def test_a_reply_keeps_its_form(reply: Any) -> None:
    single, arrays = arrays_of(reply)
    got = to_reply(layout_of(single, arrays), arrays)
    assert isinstance(got, tuple) == isinstance(reply, tuple)
    parts, truth = (x if isinstance(x, tuple) else () if x is None else (x,) for x in (got, reply))
    assert len(parts) == len(truth)
    for part, sent in zip(parts, truth):
        if sent.ndim:
            assert same(part, sent)
        else:
            assert type(part) is type(sent.item()) and np.array(part, sent.dtype).tobytes() == sent.tobytes()


NUMBERS = hnp.arrays("f8", hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))


@given(NUMBERS | st.lists(NUMBERS, max_size=4).map(tuple))
def test_a_reply_survives_as_one_vector(reply: Any) -> None:
    single, arrays = arrays_of(reply)
    layout, vector = layout_of(single, arrays), to_vector(arrays)
    assert vector.shape == (layout.numbers,)
    again = from_vector(layout, vector)
    assert to_vector(arrays_of(again)[1]).tobytes() == vector.tobytes()
    assert [np.shape(part) for part in (again if isinstance(again, tuple) else (again,))] == [a.shape for a in arrays]


def test_a_vector_is_never_the_array_it_was_made_of() -> None:
    sent = np.ones(3)
    assert not np.shares_memory(to_vector([sent]), sent)


def test_arrays_of_any_order_are_packed_row_by_row() -> None:
    sent = np.arange(12.0).reshape(3, 4)
    for view in (sent.T, sent[:, ::2], sent[::-1]):
        _, arrays = arrays_of((view, 1.0))
        (got, one), _ = from_bytes(layout_of(False, arrays), to_bytes(arrays))
        assert got.tolist() == view.tolist() and one == 1.0


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("words", "str"),
        ((1.0, None), "NoneType"),
        (np.array([None, 1.0]), "ndarray"),
        (np.array(["a"]), "ndarray"),
        (np.array([1j]), "ndarray"),
        ((np.ones(2), {"a": 1.0}), "dict"),
        (sparse.csr_array(np.eye(2)), "csr_array"),
        (2**70, "int"),
    ],
)
def test_what_is_no_number_is_refused_by_name(reply: Any, named: str) -> None:
    with pytest.raises(TypeError, match=f"only numbers and arrays of numbers travel .*, not {named}"):
        arrays_of(reply)
