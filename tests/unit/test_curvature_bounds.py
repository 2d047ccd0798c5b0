"""gamma and nu: bounds of the second and third derivative that are kept, and not far too large."""

from __future__ import annotations

import numpy as np
import pytest

from mpinewton.errors import ConfigError
from mpinewton.losses import LOSSES, make_loss
from mpinewton.losses.linear import LinearLoss

Z = np.linspace(-60, 60, 240_001)[:, None]
LABELS = {"logistic": [-1.0, 1.0], "squared": [0.3], "huber": [0.3], "softplus": [-7.0, 0.0, 0.4, 2.0, 30.0]}


@pytest.mark.parametrize("name", LABELS)
def test_gamma_bounds_the_second_derivative(name):
    loss, t = make_loss(name), np.array(LABELS[name])
    largest = np.abs(loss.second_derivatives(Z, t)).max(axis=0)
    assert loss.hessian_bound(t).shape == t.shape
    assert (largest <= loss.hessian_bound(t)).all()
    # Of softplus the bounds of two terms are added; alone they are met.
    assert (largest >= loss.hessian_bound(t) * (1 - 1e-4 if name != "softplus" else 0.4)).all()


@pytest.mark.parametrize("name", ["logistic", "squared", "softplus"])
def test_nu_bounds_its_change(name):
    loss, t = make_loss(name), np.array(LABELS[name])
    steepest = (np.abs(np.diff(loss.second_derivatives(Z, t), axis=0)) / np.diff(Z, axis=0)).max(axis=0)
    assert loss.hessian_lipschitz(t).shape == t.shape
    assert (steepest <= loss.hessian_lipschitz(t) + 1e-9).all()
    assert (steepest >= loss.hessian_lipschitz(t) * (1 - 1e-4 if name != "softplus" else 0.4) - 1e-9).all()


def test_the_bounds_of_plain_softplus_are_met():
    loss, zero = make_loss("softplus"), np.zeros(1)
    bend = loss.second_derivatives(Z, zero)
    assert np.abs(bend).max() == pytest.approx(loss.hessian_bound(zero)[0], rel=1e-4)
    assert np.abs(np.diff(bend, axis=0) / np.diff(Z, axis=0)).max() == pytest.approx(
        loss.hessian_lipschitz(zero)[0], rel=1e-3
    )


@pytest.mark.parametrize("name", [name for name, kind in LOSSES.items() if issubclass(kind, LinearLoss)])
def test_a_loss_has_what_it_says_it_provides(name):
    loss, t = make_loss(name), np.ones(2)
    for method, what in ((loss.gamma, "hessian_bound"), (loss.nu, "hessian_lipschitz")):
        if what in loss.provides:
            assert np.isfinite(method(t)).all()
        else:
            with pytest.raises(ConfigError, match=f"{name} has no bound; logistic"):
                method(t)
