"""Quantised BFGS against the textbook's BFGS, and what its messages are worth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fleets import on_many

from mpinewton.compress.hessian import decode_hessian, multiply_both_sides, remove_noise
from mpinewton.linalg.lbfgs import bfgs_inverse
from mpinewton.methods.quantised_bfgs import QuantisedBfgs
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import GradientBelow, Iterations
from mpinewton.testing.problems import ZOO

PROBLEM = ZOO["logistic-csr"]


def ran(problem, iterations, **settings):
    method, fleet, states = QuantisedBfgs(**settings), on_many(problem), []
    fleet.adopt(method)
    run(method, fleet, problem.start, [Iterations(iterations)], watchers=[lambda _, state: states.append(state)])
    return states, fleet


def test_in_fine_steps_it_is_the_textbooks_bfgs_from_the_hessian_at_the_start():
    states, _ = ran(PROBLEM, 8, levels=10**9, coarse=1e-9)
    w, (_, g, H) = PROBLEM.start, PROBLEM.objective(PROBLEM.start)
    for state in states:
        np.testing.assert_allclose(state.w, w, atol=1e-7)
        s = np.linalg.solve(H, -g)
        w = w + s
        y, g = PROBLEM.objective(w)[1] - g, PROBLEM.objective(w)[1]
        H = H - np.outer(H @ s, s @ H) / (s @ H @ s) + np.outer(y, y) / (y @ s)


def test_the_inverse_is_updated_as_the_hessian():
    rng = np.random.default_rng(2)
    A = rng.standard_normal((5, 5))
    H, s = A @ A.T + np.eye(5), rng.standard_normal(5)
    y = (H + np.diag(rng.random(5))) @ s
    B = H - np.outer(H @ s, s @ H) / (s @ H @ s) + np.outer(y, y) / (y @ s)
    np.testing.assert_allclose(bfgs_inverse(np.linalg.inv(H), s, y), np.linalg.inv(B), atol=1e-12)
    assert bfgs_inverse(H, s, -y) is H


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 3, 50])
def test_the_coarse_hessian_is_right_in_the_mean(levels):
    fleet, method, total, draws = on_many(PROBLEM), QuantisedBfgs(), 0.0, 1000
    fleet.adopt(method)
    worker = fleet.host.workers[3]
    worker.move_to(PROBLEM.start)
    H, d = worker.point.hessian(), fleet.dim
    size = np.sqrt(np.diagonal(H))
    for worker.iteration in range(draws):
        exponents, data = method.encode_hessian(worker, PROBLEM.start, float(levels))
        total = total + decode_hessian(exponents, data, levels)
    # One entry errs by at most 2 |H_jj H_kk|^1/2 2^2 / levels, half of that in the root mean square.
    error = np.abs(total / draws - H) / np.outer(size, size)
    assert error.max() < 5 * 4 / (2 * levels * np.sqrt(draws))
    assert exponents.nbytes == d


def test_a_gradient_costs_few_bits_whatever_the_accuracy():
    states, fleet = ran(PROBLEM, 25)
    assert np.linalg.norm(PROBLEM.objective(states[-1].w)[1]) < 1e-8
    fleet.ledger.entries()
    fleet.iteration += 1
    fleet.method.step(fleet, states[-1])
    (entry,) = [entry for entry in fleet.ledger.entries() if entry.direction == "up"]
    assert entry.floats == 0
    assert entry.bits <= 16 + 8 * fleet.dim


def test_a_step_too_far_is_not_taken_but_learned_from():
    problem = ZOO["poisson-dense"]
    states, _ = ran(problem, 30)
    short = [(before, after) for before, after in itertools.pairwise(states) if after.step == 0.0]
    assert short, "the start is chosen so that steps overshoot"
    for before, after in short:
        assert np.array_equal(before.w, after.w)
        assert after.g @ after.inverse @ after.g < before.g @ before.inverse @ before.g


def test_noise_does_not_pass_for_small_curvature():
    rng = np.random.default_rng(3)
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    H = (Q * [5, 3, 1, 1e-3, 1e-3, -0.2]) @ Q.T
    size = np.sqrt(np.diagonal(H))
    e = np.linalg.eigvalsh(remove_noise(H) / np.outer(size, size))
    noise = -np.linalg.eigvalsh(H / np.outer(size, size))[0]
    assert e[0] == pytest.approx(noise, rel=1e-9)
    good = (Q * [5, 3, 1, 1, 1, 0.2]) @ Q.T
    np.testing.assert_allclose(remove_noise(good), good, atol=1e-12)


def test_powers_of_two_are_undone_exactly():
    H = np.random.default_rng(4).standard_normal((4, 4))
    e = np.array([3, -7, 0, 60], dtype=np.int8)
    assert np.array_equal(multiply_both_sides(multiply_both_sides(H, e), -e), H)


@pytest.mark.parametrize("far", [1.0, 10.0, 100.0])
def test_arrives_from_afar(far):
    problem, method = ZOO["logistic-dense"], QuantisedBfgs()
    fleet = on_many(problem)
    fleet.adopt(method)
    w = far * np.random.default_rng(5).standard_normal(fleet.dim)
    ended = run(method, fleet, w, [GradientBelow(1e-8), Iterations(500)])
    assert ended.converged, ended.reason
