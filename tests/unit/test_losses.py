"""The losses: derivatives against differences, values against scikit-learn and scipy, and the zoo's own formulae."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ZOO
from scipy import sparse, special

from mpinewton.cli.losses import command
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.linalg.rows import Rows
from mpinewton.losses import LOSSES, describe, make_loss

EVERY = ["logistic", "softmax", "softmax:reduced=true", "squared", "huber:delta=0.7", "poisson", "softplus"]
CLASSES = {"logistic": (3.0, 7.0), "softmax": (2.0, 3.0, 5.0, 7.0)}


def sample_labels(loss, n, rng):
    if loss.name in CLASSES:
        return rng.choice(CLASSES[loss.name], n)
    return rng.poisson(2.0, n).astype(float) if loss.name == "poisson" else rng.normal(1.0, 2.0, n)


def model_of(text, storage="dense", weighted=False, n=40, dtype=np.float64):
    """A loss on a random shard with an intercept column, random weights w and a direction v."""
    rng = np.random.default_rng(8)
    loss = make_loss(text)
    X = (rng.standard_normal((n, 5)) * (rng.random((n, 5)) < 0.6)).astype(dtype)
    weight = rng.uniform(0.1, 3.0, n) if weighted else None
    shard = Shard(sparse.csr_array(X) if storage == "csr" else X, sample_labels(loss, n, rng), weight)
    model = loss.on_shard(shard.with_intercept(), CLASSES.get(loss.name))
    return model, rng.standard_normal(model.dim) / 2, rng.standard_normal(model.dim)


def close(got, truth, tolerance):
    return np.linalg.norm(np.subtract(got, truth)) <= tolerance * np.linalg.norm(truth)


@pytest.fixture(params=EVERY)
def text(request):
    return request.param


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("storage", ["dense", "csr"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_derivatives_are_those_of_the_value(text, storage, weighted, dtype):
    model, w, v = model_of(text, storage, weighted, dtype=dtype)
    there, step = model.at(w), 1e-5
    ahead, behind = model.at(w + step * v), model.at(w - step * v)
    assert close(there.gradient() @ v, (ahead.value() - behind.value()) / (2 * step), 1e-8)
    assert close(there.hvp(v), (ahead.gradient() - behind.gradient()) / (2 * step), 1e-8)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("storage", ["dense", "csr"])
def test_hessian_is_its_products(text, storage, weighted):
    model, w, _ = model_of(text, storage, weighted)
    there = model.at(w)
    H = there.hessian()
    np.testing.assert_array_equal(H, H.T)
    for column, e in zip(H.T, np.eye(model.dim)):
        np.testing.assert_allclose(column, there.hvp(e), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("storage", ["dense", "csr"])
def test_float32_rows_give_what_the_rounded_rows_give_in_float64(text, storage):
    narrow, w, v = model_of(text, storage, True, dtype=np.float32)
    wide, _, _ = model_of(text, storage, True)
    wide.rows = Rows(narrow.rows.X.astype(np.float64))
    got, truth = narrow.at(w), wide.at(w)
    assert close(got.value(), truth.value(), 1e-14)
    assert close(got.gradient(), truth.gradient(), 1e-13)
    assert close(got.hvp(v), truth.hvp(v), 1e-13)
    assert close(got.hessian(), truth.hessian(), 1e-13)
    assert got.gradient().dtype == got.hessian().dtype == np.float64


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_the_ray_is_the_loss_along_it(text, weighted, monkeypatch):
    monkeypatch.setattr("mpinewton.losses.linear.RAY_NUMBERS", 100)  # several blocks of rows even here
    model, w, p = model_of(text, weighted=weighted)
    ray, steps = model.at(w).along(p), np.array([0.0, 1.0, 0.5, -0.25, 2.0**-30])
    losses = ray.losses(steps)
    assert losses.shape == steps.shape
    for step, loss in zip(steps, losses):
        there, here = model.at(w + step * p), ray.at(step)
        assert close(loss, there.value(), 1e-13)
        assert close(here.value(), there.value(), 1e-13)
        assert close(here.gradient(), there.gradient(), 1e-12)
        np.testing.assert_array_equal(here.w, there.w)
    assert ray.losses(np.empty(0)).shape == (0,)


def test_a_kept_point_is_the_same_bit_by_bit(text):
    model, w, p = model_of(text)
    point = model.at(w).along(p).at(0.3)
    again = model.at(point.w, **point.cache())
    assert again.value() == point.value()
    np.testing.assert_array_equal(again.gradient(), point.gradient())


def test_weights_count_as_repeated_rows(text):
    loss, rng = make_loss(text), np.random.default_rng(1)
    X, y, times = rng.standard_normal((6, 3)), sample_labels(loss, 6, rng), np.array([1, 3, 0, 2, 1, 5])
    classes = CLASSES.get(loss.name)
    weighted = loss.on_shard(Shard(X, y, times.astype(float)), classes)
    repeated = loss.on_shard(Shard(np.repeat(X, times, axis=0), np.repeat(y, times)), classes)
    w = rng.standard_normal(weighted.size)
    assert close(weighted.at(w).value(), repeated.at(w).value(), 1e-14)
    assert close(weighted.at(w).gradient(), repeated.at(w).gradient(), 1e-13)
    assert close(weighted.at(w).hessian(), repeated.at(w).hessian(), 1e-13)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("storage", ["dense", "csr"])
def test_no_rows(text, storage, weighted):
    model, w, v = model_of(text, storage, weighted, n=0)
    there, d = model.at(w), model.dim
    assert there.value() == 0.0
    np.testing.assert_array_equal(there.gradient(), np.zeros(d))
    np.testing.assert_array_equal(there.hvp(v), np.zeros(d))
    np.testing.assert_array_equal(there.hessian(), np.zeros((d, d)))
    np.testing.assert_array_equal(there.along(v).losses(np.ones(3)), np.zeros(3))
    assert model.predict(w).shape == (0,)


def test_inputs_are_never_written_to(text):
    loss, rng = make_loss(text), np.random.default_rng(2)
    X, y, weight = rng.standard_normal((9, 3)), sample_labels(loss, 9, rng), rng.uniform(1, 2, 9)
    model = loss.on_shard(Shard(X, y, weight), CLASSES.get(loss.name))
    w, z = rng.standard_normal(model.dim), model.logits(rng.standard_normal(model.dim))
    for array in (X, y, weight, w, z):
        array.flags.writeable = False
    there = model.at(w, z=z)
    there.value(), there.gradient(), there.hvp(w), there.hessian(), model.predict(w)
    there.along(w).losses(np.ones(2))


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.integers(0, 3))
@settings(max_examples=60, derandomize=True, deadline=None)
@pytest.mark.parametrize("extreme", EVERY)
def test_extreme_logits_stay_finite(extreme, a, b, number):
    loss = make_loss(extreme)
    classes = CLASSES.get(loss.name)
    t = loss.targets(np.array([classes[number % len(classes)] if classes else float(number)]), classes)
    z = np.array([a]) if loss.outputs(classes) == 1 else np.array([[a, b, -a, 0.0][: loss.outputs(classes)]])
    results = (loss.values(z, t), loss.derivatives(z, t), loss.apply_second(loss.second_terms(z, t), np.ones_like(z)))
    for result in results:
        assert np.isfinite(result).all()
    if loss.convex and loss.outputs(classes) == 1:
        assert results[2] >= 0


def test_trial_steps_are_leading_axes(text):
    model, w, p = model_of(text)
    z = model.logits(w) + np.arange(3.0).reshape(3, *[1] * model.logits(w).ndim) * model.logits(p)
    for formula in (model.loss.values, model.loss.derivatives):
        np.testing.assert_array_equal(formula(z, model.t), np.stack([formula(one, model.t) for one in z]))


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name):
    """Value, gradient and Hessian of the whole problem are the zoo's, and the gradient at its optimum is 0."""
    problem = ZOO[name]
    models = [problem.loss.on_shard(shard, problem.classes) for shard in problem.shards]
    mass = np.array([shard.total_weight for shard in problem.shards])
    share = mass / mass.sum()
    assert 0.0 in mass
    for w in (problem.start, *(problem.optimum or ())[:1]):
        points = [model.at(w) for model in models]
        value = share @ [point.value() for point in points] + problem.l2 / 2 * w @ w
        gradient = share @ [point.gradient() for point in points] + problem.l2 * w
        hessian = np.tensordot(share, [point.hessian() for point in points], 1) + problem.l2 * np.eye(w.size)
        truth = problem.objective(w)
        assert close(value, truth[0], 1e-13)
        assert np.linalg.norm(gradient - truth[1]) < 1e-12
        assert close(hessian, truth[2], 1e-12)
    assert (problem.optimum is None) == (problem.loss.name == "softplus")
    assert problem.optimum is None or np.linalg.norm(gradient) < 1e-12


def test_ridge_optimum_of_the_zoo_is_the_normal_equations():
    for name in ("squared-dense", "squared-csr"):
        X, y, share = ZOO[name]._rows
        closed = np.linalg.solve(X.T @ (share[:, None] * X) + ZOO[name].l2 * np.eye(X.shape[1]), X.T @ (share * y))
        np.testing.assert_allclose(ZOO[name].optimum[0], closed, rtol=0, atol=1e-12)


# ------------------------------------------------------------------ values against other people's code


def test_logistic_and_softmax_are_log_loss():
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(3)
    z, y = rng.normal(0, 3, 30), rng.choice([3.0, 7.0], 30)
    logistic = make_loss("logistic")
    values = logistic.values(z, logistic.targets(y, (3.0, 7.0)))
    assert np.isclose(values.mean(), log_loss(y, special.expit(z), labels=[3.0, 7.0]), rtol=1e-13)
    Z, y = rng.normal(0, 3, (30, 4)), rng.choice(CLASSES["softmax"], 30)
    softmax, reduced = make_loss("softmax"), make_loss("softmax:reduced=true")
    t = softmax.targets(y, CLASSES["softmax"])
    truth = log_loss(y, special.softmax(Z, axis=1), labels=CLASSES["softmax"])
    assert np.isclose(softmax.values(Z, t).mean(), truth, rtol=1e-13)
    assert np.isclose(reduced.values(Z[:, :3] - Z[:, 3:], t).mean(), truth, rtol=1e-13)


def test_poisson_is_half_the_deviance_and_the_log_likelihood():
    from scipy.stats import poisson as distribution
    from sklearn.metrics import mean_poisson_deviance

    rng = np.random.default_rng(4)
    z, y = rng.normal(0, 1, 30), rng.poisson(2.0, 30).astype(float)
    poisson = make_loss("poisson")
    np.testing.assert_allclose(poisson.values(z, y), -distribution.logpmf(y, np.exp(z)), rtol=1e-12)
    best = poisson.values(np.log(np.maximum(y, 1e-300)), y)
    deviance = mean_poisson_deviance(y, np.exp(z))
    assert np.isclose(2 * (poisson.values(z, y) - best).mean(), deviance, rtol=1e-12)


def test_poisson_is_smooth_where_the_exponential_ends():
    poisson, zero = make_loss("poisson"), np.zeros(2)
    z = np.array([300.0 - 1e-9, 300.0 + 1e-9])
    for formula in (poisson.values, poisson.derivatives, poisson.second_derivatives):
        below, above = formula(z, zero)
        assert np.isclose(below, np.exp(300.0), rtol=1e-8)
        assert np.isclose(above, below, rtol=1e-8)
    # The Taylor polynomial, and its derivatives, at u = 2 beyond.
    far, t = np.array([302.0]), np.zeros(1)
    factors = [
        formula(far, t)[0] / np.exp(300.0)
        for formula in (poisson.values, poisson.derivatives, poisson.second_derivatives)
    ]
    np.testing.assert_allclose(factors, [1 + 2 + 2, 1 + 2, 1], rtol=1e-12)


@pytest.mark.parametrize("delta", [0.3, 1.0, 2.5])
def test_huber_is_scipys(delta):
    r = np.linspace(-4, 4, 81)
    y = np.full(81, 0.5)
    loss = make_loss(f"huber:delta={delta}")
    np.testing.assert_allclose(loss.values(r + y, y), special.huber(delta, r), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        loss.derivatives(r + y, y), np.sign(r) * np.minimum(abs(r), delta), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("text, expected", [("squared", 4.5), ("softplus", (np.log(2) - 3) ** 2)])
def test_squares_at_zero(text, expected):
    assert np.isclose(make_loss(text).values(np.zeros(1), np.array([3.0]))[0], expected, rtol=1e-14)


def test_predictions():
    z = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(make_loss("logistic").predictions(z, (3.0, 7.0)), [3.0, 3.0, 7.0])
    np.testing.assert_array_equal(make_loss("squared").predictions(z, None), z)
    np.testing.assert_allclose(make_loss("poisson").predictions(z, None), np.exp(z))
    np.testing.assert_allclose(make_loss("softplus").predictions(z, None), np.log(1 + np.exp(z)))
    Z = np.array([[0.1, -1.0], [-2.0, 3.0], [-1.0, -2.0]])
    np.testing.assert_array_equal(make_loss("softmax:reduced=true").predictions(Z, (2.0, 5.0, 9.0)), [2.0, 5.0, 9.0])
    np.testing.assert_array_equal(make_loss("softmax").predictions(Z, (2.0, 5.0)), [2.0, 5.0, 2.0])


# ------------------------------------------------------------------ what is refused, and in which words


@pytest.mark.parametrize(
    "text, y, classes, sentence",
    [
        ("logistic", [1.0, 2.0, 3.0], (1.0, 2.0, 3.0), "2 classes; these have 3"),
        ("logistic", [0.5], None, "these are real numbers. Use squared"),
        ("logistic", [0.0, 1.0, 5.0], (0.0, 1.0), "row 2 has 5"),
        ("logistic", [np.nan], (0.0, 1.0), "row 0 has nan"),
        ("softmax", [0.0], (0.0,), "1 logits for 1 classes; it needs 2"),
        ("softmax:reduced=true", [0.0, 1.0], (0.0, 1.0), "which is logistic"),
        ("softmax", [0.0, 4.0], (0.0, 1.0, 2.0), "labels of the classes 0, 1, 2; row 1 has 4"),
        ("softmax", [0.5], None, "these are real numbers"),
        ("poisson", [0.0, 2.5, -1.0], None, "not negative; row 2 has -1"),
        ("poisson", [np.inf], None, "finite"),
        ("squared", [1.0, np.nan], None, "squared needs finite labels; row 1 has nan"),
        ("softplus", [np.inf], None, "row 0 has inf"),
    ],
)
def test_labels_that_do_not_fit(text, y, classes, sentence):
    with pytest.raises(DataError, match=sentence):
        make_loss(text).targets(np.array(y), classes)


def test_classes_may_come_in_any_order():
    np.testing.assert_array_equal(make_loss("softmax").targets(np.array([1.0, 9.0, 4.0]), (9.0, 1.0, 4.0)), [1, 0, 2])
    np.testing.assert_array_equal(make_loss("logistic").targets(np.array([1.0, 9.0]), (9.0, 1.0)), [1.0, -1.0])


def test_softmax_has_no_curvatures():
    model, w, _ = model_of("softmax")
    assert "second_derivatives" not in model.loss.provides
    with pytest.raises(ConfigError, match="softmax has no curvature coefficients"):
        model.at(w).second_derivatives()


def test_curvatures_make_the_hessian(text):
    model, w, _ = model_of(text)
    if "second_derivatives" in model.loss.provides:
        X = model.rows.X
        np.testing.assert_allclose(
            model.at(w).hessian(), X.T @ np.diag(model.at(w).second_derivatives()) @ X / 40, rtol=1e-12
        )


def test_make_loss():
    assert make_loss("huber:delta=1.5") == LOSSES["huber"](delta=1.5)
    assert make_loss("huber: delta = 2") == LOSSES["huber"](delta=2.0)
    assert make_loss("softmax:reduced=true").reduced is True
    assert make_loss("softmax:reduced=false") == make_loss("softmax")
    for name, loss in LOSSES.items():
        assert make_loss(name) == loss()


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("hubr", "there is no loss 'hubr'.*did you mean 'huber'"),
        ("", "there is no loss ''"),
        ("huber:dleta=1", "no setting 'dleta'.*did you mean 'delta'"),
        ("squared:delta=1", "squared has no setting 'delta'"),
        ("huber:delta=wide", "delta = 'wide' must be a number"),
        ("huber:delta=0", "delta = 0 must be a positive number"),
        ("huber:delta=nan", "must be"),
        ("huber:delta", "write huber:key=value"),
        ("huber:", "write huber:key=value"),
        ("softmax:reduced=maybe", "must be true or false"),
    ],
)
def test_make_loss_refuses(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_loss(text)


def test_table_of_losses():
    lines = describe()
    assert len(lines) == 1 + len(LOSSES)
    assert len({line.index("gradient") for line in lines[1:] if "second_derivatives" not in line}) == 1
    table = {line.split()[0]: line for line in lines}
    assert "huber:delta=1.0" in table
    assert "(z - y)^2 / 2  " in table["squared"]
    assert "second_derivatives" not in table["softmax:reduced=false"]
    assert " no " in table["softplus"]
    result = CliRunner().invoke(command)
    assert (result.exit_code, result.output) == (0, "\n".join(lines) + "\n")
