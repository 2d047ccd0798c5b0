"""What the driver does while ranks do not answer."""

from __future__ import annotations

import logging

import pytest

from mpinewton.errors import Interrupted
from mpinewton.fleet.transport.watch import GRACE, RankLost, Watch
from mpinewton.launcher import PATIENCE, launcher_rank, own_core, promised_ranks
from mpinewton.runs.execute import MARGIN, time_limits

RUNS = [range(2, 3), range(3, 5)]


@pytest.fixture
def watch() -> Watch:
    watch = Watch()
    watch.workers, watch.ranks, watch.hosts = 8, 4, ["a", "b", "c", "d", "d"]
    return watch


def looked(watch: Watch, caplog: pytest.LogCaptureFixture, *seconds: float) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="mpinewton"):
        for now in seconds:
            watch.look(now, lambda: RUNS)
    return caplog.messages


def test_silent_ranks_are_named_after_a_while_and_again_after_twice_the_time(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    assert not looked(watch, caplog, 0.1, 1.0, PATIENCE - 1)
    said = "rank 2 on c (workers 2 to 3), ranks 3 to 4 on d (workers 4 to 7) have not answered for {:.0f} s"
    times = [PATIENCE, PATIENCE + 1, 2 * PATIENCE - 1, 2 * PATIENCE, 3 * PATIENCE]
    assert looked(watch, caplog, *times) == [said.format(PATIENCE), said.format(2 * PATIENCE)]


def test_rounds_that_have_always_taken_long_are_no_news(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watch.answered(100.0)
    assert not looked(watch, caplog, 199.0)
    assert looked(watch, caplog, 200.0)


def test_a_rank_is_lost_after_the_timeout(watch: Watch) -> None:
    watch.timeout = 5.0
    watch.look(4.9, lambda: RUNS[:1])
    with pytest.raises(
        RankLost, match=r"^rank 2 on c \(workers 2 to 3\) has not answered for 5 s \(--rank-timeout 5\)$"
    ):
        watch.look(5.0, lambda: RUNS[:1])
    assert watch.lost


def test_an_interrupted_run_waits_for_answers_for_a_while(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watch.look(3.0, lambda: RUNS)
    watch.pause = lambda: "signal SIGTERM: run the same command again to continue"
    assert not looked(watch, caplog, 3.1, 3.2)  # no word of it where answers come at once
    (said,) = looked(watch, caplog, 3.9, 5.0, 3.0 + GRACE)
    assert said.startswith(f"signal SIGTERM: waiting up to {GRACE:.0f} s for rank 2 on c")
    with pytest.raises(Interrupted, match=r"signal SIGTERM: .* from the last checkpoint; rank 2 on c .* for 13 s"):
        watch.look(3.2 + GRACE, lambda: RUNS)


def test_what_is_not_known_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    assert looked(Watch(), caplog, PATIENCE) == [f"rank 2, ranks 3 to 4 have not answered for {PATIENCE:.0f} s"]


@pytest.mark.parametrize(
    ("variables", "size", "rank"),
    [
        ({}, 0, 0),
        ({"PMI_SIZE": "4", "PMI_RANK": "2"}, 4, 2),
        ({"PALS_RANKID": "1", "PALS_NRANKS": "4"}, 4, 1),
        ({"PALS_RANKID": "0"}, 1, 0),  # a launcher that keeps the size to itself: MPI must be asked
        ({"PMIX_RANK": "3"}, 4, 3),
        ({"FLUX_JOB_SIZE": "8", "FLUX_TASK_RANK": "7"}, 8, 7),
        ({"MPI_LOCALNRANKS": "4"}, 4, 0),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "9"}, 0, 0),  # a job script, where nothing is launched yet
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "9"}, 9, 5),
        ({"PMI_SIZE": "many"}, 0, 0),
    ],
)
def test_what_launchers_say(variables: dict[str, str], size: int, rank: int) -> None:
    assert (promised_ranks(variables), launcher_rank(variables)) == (size, rank)


@pytest.mark.parametrize(
    ("variables", "core"),
    [
        ({"PMI_SIZE": "3", "PMI_RANK": "1", "MPI_LOCALNRANKS": "3"}, 4),
        ({"PMI_SIZE": "3", "PMI_RANK": "2", "MPI_LOCALNRANKS": "3"}, 7),
        # Open MPI numbers the ranks of a host in its own way.
        (
            {
                "OMPI_COMM_WORLD_SIZE": "3",
                "PMIX_RANK": "2",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "3",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            },
            7,
        ),
        ({"PMI_SIZE": "3", "PMI_RANK": "0", "MPI_LOCALNRANKS": "3"}, None),  # the driver
        ({"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2"}, None),  # a core for everybody
        ({"PMI_SIZE": "4", "PMI_RANK": "1", "MPI_LOCALNRANKS": "4"}, None),  # more ranks than that
        ({"PMI_SIZE": "6", "PMI_RANK": "1", "MPI_LOCALNRANKS": "3"}, None),  # several hosts
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3"}, None),  # srun binds what it starts
        ({}, None),
    ],
)
def test_ranks_get_a_core_each_where_just_the_driver_has_none(variables: dict[str, str], core: int | None) -> None:
    assert own_core({7, 4}, variables) == core


def test_time_limits_are_those_of_the_user_and_of_slurm() -> None:
    assert time_limits(None, {}) == time_limits(None, {"SLURM_JOB_END_TIME": "soon"}) == {}
    limits = time_limits(2.0, {"SLURM_JOB_END_TIME": "1800000000"})
    assert list(limits) == ["--max-hours 2", "60 s before SLURM_JOB_END_TIME"]
    assert limits["60 s before SLURM_JOB_END_TIME"] == 1_800_000_000 - MARGIN
