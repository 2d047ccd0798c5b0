"""The doctor: what it says here, and what it would say where something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import scipy
from click.testing import CliRunner
from launch import launch

from mpinewton import __version__
from mpinewton.cli import doctor
from mpinewton.errors import ConfigError
from mpinewton.fleet.orders import Timing
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.report.network import Network, Tree, fit_network, read_network


def rank(host: str = "a", **other: Any) -> dict[str, Any]:
    facts = {
        "host": host, "mpi": "MPICH 5", "versions": {"numpy": "2.0", "h5py": "3.11"},
        "cores": [0, 1], "blas": ["openblas 0.3"], "threads": 1, "thread_variables": {"OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    return facts | other


class TwoRanks(LocalSession):
    """A session whose second rank lives elsewhere: what it does is given."""

    ranks = 2

    def __init__(self, there: Callable[[Any], Any]) -> None:
        self.there = there

    def each(self, task: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return [self.there(item) for item in items]


def test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS")
    said = doctor.examine(LocalSession(), tmp_path)
    assert f"mpinewton {__version__}, python {sys.version.split()[0]}, numpy {np.__version__}" in said
    assert f"scipy {scipy.__version__}, h5py {h5py.__version__}, hdf5 {h5py.version.hdf5_version}" in said
    assert "MPI       not in use (one process); installed: " in said
    assert "OMP_NUM_THREADS=1  OPENBLAS_NUM_THREADS=7  MKL_NUM_THREADS=unset" in said
    assert "HDF5 file locks work" in said
    assert "try mpinewton doctor --nproc 2" in said
    assert "WARNING" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_many_ranks_time_their_messages_and_calibrate_a_network_that_replay_reads(tmp_path: Path) -> None:
    file = tmp_path / "here.toml"
    finished = launch(3, ["-m", "mpinewton", "doctor", tmp_path, "--network", file])
    assert finished.returncode == 0, str(finished)
    lines = finished.stdout.splitlines()
    assert any(line.startswith("launcher") and "started 3 ranks, MPI sees 3" in line for line in lines)
    assert any(line.startswith("host") and "rank 0-2; " in line for line in lines)
    times = [line.split() for line in lines if line.startswith("messages")][1:]
    assert [" ".join(words[1:3]) for words in times] == ["8 B", "1 kB", "1 MB"]
    assert all(float(words[3]) > 0 for words in times)
    assert times[2].count("MB/s") == 3
    (line,) = (line for line in lines if line.startswith("network"))
    assert str(file) in line
    found = read_network(str(file))
    assert 0 <= found.latency < 1
    assert found.bandwidth > 1e6
    assert Tree(found, 3).down(8) > 0


def test_a_healthy_job_has_no_warnings() -> None:
    assert doctor.warnings([rank(), rank()], 2) == []
    assert doctor.warnings([rank(), rank(), rank("b")], 0) == []


@pytest.mark.parametrize(
    ("ranks", "promised", "words"),
    [
        ([rank()], 4, ["the launcher started 4 ranks, but MPI sees 1"]),
        ([rank(), rank(), rank()], 3, ["a: 3 ranks have 3 threads on 2 cores"]),
        ([rank(threads=8)], 0, ["a: 1 ranks have 8 threads on 2 cores"]),
        # Bound to the same core of two.
        ([rank(cores=[1]), rank(cores=[1])], 2, ["2 threads on 1 cores"]),
        ([rank(), rank("b", mpi="Open MPI v5")], 2, ["the MPI library differs between hosts", "Open MPI v5 on b"]),
        (
            [rank(), rank(), rank("b", versions={"numpy": "2.1", "h5py": "3.11"})],
            3,
            ["numpy differs between hosts: 2.0 on a; 2.1 on b. Install the same on all hosts"],
        ),
        ([rank(), rank("b", versions={"numpy": "2.0"})], 2, ["h5py differs between hosts: 3.11 on a; None on b"]),
    ],
)
def test_warnings(ranks: list[dict[str, Any]], promised: int, words: list[str]) -> None:
    (said,) = doctor.warnings(ranks, promised)
    assert all(word in said for word in words)


def test_hosts() -> None:
    ranks = [rank(), rank(cores=[2]), rank("b", threads=4), rank()]
    assert doctor.about_hosts(ranks) == [
        "a: rank 0, 1, 3; 1 to 2 cores per rank, 3 in total; 1 BLAS threads per rank",
        "b: rank 2; 2 cores per rank, 2 in total; 4 BLAS threads per rank",
    ]


def test_messages() -> None:
    heading, small, large = doctor.about_messages([Timing(1, 1e-6, 2e-6, 4e-6), Timing(131072, 1e-3, 2e-3, 3e-3)])
    assert " ".join(heading.split()) == "broadcast reduce by MPI.SUM sum in fixed order"
    assert small.split() == ["8", "B", "0.001", "ms", "0.002", "ms", "0.004", "ms", "2.0", "x", "MPI.SUM"]
    assert "1.000 ms   1048.6 MB/s" in large
    assert large.endswith("1.5 x MPI.SUM")


def test_a_folder_that_a_rank_does_not_see(tmp_path: Path) -> None:
    said, wrong = doctor.about_folder(TwoRanks(lambda path: False), tmp_path)
    assert wrong == [f"rank 1 cannot access {tmp_path}: keep shards in a folder that all ranks can access"]
    assert said.startswith(f"{tmp_path}: ")
    assert doctor.about_folder(TwoRanks(doctor.sees), tmp_path)[1] == []


def test_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 << 29))
    assert ": 1.5 GiB free" in doctor.about_folder(LocalSession(), tmp_path)[0]


def test_a_folder_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise BlockingIOError("unable to lock file")

    monkeypatch.setattr(h5py, "File", refuse)
    said, (wrong,) = doctor.about_folder(LocalSession(), tmp_path)
    assert "HDF5 file locks fail" in said
    assert "unable to lock file" in wrong


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: cannot be written to"):
        doctor.examine(LocalSession(), tmp_path / "nowhere")


def test_another_host_is_compared(tmp_path: Path) -> None:
    there = doctor.facts() | {"host": "elsewhere", "mpi": "Open MPI v5.0.8", "versions": {"mpinewton": "0.0.1"}}
    said = doctor.examine(TwoRanks(lambda item: there if isinstance(item, int) else True), tmp_path)
    assert f"WARNING   mpinewton differs between hosts: {__version__} on " in said
    assert "0.0.1 on elsewhere" in said


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("MPICH Version: 5.0.2", "not available"),
        ("Open MPI v4.1.6", "not available"),
        ("Open MPI v5.0.8, package", "--with-ft ulfm"),
    ],
)
def test_ulfm(library: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"host": "a", "mpi": library, "mpi4py": "4.1", "cores": 1}
    monkeypatch.setattr(doctor, "introduction", lambda: told)
    (line,) = (line for line in doctor.examine(LocalSession(), tmp_path).splitlines() if line.startswith("ULFM"))
    assert words in line


def test_a_network_is_found_from_what_its_messages_take() -> None:
    true = Network(latency=3e-5, bandwidth=1e10, message=5e-6)
    sizes, ranks = (grid.ravel() for grid in np.meshgrid([8.0, 1024, 1 << 17, 1 << 20], [1.0, 2, 4, 8]))
    seconds = 2 * 3e-5 + (ranks + 1) * (5e-6 + 8 * sizes / 1e10)
    short = [Tree(true, int(k)).exchange(size, size) for k, size in zip(ranks, sizes) if size <= 1024]
    np.testing.assert_allclose(seconds[sizes <= 1024], short, rtol=1e-12)
    found, error = fit_network(sizes, ranks, seconds)
    np.testing.assert_allclose(
        [found.latency, found.bandwidth, found.message], [3e-5, 1e10, 5e-6], rtol=1e-9
    )  # rounding, times the condition of three columns
    assert error < 1e-12
    found, error = fit_network(sizes, ranks, seconds * np.random.default_rng(0).uniform(0.9, 1.1, len(sizes)))
    np.testing.assert_allclose([found.latency, found.bandwidth], [3e-5, 1e10], rtol=0.2)
    assert 0.01 < error < 0.1


def test_a_network_without_visible_bandwidth_has_the_best_rate_that_was_seen() -> None:
    found, _ = fit_network(np.array([8.0, 1e6]), np.array([1.0, 1.0]), np.array([1e-3, 1e-3]))
    assert found.bandwidth == 2 * 8e6 / 1e-3


def test_one_process_has_no_network(tmp_path: Path) -> None:
    done = CliRunner().invoke(doctor.command, [str(tmp_path), "--network", "n.toml"], obj=LocalSession())
    assert isinstance(done.exception, ConfigError)
    assert "start some with --nproc 2" in str(done.exception)
