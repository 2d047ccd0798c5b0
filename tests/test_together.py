"""What every rank brings, rows or a function, against one process and against scipy; and the examples.

All of it runs in one job on 3 ranks and in one process: see `together`.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import together
from launch import launch, launch_serial
from scipy.special import expit

import mpinewton as mn
from mpinewton.data.shard import Shard

pytestmark = pytest.mark.slow

both = pytest.mark.parametrize("ranks", [1, 3])


class Outcome:
    """What the programs of a job printed on each rank."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.folder, self.ranks = folder, ranks
        command = ["-W", "error", together.__file__, folder]
        self.job = launch(ranks, command, timeout=120) if ranks > 1 else launch_serial(command)

    def of(self, program: str) -> list[str]:
        """The lines of a program on each rank; AssertionError if it failed on one, with what every rank printed."""
        files = [self.folder / f"{program}-{rank}" for rank in range(self.ranks)]
        texts = [file.read_text() if file.exists() else "not started" for file in files]
        assert all(text.endswith("done\n") for text in texts), "\n".join([*texts, str(self.job)])
        return [text.removesuffix("done\n") for text in texts]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    made = {}

    def started(ranks: int) -> Outcome:
        if ranks not in made:
            made[ranks] = Outcome(tmp_path_factory.mktemp("job"), ranks)
        return made[ranks]

    return started


@both
def test_a_sum_of_functions_has_the_minimiser_of_the_summed_function(job, ranks: int) -> None:
    assert len(set(job(ranks).of("sum_of_functions"))) == 1


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
def test_functions_of_torch(job) -> None:
    A, b = map(np.concatenate, zip(*together.squares(3)))
    (printed,) = set(job(3).of("torch_function"))
    x = np.frombuffer(bytes.fromhex(printed))
    gradient = A.T @ np.tanh(A @ x - b)  # of the sum of log cosh over all rows
    assert abs(gradient).max() < 1e-8


@both
def test_rows_of_ranks_have_the_bits_of_the_same_shards_in_one_process(job, ranks: int) -> None:
    shards = [Shard(X, (y == "yes") * 1.0) for X, y in together.rows(ranks)]
    alone = together.told(mn.minimize("dino", shards, loss="logistic", intercept=True))
    assert job(ranks).of("rows_of_ranks") == [alone + "\n"] * ranks


def test_what_goes_wrong_on_one_rank_is_an_error_on_all_and_the_communicator_stays_usable(job) -> None:
    ((tried, bits),) = {tuple(printed.split()) for printed in job(3).of("errors")}
    assert tried == "13"
    X = np.vstack([A for A, _ in together.squares(3)])[2::3]  # the rows of the one rank that brings some
    w = np.frombuffer(bytes.fromhex(bits))
    gradient = X.T @ (expit(X @ w) - np.arange(10) % 2) + w  # of the sum over 10 rows, l2 = 1/10
    assert abs(gradient).max() < 1e-3


SAYS = {
    "own_method": r"barzilai-borwein: \d+ iterations, estimated gap \S+ is at most",
    "own_loss": r"newton: \d+ iterations, objective 1\.2247094694",
    "own_objective": r"largest error \d\.\de-(09|1\d)",
    "rank_local_rows": r"\d+ rounds, \d+ bits up",
}


@pytest.mark.parametrize("name", SAYS)
@both
def test_examples_run_alone_and_under_mpiexec(job, ranks: int, name: str) -> None:
    assert set(together.EXAMPLES) == set(SAYS)
    printed = job(ranks).of(name)
    assert re.search(SAYS[name], printed[0]), printed


def test_the_page_quotes_the_examples() -> None:
    examples = Path(__file__).parents[1] / "examples"
    page = (examples.parent / "docs" / "extending.md").read_text()
    for path in examples.glob("*.py"):
        code = path.read_text().split('"""', 2)[2].split("\n\n\nif __name__")[0].strip()
        assert f"```python\n{code}\n```" in page, path.name
    assert f"```toml\n{(examples / 'own_method.toml').read_text()}```" in page
