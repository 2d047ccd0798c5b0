"""Compressors against their definitions: means and variances of draws, worst cases, true bits, exact round trips."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mpinewton.compress import COMPRESSORS, Eigenpairs, Top, Triangle, make_compressor
from mpinewton.compress.bits import Bits, pack_bits, width_of
from mpinewton.compress.compressor import index_bits, pack_indices, unpack_indices
from mpinewton.errors import ConfigError
from mpinewton.fleet.wire import arrays_of, from_bytes, layout_of, to_bytes
from mpinewton.linalg.lowrank import outer_sum

VECTORS = [
    "identity", "random", "random:r=3", "random:r=7", "top", "top:r=3", "top:r=7", "natural",
    "bernoulli:p=0.3,of=natural",
    "bernoulli:p=1,of=random:r=2", "bernoulli:p=0.5,of=dithering:levels=2,norm=max", "dithering", "dithering:levels=1",
    "dithering:levels=3", "dithering:levels=5,norm=max", "dithering:levels=200",
]  # fmt: skip
MATRICES = ["rank", "rank:r=3", *VECTORS]
UNBIASED = [text for text in VECTORS if "top" not in text]
X = np.array([0.3, -2.0, 0.0, 1e-3, 5.0, -0.7, 1.0])
finite = st.floats(-1e30, 1e30)
vectors = arrays(np.float64, st.integers(7, 40), elements=finite)


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng([1, *key])


def symmetric(size: int, seed: int = 0) -> np.ndarray:
    A = rng(seed).standard_normal((size, size)) * np.exp(-np.arange(size))
    return A + A.T


def travelled(message) -> list[np.ndarray]:
    """The arrays of a message as they come out of the bytes that cross."""
    single, sent = arrays_of(message.arrays)
    return from_bytes(layout_of(single, sent), to_bytes(sent).copy())[0] if sent else []


def test_all_are_tried():
    assert {text.partition(":")[0] for text in MATRICES} == set(COMPRESSORS)


# -- what both sides believe ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("text", VECTORS)
@settings(max_examples=25)
@given(x=vectors, seed=st.integers(0, 9))
def test_the_driver_gets_bit_by_bit_what_the_worker_goes_on_with(text, x, seed):
    for word in ("", (":" if ":" not in text else ",") + "word=32"):
        if "of=" in text and word:
            continue
        compressor = make_compressor(text + word)
        message = compressor.compress(x, rng(seed))
        assert compressor.expand(travelled(message), len(x)).tobytes() == message.value.tobytes()
        assert message.value.shape == x.shape
        assert message.value.dtype == np.float64
        assert message.bits == 8 * sum(a.nbytes for a in travelled(message))


@pytest.mark.parametrize("text", MATRICES)
@pytest.mark.parametrize("size", [4, 7, 160])
def test_matrices_too(text, size):
    compressor, A = make_compressor(text, matrices=True), symmetric(size)
    compressor.validate(size)
    message = compressor.compress(A, rng())
    assert np.array_equal(compressor.expand(travelled(message), size), message.value)
    assert np.array_equal(message.value, message.value.T)
    other = compressor.compress(2 * A, rng(1))
    mean = compressor.mean([message.arrays, other.arrays], np.array([0.25, 0.75]), size)
    np.testing.assert_allclose(mean, 0.25 * message.value + 0.75 * other.value, atol=1e-13 * np.abs(mean).max())
    assert np.array_equal(mean, mean.T)


@pytest.mark.parametrize("text", VECTORS)
@pytest.mark.parametrize("size", [7, 8, 100, 1000])
def test_true_bits_are_the_declared_ones_rounded_up_to_bytes(text, size):
    compressor = make_compressor(text)
    for k in range(20):
        message = compressor.compress(rng(k).standard_normal(size), rng(k))
        if text.startswith("bernoulli"):
            declared = 8 + int(message.arrays[0][0]) * compressor.of.bits(size)
        else:
            declared = compressor.bits(size)
        assert declared <= message.bits < declared + 8
    if text.startswith("bernoulli"):
        assert compressor.bits(size) == pytest.approx(8 + compressor.p * compressor.of.bits(size))


def test_bits_by_hand():
    assert make_compressor("identity").bits(10) == 640
    assert make_compressor("identity:word=32").bits(10) == 320
    assert make_compressor("random:r=3").bits(100) == 3 * 64 + 3 * 7
    assert make_compressor("top:r=50").bits(100) == 50 * 64 + 100  # a mask is shorter than 50 numbers of 7 bits
    assert make_compressor("top:r=100").bits(100) == 6400
    assert make_compressor("natural").bits(100) == 900
    assert make_compressor("dithering:levels=3").bits(100) == 64 + 300
    assert make_compressor("dithering:word=32").bits(123) == 32 + 123 * 5  # s = 12: 25 levels
    assert make_compressor("rank", 2, matrices=True).bits(123) == 2 * 124 * 64
    assert make_compressor("top", 123, matrices=True).bits(123) == 123 * 64 + min(123 * 13, 7626)


@pytest.mark.parametrize(
    ("text", "omega"),
    [
        ("dithering:levels=3", 10 / 3), ("dithering:levels=20", 1 / 4), ("dithering", 1.0), ("natural", 1 / 8),
        ("dithering:levels=4,norm=max", 100 / 64), ("dithering:levels=2,norm=max", 5.0), ("identity", 0.0),
        ("dithering:levels=1,norm=max", 10.0),
    ],
)  # fmt: skip
def test_omega_by_hand(text, omega):
    """min(d / s^2, sqrt(d) / s), by the largest entry d / (4 s^2), for d = 100."""
    assert make_compressor(text).omega(100) == pytest.approx(omega, rel=1e-15)


# -- unbiased ones --------------------------------------------------------------------------------------------------


def draws(compressor, x: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Mean of C(x) and of |C(x) - x|^2."""
    total, square, generator = np.zeros_like(x), 0.0, rng()
    for _ in range(count):
        value = compressor.compress(x, generator).value
        total += value
        square += (value - x) @ (value - x)
    return total / count, square / count


@pytest.mark.slow
@pytest.mark.parametrize("text", UNBIASED)
def test_mean_and_variance_of_draws(text):
    compressor, count = make_compressor(text), 1000
    mean, variance = draws(compressor, X, count)
    omega = compressor.omega(len(X))
    assert np.linalg.norm(mean - X) <= 4 * sqrt(omega * (X @ X) / count) + 1e-13
    assert variance <= 1.1 * omega * (X @ X) + 1e-15
    assert compressor.rate(len(X)) == 1 / (1 + omega)


@pytest.mark.parametrize("text", ["dithering", "dithering:levels=3", "dithering:levels=4,norm=max", "natural"])
def test_a_hundred_thousand_draws(text):
    # A long vector of one number, and a last one that keeps the norm: as many draws of its rounding as it has places.
    compressor, count = make_compressor(text), 100_000
    for a in (0.3, 1.0, -1.7):
        x = np.append(np.full(count, a), 3.0 * abs(a))
        y = compressor.compress(x, rng()).value[:-1]
        assert abs(y.mean() - a) <= 4 * y.std() / sqrt(count) + 1e-12 * abs(a)
        assert ((y - a) ** 2).sum() <= 1.02 * compressor.omega(count + 1) * (x @ x)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "omega"), [("random:r=2", 7 / 2 - 1), ("bernoulli:p=0.25,of=random:r=2", 13.0)])
def test_mean_and_variance_of_drawn_places(text, omega):
    # x = C(x) averaged over so many draws, made at once: place and coin are all that is drawn.
    compressor = make_compressor(text)
    assert compressor.omega(7) == pytest.approx(omega)
    mean, variance = draws(compressor, np.ones(7), 5_000)
    assert np.abs(mean - 1).max() <= 4 * sqrt(omega / 5_000)
    assert variance == pytest.approx(7 * omega, rel=0.1)


def test_omega_of_random_and_identity_are_attained():
    assert make_compressor("random:r=7").omega(7) == make_compressor("identity").omega(7) == 0
    assert np.array_equal(make_compressor("random:r=7").compress(X, rng()).value, X)
    # Learning at the rate 1 / (omega + 1) makes of a chosen coordinate the very number that was sent.
    c = make_compressor("random:r=1")
    learnt = c.rate(7) * c.compress(X, rng(2)).value
    assert set(learnt) <= {0.0, *X}


def test_natural_keeps_powers_of_two_and_zero_and_takes_the_neighbours_of_others():
    c = make_compressor("natural")
    powers = np.array([0.0, 1.0, -2.0, 2.0**127, -(2.0**-127), 0.5])
    assert np.array_equal(c.compress(powers, rng()).value, powers)
    for x in (0.75, -3.3, 1e-30):
        y = c.compress(np.full(2000, x), rng()).value
        below = 2.0 ** np.floor(np.log2(abs(x)))
        assert set(np.abs(y)) == {below, 2 * below}
        assert np.mean(np.abs(y) == 2 * below) == pytest.approx((abs(x) - below) / below, abs=0.05)
    tiny = c.compress(np.full(4000, 2.0**-129), rng()).value
    assert set(tiny) == {0.0, 2.0**-127}
    assert tiny.mean() == pytest.approx(2.0**-129, rel=0.15)


def test_bernoulli_of_one_is_the_other():
    x = rng().standard_normal(50)
    assert np.array_equal(make_compressor("bernoulli:p=1,of=identity").compress(x, rng()).value, x)


# -- contractive ones -----------------------------------------------------------------------------------------------


@given(x=vectors, r=st.integers(1, 7))
def test_top_is_contractive_and_keeps_the_largest(x, r):
    c = Top(r)
    y = c.compress(x, rng()).value
    kept = np.flatnonzero(y)
    assert len(kept) <= r
    assert np.array_equal(y[kept], x[kept])
    lost = np.abs(np.where(y == 0, x, 0))
    assert len(kept) == 0 or lost.max() <= np.abs(y[kept]).min()
    assert lost @ lost <= (1 - c.delta(len(x))) * (x @ x) * (1 + 1e-12)


def adversarial(size: int) -> list[np.ndarray]:
    ones = np.ones((size, size))
    alternating = np.diag(np.where(np.arange(size) % 2, -1.0, 1.0))
    return [ones, np.eye(size), alternating, ones - np.eye(size), np.zeros((size, size)), -symmetric(size)]


@pytest.mark.parametrize("size", [1, 2, 7, 160])
@pytest.mark.parametrize("text", ["rank", "top"])
def test_matrices_contract_in_the_worst_cases(text, size):
    for r in {1, min(3, size), size}:
        c = make_compressor(text, r, matrices=True)
        for A in adversarial(size):
            left = np.linalg.norm(A - c.compress(A, rng()).value) ** 2
            assert left <= (1 - c.delta(size)) * np.linalg.norm(A) ** 2 * (1 + 1e-12) + 1e-20


def test_top_of_a_matrix_of_ones_takes_an_entry_off_the_diagonal():
    kept = Triangle(Top(1)).compress(np.ones((5, 5)), rng()).value
    np.testing.assert_allclose(kept[0, 1], 1.0)
    assert np.count_nonzero(kept) == 2


@pytest.mark.parametrize("size", [6, 149])
@pytest.mark.parametrize("r", [1, 2, 6])
def test_rank_is_the_best_of_its_rank(size, r):
    A = symmetric(size, 3)
    e, Q = np.linalg.eigh(A)
    order = np.argsort(-np.abs(e))[:r]
    np.testing.assert_allclose(Eigenpairs(r).compress(A, rng()).value, outer_sum(e[order], Q.T[order]), atol=1e-13)


def test_rank_of_a_large_matrix_is_the_best_to_a_few_digits():
    A = rng().standard_normal((300, 300))
    A += A.T  # the hardest: the spectrum of noise has no gaps
    e = np.linalg.eigvalsh(A)
    best = np.linalg.norm(A) ** 2 - np.sort(e**2)[-1]
    left = np.linalg.norm(A - Eigenpairs(1).compress(A, rng()).value) ** 2
    assert best * (1 - 1e-12) <= left <= best * 1.001


def test_rank_by_products_needs_a_matrix_only_through_them():
    A, start = symmetric(200, 5), rng().standard_normal((200, 8))
    sent, after = Eigenpairs(2).pack_product(lambda V, _: A @ V, start, 500, 1e-8)
    e, Q = np.linalg.eigh(A)
    order = np.argsort(-np.abs(e))[:2]
    S = Eigenpairs(2).expand(sent, 200)
    np.testing.assert_allclose(S, outer_sum(e[order], Q.T[order]), atol=1e-6)
    next_one, _ = Eigenpairs(1).pack_product(lambda V, _: (A - S) @ V, after, 1, 0.0)
    assert abs(next_one[0][0]) == pytest.approx(np.sort(np.abs(e))[-3], rel=1e-2)  # `after` has followed it
    few, _ = Eigenpairs(1).pack_product(lambda V, _: A @ V, start, 2, 0.0)
    S = Eigenpairs(1).expand(few, 200)
    assert np.linalg.norm(A - S) ** 2 == pytest.approx(np.linalg.norm(A) ** 2 - np.linalg.norm(S) ** 2)
    zero, again = Eigenpairs(1).pack_product(lambda V, _: 0 * V, start, 4, 0.3)
    assert not Eigenpairs(1).expand(zero, 200).any()
    assert np.array_equal(again, start)
    assert Eigenpairs(1).pack_product(lambda V, _: np.nan * V, again, 4, 0.3)[0] == ()


def test_what_is_new_in_a_matrix_of_low_rank_is_found():
    """The first six coordinates know nothing of it: of zeros, a QR factor would make just these vectors."""
    u, v = np.eye(200)[[150, 180]]
    start = rng().standard_normal((200, 6))
    for before in (np.zeros((200, 200)), np.outer(u, u)):
        _, after = Eigenpairs(1).pack_product(lambda V, _: before @ V, start, 3, 0.3)  # noqa: B023
        sent, _ = Eigenpairs(1).pack_product(lambda V, _: np.outer(v, v @ V), after, 3, 0.0)
        assert sent[0][0] == pytest.approx(1.0)


# -- edges and refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", MATRICES)
def test_zero_stays_zero_and_one_number_is_enough(text):
    matrices = text.startswith("rank")
    c = make_compressor(text, matrices=matrices)
    shape = (7, 7) if matrices else 7
    assert not c.compress(np.zeros(shape), rng()).value.any()
    one = make_compressor(text.partition(":")[0], matrices=matrices)
    one.validate(1)
    x = np.full((1, 1) if matrices else 1, -4.0)
    message = one.compress(x, rng())
    assert message.value.shape == x.shape
    if not text.startswith("bernoulli"):
        np.testing.assert_allclose(message.value, x)


@pytest.mark.parametrize("text", MATRICES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_sent_and_arrives_as_nan(text, bad):
    for matrices in (False, True):
        if text.startswith("rank") and not matrices:
            continue
        c = make_compressor(text, matrices=matrices)
        x = symmetric(7) if matrices else X.copy()
        x[(1, 1) if matrices else 1] = bad
        message = c.compress(x, rng())
        assert message.bits == 0
        assert np.isnan(message.value).all()
        assert np.isnan(c.expand((), 7)).all()
        good = c.compress(np.ones(x.shape), rng()).arrays
        assert np.isnan(c.mean([good, message.arrays], np.ones(2), 7)).all()


def test_numbers_beyond_the_words_are_not_sent():
    for text, x in (("natural", 1e39), ("identity:word=32", 1e39), ("dithering", 1e200), ("top:word=32", 1e39)):
        assert np.isnan(make_compressor(text).compress(np.array([x, 1.0]), rng()).value).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tpo", "did you mean 'top'"),
        ("top:r=0", "r = 0: expected a value at least 1"),
        ("random:r=two", "expected a whole number"),
        ("natural:levels=3", "no setting 'levels'"),
        ("dithering:levels=-1", "levels = -1"),
        ("dithering:norm=3", "one of euclidean, max"),
        ("top:word=16", "one of 64, 32"),
        ("bernoulli:p=0", "p = 0.0: expected a value greater than 0"),
        ("bernoulli:p=0.5,of=top", "an unbiased compressor"),
        ("natural:of=top", "no setting 'of'"),
        ("rank", "for vectors use"),
    ],
)
def test_mistakes_are_told_in_words(text, says):
    with pytest.raises(ConfigError, match=says):
        make_compressor(text)


def test_r_is_given_once_and_fits():
    assert make_compressor("top", 5) == Top(5)
    assert make_compressor("rank", 5, matrices=True) == Eigenpairs(5)
    with pytest.raises(ConfigError, match="rank:r=2: r is given twice"):
        make_compressor("rank:r=2", 5, matrices=True)
    with pytest.raises(ConfigError, match="natural has no setting 'r'"):
        make_compressor("natural", 5)
    for c, size in (
        (Top(8), 7),
        (Triangle(Top(29)), 7),
        (Eigenpairs(8), 7),
        (make_compressor("bernoulli:of=random:r=8"), 7),
    ):
        c.validate(size + 1)
        with pytest.raises(ConfigError, match="set r to at most"):
            c.validate(size)


# -- bits -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 31).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1), max_size=40))))
def test_packed_bits_come_back(case):
    bits, numbers = case
    packed = pack_bits((np.array(numbers, dtype=np.int64), bits))
    assert packed.nbytes == -(-len(numbers) * bits // 8)
    assert Bits(packed).take(len(numbers), bits).tolist() == numbers


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_packed_indices_come_back(case):
    size, chosen = case
    places = np.array(sorted(chosen))
    packed = pack_indices(places, size)
    assert packed.nbytes == -(-index_bits(len(places), size) // 8)
    assert index_bits(len(places), size) <= len(places) * width_of(size)
    assert np.array_equal(unpack_indices(packed, len(places), size), places)
