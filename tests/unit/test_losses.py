"""The losses: closed forms, formulas of others, refusals. The rest is proved by `check_loss` in test_check_loss.py."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from mpinewton.cli.losses import command
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.losses import LOSSES, make_loss
from mpinewton.losses.linear import LinearLoss
from mpinewton.testing.problems import FORMULAE, ZOO

LINEAR = ["logistic", "softmax", "softmax:reduced=true", "squared", "huber:delta=0.7", "poisson", "softplus"]
CLASSES = {"logistic": (3.0, 7.0), "softmax": (2.0, 3.0, 5.0, 7.0)}


def close(got, truth, tolerance):
    return np.linalg.norm(np.subtract(got, truth)) <= tolerance * np.linalg.norm(truth)


def test_every_linear_loss_has_formulas_of_its_own_in_the_zoo():
    names = {name for name, kind in LOSSES.items() if issubclass(kind, LinearLoss)}
    assert {make_loss(text).name for text in FORMULAE} == {make_loss(text).name for text in LINEAR} == names


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.integers(0, 3))
@settings(max_examples=60, derandomize=True, deadline=None)
@pytest.mark.parametrize("text", LINEAR)
def test_extreme_logits_stay_finite(text, a, b, number):
    loss = make_loss(text)
    classes = CLASSES.get(loss.name)
    t = loss.targets(np.array([classes[number % len(classes)] if classes else float(number)]), classes)
    z = np.array([a]) if loss.outputs(classes) == 1 else np.array([[a, b, -a, 0.0][: loss.outputs(classes)]])
    results = (loss.values(z, t), loss.derivatives(z, t), loss.apply_second(loss.second_terms(z, t), np.ones_like(z)))
    for result in results:
        assert np.isfinite(result).all()
    if loss.convex and loss.outputs(classes) == 1:
        assert results[2] >= 0


@pytest.mark.parametrize("text", LINEAR)
def test_values_and_derivatives_together_are_those_one_by_one(text):
    loss, rng = make_loss(text), np.random.default_rng(4)
    classes = CLASSES.get(loss.name)
    t = loss.targets(rng.choice(classes or (0.0, 1.0, 3.0), 9), classes)
    z = rng.standard_normal((9, loss.outputs(classes)) if loss.outputs(classes) > 1 else 9)
    alone = loss.values(z, t), loss.derivatives(z, t), loss.second_terms(z, t)
    for order in (0, 1, 2):
        for a, b in zip(loss.value_and_derivatives(z, t, order), alone[: order + 1], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


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
        (
            "logistic",
            [1.0, 2.0, 3.0],
            (1.0, 2.0, 3.0),
            "logistic: expected labels of 2 classes; found 3. Use softmax or squared",
        ),
        ("logistic", [0.5], None, "logistic: expected class labels; found real numbers. Use squared or huber"),
        ("logistic", [0.0, 1.0, 5.0], (0.0, 1.0), "row 2 has 5"),
        ("logistic", [np.nan], (0.0, 1.0), "row 0 has nan"),
        ("softmax", [0.0], (0.0,), "softmax: expected at least 2 classes; found 1. Check the labels"),
        ("softmax:reduced=true", [0.0, 1.0], (0.0, 1.0), "expected at least 3 classes; found 2. Use logistic"),
        ("softmax", [0.0, 4.0], (0.0, 1.0, 2.0), "labels of the classes 0, 1, 2; row 1 has 4"),
        ("softmax", [0.5], None, "expected class labels; found real numbers"),
        ("poisson", [0.0, 2.5, -1.0], None, "poisson: expected labels that are finite and at least 0; row 2 has -1"),
        ("poisson", [np.inf], None, "finite"),
        ("squared", [1.0, np.nan], None, "squared: expected finite labels; row 1 has nan"),
        ("softplus", [np.inf], None, "row 0 has inf"),
    ],
)
def test_labels_that_do_not_fit(text, y, classes, sentence):
    with pytest.raises(DataError, match=sentence):
        make_loss(text).targets(np.array(y), classes)


def test_classes_may_come_in_any_order():
    np.testing.assert_array_equal(make_loss("softmax").targets(np.array([1.0, 9.0, 4.0]), (9.0, 1.0, 4.0)), [1, 0, 2])
    np.testing.assert_array_equal(make_loss("logistic").targets(np.array([1.0, 9.0]), (9.0, 1.0)), [1.0, -1.0])


def test_softmax_has_no_second_derivative_of_one_logit():
    loss = make_loss("softmax")
    model = loss.on_shard(Shard(np.eye(4), np.array(CLASSES["softmax"])), CLASSES["softmax"])
    with pytest.raises(ConfigError, match="softmax has no second derivative with respect to one logit"):
        model.at(np.zeros(16)).second_derivatives()


def test_large_line_searches_are_evaluated_in_blocks(monkeypatch):
    rng = np.random.default_rng(8)
    model = make_loss("logistic").on_shard(Shard(rng.normal(size=(40, 5)), rng.choice((3.0, 7.0), 40)), (3.0, 7.0))
    w, p, steps = rng.normal(size=5), rng.normal(size=5), np.array([0.0, 1.0, -0.25])
    monkeypatch.setattr("mpinewton.losses.formula.RAY_NUMBERS", 100)
    np.testing.assert_allclose(
        model.at(w).along(p).losses(steps), [model.at(w + a * p).value() for a in steps], rtol=1e-13
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
        ("hubr", "no loss is named 'hubr'.*did you mean 'huber'"),
        ("", "no loss is named ''"),
        ("huber:dleta=1", "no setting 'dleta'.*did you mean 'delta'"),
        ("squared:delta=1", "squared has no setting 'delta'"),
        ("huber:delta=wide", "delta = 'wide': expected a number"),
        ("huber:delta=0", "delta = 0.0: expected a value greater than 0"),
        ("huber:delta=nan", "expected a value greater than 0"),
        ("huber:delta", "write huber:key=value"),
        ("softmax:reduced=maybe", "expected true or false"),
    ],
)
def test_make_loss_refuses(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_loss(text)


def test_table_of_losses():
    result = CliRunner().invoke(command)
    assert result.exit_code == 0
    table = {line.split()[0]: line for line in result.output.splitlines()[1:] if line}
    assert set(LOSSES) <= set(table)
    assert table["squared"].split(maxsplit=2) == ["squared", "yes", "(z - y)^2 / 2"]
    assert table["softplus"].split()[1] == "no"
