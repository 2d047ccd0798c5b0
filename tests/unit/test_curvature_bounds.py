"""hessian_bound and hessian_lipschitz: they hold on a wide grid, and are not far too large."""

from __future__ import annotations

import numpy as np
import pytest

from mpinewton.errors import ConfigError
from mpinewton.losses import LOSSES, make_loss
from mpinewton.losses.linear import LinearLoss

Z = np.linspace(-60, 60, 240_001)[:, None]
LABELS = {"logistic": [-1.0, 1.0], "squared": [0.3], "huber": [0.3], "softplus": [-7.0, 0.0, 0.4, 2.0, 30.0]}


@pytest.mark.parametrize("name", LABELS)
def test_hessian_bound_is_close(name):
    loss, t = make_loss(name), np.array(LABELS[name])
    largest = np.abs(loss.second_derivatives(Z, t)).max(axis=0)
    assert loss.hessian_bound(t).shape == t.shape
    assert (largest <= loss.hessian_bound(t)).all()
    # Of softplus the bounds of two terms are added; alone they are met.
    assert (largest >= loss.hessian_bound(t) * (1 - 1e-4 if name != "softplus" else 0.4)).all()


@pytest.mark.parametrize("name", ["logistic", "squared", "softplus"])
def test_hessian_lipschitz_is_close(name):
    loss, t = make_loss(name), np.array(LABELS[name])
    steepest = (np.abs(np.diff(loss.second_derivatives(Z, t), axis=0)) / np.diff(Z, axis=0)).max(axis=0)
    assert loss.hessian_lipschitz(t).shape == t.shape
    assert (steepest <= loss.hessian_lipschitz(t) + 1e-9).all()
    assert (steepest >= loss.hessian_lipschitz(t) * (1 - 1e-4 if name != "softplus" else 0.4) - 1e-9).all()


def test_the_bounds_of_plain_softplus_are_met():
    loss, zero = make_loss("softplus"), np.zeros(1)
    second = loss.second_derivatives(Z, zero)
    assert np.abs(second).max() == pytest.approx(loss.hessian_bound(zero)[0], rel=1e-4)
    assert np.abs(np.diff(second, axis=0) / np.diff(Z, axis=0)).max() == pytest.approx(
        loss.hessian_lipschitz(zero)[0], rel=1e-3
    )


@pytest.mark.parametrize("name", [name for name, kind in LOSSES.items() if issubclass(kind, LinearLoss)])
def test_a_loss_provides_the_bounds_it_defines(name):
    loss, t = make_loss(name), np.ones(2)
    for method in ("hessian_bound", "hessian_lipschitz"):
        if method in loss.provides:
            assert np.isfinite(getattr(loss, method)(t)).all()
        else:
            with pytest.raises(
                ConfigError, match=f"{name} has no bound of its .* derivative: it does not define {method}"
            ):
                getattr(loss, method)(t)


def test_every_loss_with_a_bound_is_here():
    assert set(LABELS) == {name for name, kind in LOSSES.items() if "hessian_bound" in kind.provides}
