"""`minimize` and `minimize_function` in one process, and the public names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launch import launch_serial
from scipy import sparse
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der, rosen_hess, rosen_hess_prod

import mpinewton as mn
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, WorkerError

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4)) * (RNG.random((60, 4)) < 0.6)
SIDE = X @ [1.0, -1.0, 0.5, 0.0] + 0.5 * RNG.standard_normal(60) > 0


def test_every_public_name_is_documented_and_no_other() -> None:
    documented = [path.stem for path in (ROOT / "docs" / "api").glob("*.md")]
    assert sorted(documented) == sorted(set(mn.__all__) - {"__version__"})
    assert dir(mn) == sorted(mn.__all__)
    for name in mn.__all__:
        assert getattr(mn, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'minimise'"):
        mn.minimise  # noqa: B018


def test_the_catalogues_are_called_whatever_has_been_imported() -> None:
    import mpinewton.losses
    import mpinewton.methods  # noqa: F401

    assert mn.methods()["newton"].name == "newton" and mn.losses()["huber"].name == "huber"
    finished = launch_serial(
        ["-W", "error", "-c", "import mpinewton as m; print('dino' in m.methods(), len(m.losses()) > 5)"]
    )
    assert finished.stdout.split() == ["True", "True"], str(finished)


def labels(kind: str) -> Any:
    words = np.where(SIDE, "yes", "no")
    return {
        "words": words, "list": words.tolist(), "booleans": SIDE, "whole numbers": SIDE.astype(np.int8),
        "signs": np.where(SIDE, 1.0, -1.0), "objects": words.astype(object), "large": np.where(SIDE, 2**60 + 1, 2**60),
        "column": words[:, None],
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["words", "list", "booleans", "whole numbers", "signs", "objects", "large", "column"])
def test_labels_of_any_kind_are_classes(kind: str) -> None:
    y = labels(kind)
    result = mn.minimize("newton", (X, y), loss="logistic")
    truth = mn.minimize("newton", (X, SIDE.astype(float)), loss="logistic")
    assert result.success and np.array_equal(result.x, truth.x)
    assert np.array_equal(result.classes, np.unique(y))


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dia", "lil", "dok", "bsr"])
def test_sparse_matrices_of_any_format_are_the_dense_one(form: str) -> None:
    given = sparse.coo_array(X).asformat(form)
    result = mn.minimize("newton", (given, SIDE), loss="logistic")
    assert np.allclose(result.x, mn.minimize("newton", (X, SIDE), loss="logistic").x, rtol=1e-10, atol=1e-12)


def test_a_matrix_with_entries_given_twice_is_not_changed() -> None:
    data, indices, indptr = np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0]), np.array([0, 2, 3])
    given = sparse.csr_array((data, indices, indptr), shape=(2, 2))
    result = mn.minimize("newton", (given, [1.0, 2.0]), loss="squared", l2=0.1)
    assert np.allclose(result.x, mn.minimize("newton", (given.toarray(), [1.0, 2.0]), loss="squared", l2=0.1).x)
    assert given.nnz == 3 and data.tolist() == [1.0, 2.0, 3.0]


class Frame:
    """What pandas and polars have in common."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def to_numpy(self) -> Any:
        return self.values


def test_data_frames_and_weights() -> None:
    weight = RNG.integers(1, 4, 60)
    result = mn.minimize("newton", (Frame(X), Frame(SIDE), Frame(weight)), loss="logistic", l2=0.01)
    rows = np.repeat(np.arange(60), weight)
    assert np.allclose(result.x, mn.minimize("newton", (X[rows], SIDE[rows]), loss="logistic", l2=0.01).x, atol=1e-8)


NAN_X, INF_X = X.copy(), X.copy()
NAN_X[3, 1], INF_X[5, 2] = np.nan, np.inf
BAD = {
    "list": ([X, SIDE], r"data: expected a folder, shards, \(X, y\).*a list of 2; arrays belong into a tuple"),
    "nothing": ([], "data: expected"),
    "number": (3, "data: expected"),
    "no labels": ((X,), "a tuple of 1"),
    "one axis": ((X[0], SIDE), r"X: expected shape \(n, p\), but it is \(4,\)"),
    "fewer labels": ((X, SIDE[:5]), r"y: expected shape \(60,\), as X has 60 rows, but it is \(5,\)"),
    "nan": ((NAN_X, SIDE), "X: row 3, column 1 is nan"),
    "infinite": ((INF_X, SIDE), "X: row 5, column 2 is inf"),
    "sparse nan": ((sparse.csc_array(NAN_X), SIDE), "X: row 3, column 1 is nan"),
    "masked": ((np.ma.masked_greater(X, 1), SIDE), "masked values"),
    "words": ((X.astype(str), SIDE), "X: expected numbers"),
    "complex": ((X + 1j, SIDE), "X: expected numbers"),
    "ragged": (([[1.0], [1.0, 2.0]], [0, 1]), "different lengths"),
    "nan label": ((X, np.where(SIDE, 1.0, np.nan)), r"y: the label of row \d+ is nan; remove"),
    "no label": ((X, np.where(SIDE, "a", None)), r"y: the label of row \d+ is None; remove"),
    "no columns": ((X[:, :0], SIDE), "X has no columns"),
    "mixed labels": ((X, np.array(["a", 1] * 30, dtype=object)), "labels of different kinds"),
    "negative weight": ((X, SIDE, -np.ones(60)), "sample_weight: expected"),
    "shards": ([Shard(X, SIDE * 1.0), Shard(X[:, :1], SIDE * 1.0)], "shard 1 has 1 features, and shard 0 has 4"),
    "nan shard": ([Shard(NAN_X, SIDE * 1.0)], "shard 0: X holds a value that is not finite"),
    "complex sparse": ((sparse.csr_array(X + 1j), SIDE), "X: expected numbers, but its dtype is complex128"),
    "huge numbers": ((np.full((60, 1), 10**400, dtype=object), SIDE), "X: expected numbers: int too large"),
    "dates": ((X, np.full(60, "2020-01-01", dtype="M8[D]")), "y: expected numbers, words or booleans"),
    "infinite weight": ((X, SIDE, np.where(SIDE, np.inf, 1)), "sample_weight: .* every weight finite"),
    "weights without a sum": ((X, SIDE, np.full(60, 1e308)), "the sum of the weights is not finite"),
    "weights of two shards": ([Shard(X, SIDE * 1.0, np.full(60, 2e306))] * 2, "the sum of the weights is not finite"),
    "shard of words": ([Shard(X, np.where(SIDE, "a", "b"))], "shard 0: y: expected numbers"),
    "shard of one axis": ([Shard(X[0], SIDE * 1.0)], r"shard 0: X: expected shape \(n, p\)"),
    "shard of few labels": ([Shard(X, SIDE[:3] * 1.0)], r"shard 0: y: expected shape \(60,\)"),
    "shard of few weights": ([Shard(X, SIDE * 1.0, np.ones(3))], r"shard 0: sample_weight: expected shape \(60,\)"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_bad_data_are_refused_in_a_sentence(data: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        mn.minimize("newton", data, loss="logistic")


WRONG = {
    "tol": ({"tol": "small"}, "tol = 'small': expected a number of at least 0"),
    "budget": ({"max_iterations": -1}, "max_iterations = -1"),
    "l2": ({"l2": float("nan")}, "l2 = nan"),
    "seed": ({"seed": 1.5}, "seed = 1.5: expected a whole number"),
    "workers": ({"workers": 0}, "workers = 0"),
    "gap": ({"gap": 1e-3}, 'add reference="auto"'),
    "setting": ({"settings": {"rh": 1}}, "rh"),
    "w0": ({"w0": np.zeros(3)}, r"w0: expected shape \(4,\)"),
    "words as w0": ({"w0": "zero"}, "w0: expected an array of finite numbers, but it is zero"),
    "nan in w0": ({"w0": [np.nan] * 4}, "w0: expected an array of finite numbers"),
    "array as l2": ({"l2": np.ones(30)}, r"^l2 = array.{35}: expected a number"),
    "infinite l2": ({"l2": np.inf}, "l2 = inf"),
    "half an iteration": ({"max_iterations": 2.5}, "max_iterations = 2.5: expected a whole number of at least 0"),
    "many workers": ({"workers": 10**9}, "workers = 1000000000: expected at most 60, the number of rows"),
    "callback": ({"callback": 3}, r"callback = 3: expected a function of \(Row, w\)"),
    "loss": ({"loss": None}, "loss = None: expected the name of a loss, or a loss"),
    "method": ({"method": None}, "method = None: expected the name of a method, or a method"),
    "settings": ({"settings": "rho=1"}, "settings = 'rho=1': expected a dict"),
    "intercept": ({"intercept": "no"}, "intercept = 'no': expected True or False"),
    "comm": ({"comm": 3}, "comm = 3: expected a communicator of mpi4py"),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    given = {"method": "newton", "loss": "logistic", **options}
    with pytest.raises(ConfigError, match=words):
        mn.minimize(data=(X, SIDE), **given)


def test_numbers_of_numpy_are_numbers() -> None:
    for l2 in (np.float32(0.25), np.int64(1), np.array(0.25)):
        assert mn.minimize("newton", (X, SIDE), loss="logistic", l2=l2).fun < np.log(2)


def test_words_are_no_numbers() -> None:
    with pytest.raises(ConfigError, match="y: expected numbers"):
        mn.minimize("newton", (X, np.where(SIDE, "yes", "no")), loss="squared")


def test_stops_are_those_of_run() -> None:
    def status(**stops: Any) -> tuple[int, str]:
        result = mn.minimize("gradient-descent", (X, SIDE), loss="logistic", **stops)
        return result.status, result.message

    assert status(rtol=0.5)[0] == status(gap=1e-3, reference="auto")[0] == 0
    assert status(tol=0.0, max_iterations=np.int64(2))[0] == status(tol=0.0, max_rounds=4)[0] == 1
    assert status(tol=0.0, max_bits=np.float32(100))[0] == 1


def test_a_callback_may_stop() -> None:
    def at_two(row: Any, w: Any) -> bool:
        return row.iteration == 2

    def at_once(row: Any, w: Any) -> None:
        raise StopIteration

    for callback, iterations in ((at_two, 2), (at_once, 0)):
        result = mn.minimize("gradient-descent", (X, SIDE), loss="logistic", callback=callback)
        assert (result.nit, result.status, result.success) == (iterations, 4, False)
        assert len(result.history) == iterations + 1


def test_what_the_method_does_not_know_is_measured_every_so_often() -> None:
    result = mn.minimize("sgd", (X, SIDE), loss="logistic", measure_every=3, max_iterations=6)
    assert [np.isfinite(row.loss) for row in result.history] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("method", "settings", "every"),
    [
        ("sgd", {"batch_fraction": 0.5}, 2), ("adamw", {"batch_size": 9}, 3), ("sisa", {"batch_size": 0.6}, 2),
        ("adamw", {}, 1), ("fedavg", {"batch_size": 9}, 1), ("gradient-descent", {}, 1),
    ],
)  # fmt: skip
def test_methods_of_minibatches_are_measured_once_in_an_epoch(method: str, settings: dict, every: int) -> None:
    data = X[:50], SIDE[:50]  # 25 rows on each of two workers
    result = mn.minimize(method, data, loss="logistic", settings=settings, workers=2, max_iterations=2 * every + 1)
    measured = [k for k, row in enumerate(result.history) if np.isfinite(row.loss)]
    assert measured == list(range(0, 2 * every + 2, every))
    assert np.isfinite(result.fun)


def test_a_loss_object_of_ones_own() -> None:
    from mpinewton.losses import make_loss

    loss = make_loss(f"{ROOT / 'examples' / 'own_loss.py'}:SquaredHinge:margin=2")
    by_name = mn.minimize("newton", (X, SIDE), loss=f"{ROOT / 'examples' / 'own_loss.py'}:SquaredHinge:margin=2")
    assert np.array_equal(mn.minimize("newton", (X, SIDE), loss=loss).x, by_name.x)


GIVEN = {
    "lbfgs": {}, "newton-cg": {"hess": rosen_hess}, "bfgs": {},
    "dino": {"hessp": rosen_hess_prod},
}  # fmt: skip


@pytest.mark.parametrize("method", GIVEN)
def test_functions_are_minimised_by_every_method_that_has_what_it_needs(method: str) -> None:
    found = mn.minimize_function(rosen, np.full(4, 0.5), method=method, jac=rosen_der, tol=1e-9, **GIVEN[method])
    truth = scipy_minimize(rosen, np.full(4, 0.5), jac=rosen_der, method="BFGS", options={"gtol": 1e-10})
    assert found.success and np.allclose(found.x, truth.x, atol=1e-8)


def test_newton_needs_one_step_for_a_quadratic_function() -> None:
    A, b = X[:, :3], SIDE * 1.0
    given = {"jac": lambda x: A.T @ (A @ x - b), "hess": lambda x: A.T @ A}
    found = mn.minimize_function(lambda x: 0.5 * np.sum((A @ x - b) ** 2), np.zeros(3), method="newton", **given)
    assert found.nit == 1 and np.allclose(found.x, np.linalg.lstsq(A, b)[0], atol=1e-12)


def test_functions_are_refused_where_something_is_missing() -> None:
    def call(words: str, kind: type[Exception] = ConfigError, **given: Any) -> None:
        with pytest.raises(kind, match=words):
            mn.minimize_function(**{"fun": rosen, "x0": np.zeros(3), "jac": rosen_der, **given})

    call("jac is missing.*torch.*jax", jac=None)
    call("newton needs hessian, which function does not provide", method="newton")
    call(r"x0: expected shape \(d,\)", x0=np.zeros((2, 2)))
    call("x0: expected an array of finite numbers", x0=[np.nan])
    call("choose from sum, mean", reduce="max")
    call("fun is None everywhere", fun=None)
    call(r"fun must return \(value, gradient\)", WorkerError, jac=True)
    call(r"jac must return an array of shape \(3,\)", WorkerError, jac=lambda x: x[:2])
    call("fun must return one number", WorkerError, fun=lambda x: x)
