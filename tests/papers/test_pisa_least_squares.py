"""Figures 4a to 4d of the PISA paper, least squares of its A.2: gaps of an independent implementation, at 1 %.

Column l is F(w^l) - F*, w^1 being the start.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mpinewton.data.blocks import Reading
from mpinewton.data.shard import Shard
from mpinewton.data.synthetic import synthetic
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods.pisa import Pisa
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations

# sigma of the start: gaps at 2, 10, 25, 50, 100
SECOND_MOMENT = {
    8: (6.59e-3, 3.21e-4, 3.96e-7, 2.9e-11, 0),
    16: (3.357e-2, 2.652e-3, 4.383e-5, 2.749e-7, 3.460e-10),
    64: (7.730e-2, 3.516e-2, 9.830e-3, 1.896e-3, 2.267e-4),
    128: (8.689e-2, 5.784e-2, 2.966e-2, 1.226e-2, 3.794e-3),
}
HESSIAN = {
    4: (2.354e-2, 2.193e-4, 7.446e-7, 8.0e-11),
    16: (5.134e-2, 2.441e-3, 3.328e-5, 1.903e-7, 2.240e-10),
    64: (7.967e-2, 3.547e-2, 9.849e-3, 1.891e-3),
    128: (8.757e-2, 5.802e-2, 2.973e-2, 1.228e-2, 3.797e-3),
}
COLUMNS = (2, 10, 25, 50, 100)
# gamma: gap at 600, sigma = 16, every = 1
PREMATURE = {0.5: 4.961e-2, 0.6: 3.850e-2, 0.7: 2.632e-2, 0.8: 1.317e-2, 0.9: 1.996e-3}
# gamma: gaps at 10 and 25, sigma = 16, every = k0
SPACED = {0.5: (2.311e-3, 2.06e-5), 0.6: (2.311e-3, 2.06e-5), 0.7: (2.311e-3, 2.06e-5),
          0.8: (2.311e-3, 2.31e-5), 0.9: (2.311e-3, 3.23e-5), 0.99: (2.652e-3, 4.38e-5)}  # fmt: skip


@cache
def fleet_and_optimum() -> tuple[LocalFleet, float]:
    source = synthetic("synthetic:pisa?seed=0", Reading())
    (block,) = source.blocks()
    cuts = np.cumsum(source.sizes)[:-1]
    shards = [Shard(X, y) for X, y in zip(np.split(block.X, cuts), np.split(block.y, cuts))]
    w = np.linalg.lstsq(block.X, block.y)[0]
    return local_fleet(shards, make_loss("squared"), None, 0.0), float(np.mean((block.X @ w - block.y) ** 2) / 2)


def gaps(rounds: int, **settings: object) -> tuple[np.ndarray, str]:
    """F(w^l) - F* for l = 1, 2, ..., and how the run ended."""
    fleet, optimum = fleet_and_optimum()
    for worker in fleet.host.workers:
        worker.memory.clear()
    method, found = Pisa(**settings), []
    fleet.adopt(method)
    watch = [lambda row, _: found.append(row.loss - optimum)]
    ended = run(method, fleet, np.zeros(fleet.dim), [Iterations(rounds - 1)], watchers=watch)
    return np.array(found), ended.kind


def agree(found: np.ndarray, wanted: tuple[float, ...]) -> None:
    for column, gap in zip(COLUMNS, wanted):
        assert found[column - 1] == pytest.approx(gap, rel=0.01, abs=1e-12)  # F* is 1.7, and 2.9e-11 has two digits


def test_the_data_are_those_of_the_reference():
    fleet, optimum = fleet_and_optimum()
    X = np.concatenate([worker.model.rows.X for worker in fleet.host.workers])
    y = np.concatenate([worker.model.t for worker in fleet.host.workers])
    assert np.mean(y**2) / 2 == pytest.approx(1.842107875, rel=1e-9)
    assert optimum == pytest.approx(1.744912515, rel=1e-9)
    largest = [np.linalg.eigvalsh(w.model.rows.X.T @ w.model.rows.X / w.rows)[-1] for w in fleet.host.workers]
    assert max(largest) == pytest.approx(33.526, rel=1e-4)
    assert np.linalg.eigvalsh(X.T @ X / len(X))[[0, -1]] == pytest.approx([2.2316, 5.4825], rel=1e-4)


@pytest.mark.parametrize("sigma", SECOND_MOMENT)
def test_second_moment(sigma):
    wanted = SECOND_MOMENT[sigma]
    found, _ = gaps(COLUMNS[len(wanted) - 1], preconditioner="second-moment", sigma=sigma, rho=1.0)
    agree(found, wanted)
    assert (np.diff(found[:100]) > 1e-15).sum() == (2 if sigma == 8 else 0)


@pytest.mark.parametrize("sigma", HESSIAN)
def test_hessian(sigma):
    wanted = HESSIAN[sigma]
    found, _ = gaps(COLUMNS[len(wanted) - 1], preconditioner="hessian", sigma=sigma, rho=1.0)
    agree(found, wanted)


def test_a_small_sigma_fluctuates_and_recovers():
    """Chaotic from the tenth column on: only the peak and the end are of the method."""
    found, _ = gaps(150, preconditioner="second-moment", sigma=4, rho=1.0)
    assert found[1] == pytest.approx(3.19e-2, rel=0.01)
    assert found.max() > 50 * found[0]
    assert found[-1] < 1e-12
    # The Hessian as Q fluctuates with rho = 0.1, as printed, where the paper's rho is not known, and not with 1.
    found, _ = gaps(101, preconditioner="hessian", sigma=4, rho=0.1, divergence=1e6)
    assert found.max() == pytest.approx(4e4 * found[0], rel=0.3)
    assert (np.diff(found[:100]) > 1e-15).sum() == 36
    assert found[-1] < 1e-12


@pytest.mark.parametrize("gamma", PREMATURE)
def test_gamma_stops_it_too_early(gamma):
    found, kind = gaps(600, preconditioner="second-moment", sigma=16, rho=1.0, gamma=gamma)
    assert found[-1] == pytest.approx(PREMATURE[gamma], rel=0.01)
    assert kind == "stalled"  # and is not taken for convergence


@pytest.mark.parametrize("gamma", SPACED)
def test_k0_makes_gamma_harmless(gamma):
    found, _ = gaps(25, preconditioner="second-moment", sigma=16, rho=1.0, gamma=gamma, every="auto")
    assert found[[9, 24]] == pytest.approx(SPACED[gamma], rel=0.01)


@pytest.mark.parametrize(("rho", "gap"), [(0.5, 1.7e-9), (1.0, 7.4e-7), (2.0, 3.2e-5), (10.0, 3.0e-3)])
def test_rho_with_the_hessian(rho, gap):
    found, _ = gaps(25, preconditioner="hessian", sigma=4, rho=rho)
    assert found[-1] == pytest.approx(gap, rel=0.03)  # printed to two digits


def test_the_identity_diverges_at_once_and_says_what_to_do():
    found, kind = gaps(100, preconditioner="identity", sigma=1, rho=1.0, gamma=1.0)
    assert kind == "diverged"
    assert len(found) < 40
