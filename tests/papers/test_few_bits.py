"""quantised-bfgs on data it was tuned on (a9a) and not: a gap of 1e-12 with few bits, rows staying where they are."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_svmlight_file

from mpinewton.data.shard import Shard
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods import METHODS
from mpinewton.runs.loop import Evaluation, run
from mpinewton.runs.stopping import GapBelow, GradientBelow, Iterations

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets beside the checkout"),
]


def fleet_of(name: str, workers: int, rows: int, by_label: bool, l2: float) -> LocalFleet:
    """The first rows of a file in equal blocks, in the order of the file or of the labels."""
    text = io.BytesIO(lzma.decompress((SHARED / f"{name}.xz").read_bytes()))
    X, y = load_svmlight_file(text)
    order = np.argsort(y[:rows], kind="stable") if by_label else np.arange(rows)
    shards = [Shard(sparse.csr_array(X[block]), y[block]) for block in np.split(order, workers)]
    return local_fleet(shards, make_loss("logistic"), (-1.0, 1.0), l2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "workers", "rows", "l2", "bits", "by_label"),
    [
        ("a9a", 80, 32560, 1e-3, 30_000, True),
        ("ijcnn1", 100, 49900, 1e-3, 5_000, True),
        ("splice", 10, 1000, 1e-3, 30_000, False),
        ("splice", 10, 1000, 1e-3, 30_000, True),
        ("german.numer", 10, 1000, 1e-4, 10_000, False),
        ("german.numer", 10, 1000, 1e-4, 10_000, True),
    ],
)
def test_arrives_within_the_budget(name, workers, rows, l2, bits, by_label):
    fleet = fleet_of(name, workers, rows, by_label, l2)
    newton, method = METHODS["newton"](), METHODS["quantised-bfgs"]()
    fleet.adopt(newton)
    optimum = run(newton, fleet, np.zeros(fleet.dim), [GradientBelow(1e-12), Iterations(40)]).row.loss
    fleet = fleet_of(name, workers, rows, by_label, l2)
    fleet.adopt(method)
    stops = [GapBelow(1e-12), Iterations(150)]
    ended = run(method, fleet, np.zeros(fleet.dim), stops, evaluation=Evaluation(optimum=optimum))
    assert ended.converged, ended.reason
    assert ended.row.bits_up <= bits
    assert ended.row.floats_up == 0
