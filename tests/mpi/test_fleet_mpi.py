"""The fleet behind MPI against the fleet in one process: the same bits, the same ledger, the same errors.

The driver runs the test; the other ranks serve it, and find the tasks below by name, as they find a method's.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from mpi4py import MPI

from mpinewton.arrays import Array
from mpinewton.data.manifest import read_manifest
from mpinewton.data.pack import pack
from mpinewton.errors import ConfigError, DataError, MpinewtonError, WorkerError
from mpinewton.fleet import Entry, Fleet, Plan, Worker
from mpinewton.fleet.transport import session, world
from mpinewton.fleet.transport.driver import MpiSession
from mpinewton.fleet.transport.memory import LONGEST
from mpinewton.fleet.transport.mpi import DRIVER, FAN, FRAME, PIECE, Link
from mpinewton.fleet.transport.server import serve
from mpinewton.fleet.transport.session import LocalSession, join
from mpinewton.launcher import END_VARIABLE

WORLD = MPI.COMM_WORLD
two_ranks = pytest.mark.mpi(min_size=2)
pytestmark = pytest.mark.mpi


def only_on(ranks: int) -> Callable[[Any], Any]:
    """For a test of what does not depend on how the workers lie on the ranks: one number of ranks is enough."""
    more = pytest.mark.skipif(WORLD.size > ranks, reason=f"tested on {ranks} ranks")
    return lambda test: pytest.mark.mpi(min_size=ranks)(more(test))


SIZES = (9, 4, 0, 11, 6, 0, 3)  # rows of seven workers
FEATURES = 5
LAST = len(SIZES) - 1
KINDS = ("mean", "sum", "gather", "send")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One folder for all ranks; pytest would make one a rank, and they clean up under one another's feet."""
    name = np.zeros(256, dtype=np.uint8)
    if WORLD.rank == DRIVER:
        made = tempfile.mkdtemp().encode()
        name[: len(made)] = np.frombuffer(made, dtype=np.uint8)
    WORLD.Bcast(name, DRIVER)
    path = Path(name.tobytes().rstrip(b"\0").decode())
    yield path
    if WORLD.rank == DRIVER:
        shutil.rmtree(path)


def packed(folder: Path, sizes: Sequence[int] = SIZES) -> Plan:
    """The same shards on all ranks; written by the driver, which is ahead of the others."""
    if WORLD.rank == DRIVER:
        rng = np.random.default_rng(1)
        n = sum(sizes)
        X, y = rng.standard_normal((n, FEATURES)), rng.choice([-1.0, 1.0], n)
        np.savez(folder / "rows.npz", X=X, y=y, weight=rng.uniform(0.5, 2.0, n))
        rule = "blocks:" + ",".join(map(str, sizes))
        pack(str(folder / "rows.npz"), folder / "shards", len(sizes), partition=rule)
    WORLD.Barrier()
    return Plan(str(folder / "shards"), read_manifest(folder / "shards"), "logistic", 0.01, seed=7, intercept=True)


def drive(
    test: Callable[[MpiSession], None],
    piece: int = PIECE,
    comm: MPI.Intracomm = WORLD,
    fan: int = FAN,
    memory: bool = True,
) -> None:
    """Run a test on the driver while the others serve it; where it fails in mid-call the lock step ends the job."""
    link = Link(comm, piece, fan=fan, memory=memory)
    if link.rank != DRIVER:
        assert serve(link) == 0
        return
    session = MpiSession(link)
    try:
        test(session)
    finally:
        if not link.busy:
            session.stop(0)
    assert not link.busy


# -- tasks and a method ---------------------------------------------------------------------------------------------


def start(worker: Worker, w: Array) -> tuple[float, Array, Array]:
    worker.move_to(w)
    return worker.value(), worker.gradient(), worker.hessian()


def aim(worker: Worker, p: Array) -> Array:
    worker.set_direction(p)
    return worker.losses(0.5 ** np.arange(4.0))


def advance(worker: Worker, step: float) -> Array:
    worker.advance(step)
    worker.memory["walked"] = worker.memory.get("walked", 0.0) + np.full((2, 2), step)
    return worker.gradient()


def noise(worker: Worker, numbers: int) -> Array:
    """Far from one another, so that another order of the additions shows."""
    return worker.rng(3).standard_normal(numbers) * 10.0 ** worker.rng(4).integers(-9, 9, numbers)


def own_size(worker: Worker) -> tuple[Array, np.ndarray, float]:
    return worker.rng(1).random((worker.index, 2)), np.arange(worker.index + 1, dtype=np.int32), 0.5


def echo(worker: Worker, *arrays: Any) -> tuple[Any, ...]:
    return arrays


def growing(worker: Worker) -> Array:
    """Another layout from one call to the next."""
    return np.full((worker.iteration, 2), float(worker.index))


def turned(worker: Worker) -> Any:
    """As many numbers as ever, in another form."""
    a = np.arange(6.0) + worker.index
    forms = [lambda: a.reshape(2, 3), lambda: a.reshape(3, 2), lambda: (a[:1], a[1:]), lambda: (a,), lambda: a]
    return forms[worker.iteration]()


def nothing(worker: Worker, *arrays: Any) -> None:
    pass


def nan_without_rows(worker: Worker) -> Array:
    return np.array([-0.0 if worker.rows else np.nan])


def fail(worker: Worker, first: int, last: int) -> float:
    """Fails on the workers from the first to the last."""
    if first <= worker.index <= last:
        raise ZeroDivisionError(f"planted on {worker.index}")
    return np.inf


def uneven(worker: Worker, odd: int) -> Array:
    return np.ones(2 + (worker.index == odd))


def write(worker: Worker, a: Array) -> None:
    a[0] = 1.0


@dataclass(frozen=True)
class Part:
    shift: float = 0.25

    def shifted(self, worker: Worker, x: float) -> float:
        return x + self.shift


@dataclass(frozen=True)
class Tasks:
    factor: float
    part: Part = Part(0.5)

    def scaled(self, worker: Worker, x: Array) -> Array:
        return self.factor * x * worker.index


@dataclass(frozen=True)
class Refused:
    factor: float

    def __post_init__(self) -> None:
        if WORLD.rank == WORLD.size - 1 and WORLD.rank != DRIVER:
            raise ConfigError("not on the last rank")


def item(number: int) -> list[int]:
    if number < 0:
        raise DataError(f"item {number}")
    return [number, number**2]


def broken(number: int) -> int:
    return 1 // 0


def script(fleet: Fleet) -> list[Any]:
    """Every kind of call there is; everything that came back."""
    d, got = fleet.dim, []
    w, p = np.linspace(-1, 1, d), np.linspace(2, -1, d)
    method = Tasks(1.5)
    fleet.adopt(method)
    w.setflags(write=False)
    for _ in range(2):
        fleet.iteration += 1
        got += [fleet.mean(start, w), fleet.mean(aim, p), fleet.mean(advance, 0.25), fleet.gather(place)]
        got += [fleet.sum(noise, 50), fleet.mean(noise, 50), fleet.sum(noise, 1), fleet.sum(noise, 0)]
        got += [fleet.gather(own_size), fleet.gather(own_size, among=[0, LAST, 3]), fleet.gather(own_size, among=[0])]
        for some in ([1], [LAST], [0, 2, 4], range(3, 7)):
            got += [
                fleet.mean(noise, 9, among=some),
                fleet.sum(noise, 9, among=some),
                fleet.gather(noise, 2, among=some),
            ]
            fleet.send(start, w, among=some)
        got += [fleet.mean(nan_without_rows), fleet.mean(nan_without_rows, among=[2, 5])]
        sent = (np.float32(0.1), np.arange(5, dtype=np.int8), np.zeros((0, 3)), True, np.arange(6.0).reshape(2, 3).T)
        got += [fleet.gather(echo, *sent), fleet.gather(echo), fleet.sum(echo, *sent), fleet.send(nothing, *sent)]
        got += [fleet.mean(method.scaled, p), fleet.mean(method.part.shifted, 1.0), fleet.send(nothing)]
    return got


def place(worker: Worker) -> Array:
    return worker.w


def bits(got: Any) -> Any:
    """Something comparable that knows the type and every bit."""
    if isinstance(got, list | tuple):
        return type(got).__name__, [bits(part) for part in got]
    if isinstance(got, np.ndarray):
        return got.dtype.str, got.shape, got.tobytes()
    return type(got).__name__, repr(got)


def content(entry: Entry) -> Entry:
    """What does not depend on layout and time."""
    return entry._replace(wire=0, control=0, seconds=0.0, compute=0.0)


def counts(fleet: Fleet) -> Any:
    """The ledger without what depends on layout and time; takes the entries."""
    state = fleet.ledger.state()
    columns = {name: state[name].tolist() for name in fleet.ledger.COUNTS}
    return fleet.ledger.rounds, columns, [content(entry) for entry in fleet.ledger.entries()]


# -- the same bits, the same ledger ---------------------------------------------------------------------------------


@two_ranks
@pytest.mark.parametrize("sizes", [SIZES, (5, 0), (4,), (3, 0, 0, 0, 2, 1, 1, 1, 1, 0, 0, 5)], ids=len)
def test_every_kind_of_call_has_the_bits_and_the_ledger_of_one_process(folder: Path, sizes: tuple[int, ...]) -> None:
    plan = packed(folder, sizes)
    calls = script if sizes == SIZES else short

    def test(session: MpiSession) -> None:
        fleet, local = session.open(plan), LocalSession().open(plan)
        assert bits(calls(fleet)) == bits(calls(local))
        assert counts(fleet) == counts(local)

    drive(test)


def short(fleet: Fleet) -> list[Any]:
    """For any number of workers."""
    w = np.linspace(-1, 1, fleet.dim)
    some = range(0, fleet.n_workers, 2)
    got = [fleet.mean(start, w), fleet.mean(aim, w), fleet.mean(advance, 0.5), fleet.gather(own_size)]
    return [*got, fleet.sum(noise, 20), fleet.sum(noise, 20, among=some), fleet.mean(nan_without_rows)]


@only_on(5)
@pytest.mark.parametrize("memory", ["of every rank", "of no rank", "of ranks 0 and 1", "of all but rank 1"])
@pytest.mark.parametrize("fan", [1, 2, FAN])
def test_messages_cut_in_pieces_and_passed_on_have_the_same_bits(folder: Path, fan: int, memory: str) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleet, local = session.open(plan), LocalSession().open(plan)
        assert bits(script(fleet)) == bits(script(local))
        for numbers in (500, 2046, 3000):  # 3000 numbers are 24 kB
            sent = np.linspace(0, 1, numbers)
            for call in ("mean", "sum", "gather"):
                for one, other in ((noise, numbers), (echo, sent)):
                    assert bits(getattr(fleet, call)(one, other)) == bits(getattr(local, call)(one, other))
        assert counts(fleet) == counts(local)

    shares = {"of every rank": True, "of no rank": False, "of ranks 0 and 1": WORLD.rank < 2}
    drive(test, piece=4096, fan=fan, memory=shares.get(memory, WORLD.rank != 1))


@only_on(3)
@pytest.mark.parametrize("fan", [1, FAN])
def test_vectors_that_just_fit_into_memory_or_do_not_have_the_same_bits(folder: Path, fan: int) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        assert session.link.one_host
        fleet, local = session.open(plan), LocalSession().open(plan)
        for numbers in (LONGEST // 8, LONGEST // 8 + 1, 3000, LONGEST // 8):
            sent = np.linspace(0, 1, numbers)
            for one, other in ((noise, numbers), (echo, sent)):
                assert bits(fleet.mean(one, other)) == bits(local.mean(one, other))
        assert counts(fleet) == counts(local)

    drive(test, fan=fan)


@only_on(3)
def test_payloads_around_the_frame_arrive(folder: Path) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleet = session.open(plan)
        for size in (*range(FRAME - 400, FRAME + 40, 7), 10 * FRAME, 1 << 20):
            sent = np.arange(size, dtype=np.uint8)
            sent.setflags(write=False)
            assert all(reply[0].tobytes() == sent.tobytes() for reply in fleet.gather(echo, sent, among=[0, LAST]))
        # An order that is itself longer than the frame.
        many = [np.full((1, 1, 1), k) for k in range(200)]
        assert [int(a.item()) for a in fleet.gather(echo, *many)[LAST]] == list(range(200))

    drive(test)


@only_on(3)
def test_replies_may_change_their_layout_from_call_to_call(folder: Path) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleet, local = session.open(plan), LocalSession().open(plan)
        for task, iterations in ((growing, (1, 2, 2, 0, 40, 1)), (turned, (0, 1, 1, 2, 3, 4, 0))):
            for number, kind in itertools.product(iterations, ("sum", "gather", "mean")):
                fleet.iteration = local.iteration = number
                assert bits(getattr(fleet, kind)(task)) == bits(getattr(local, kind)(task))
                assert bits(fleet.sum(task, among=[LAST])) == bits(local.sum(task, among=[LAST]))
        assert counts(fleet) == counts(local)

    drive(test)


@only_on(5)
def test_sums_by_mpi_agree_to_rounding(folder: Path) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleet, local = session.open(by_mpi(plan)), LocalSession().open(plan)
        w = np.linspace(-1, 1, fleet.dim)
        for mine, truth in zip(fleet.mean(start, w), local.mean(start, w)):
            np.testing.assert_allclose(mine, truth, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(fleet.mean(aim, w), local.mean(aim, w), rtol=1e-13)
        assert fleet.sum(growing).shape == local.sum(growing).shape == (0, 2)
        with pytest.raises(WorkerError):
            fleet.sum(fail, 1, 2)
        assert counts(fleet) == counts(local)

    drive(test)


def by_mpi(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, sums="mpi")


@only_on(3)
def test_what_goes_over_the_wire_is_the_content_and_the_control(folder: Path) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleet = session.open(plan)
        fleet.mean(aimless, np.zeros(1000))
        fleet.gather(own_size)
        down, up, gathered = fleet.ledger.entries()
        assert down.wire - down.control == 8000 and up.wire - up.control == 80
        assert gathered.wire - gathered.control == gathered.bits_total // 8
        assert 0 < down.control < 4 * FRAME and up.control > 0
        assert fleet.ledger.wire - fleet.ledger.control == 8080 + gathered.bits_total // 8

    drive(test)


def aimless(worker: Worker, w: Array) -> Array:
    return w[:10]


@only_on(3)
def test_workers_are_restored_bit_by_bit(folder: Path) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleet, local = session.open(plan), LocalSession().open(plan)
        w = np.linspace(-1, 1, fleet.dim)
        assert fleet.save(w) == local.save(w) == [{}] * len(SIZES)  # nobody stands anywhere
        fleet.mean(start, w)
        walked(fleet, 3)
        there = fleet.gather(place)[0]
        taken = {"there": fleet.save(there), "elsewhere": fleet.save(w)}
        assert ["w" in states[LAST] for states in taken.values()] == [False, True]
        rounds = fleet.ledger.rounds
        truth = walked(fleet, 60)  # past a refresh
        assert fleet.ledger.rounds == rounds + 240  # saving is not part of the run, nor is restoring
        for (where, states), again in itertools.product(taken.items(), (local, fleet)):
            again.restore(states, there if where == "there" else w)
            assert bits(walked(again, 60)) == bits(truth)

    drive(test)


@only_on(3)
def test_what_workers_cannot_restore_is_an_error_and_the_fleet_stays_usable(folder: Path) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleet = session.open(plan)
        w = np.linspace(-1, 1, fleet.dim)
        fleet.mean(start, w)
        walked(fleet, 3)
        good = fleet.save(w)
        truth = walked(fleet, 5)
        with pytest.raises(ValueError, match="rank 1 cannot restore its workers:"):
            fleet.restore([{**good[0], "steps": np.zeros(3)}, *good[1:]], w)
        fleet.restore(good, w)
        assert bits(walked(fleet, 5)) == bits(truth)

    drive(test)


def walked(fleet: Fleet, steps: int) -> list[Any]:
    got = []
    for _ in range(steps):
        fleet.mean(aim, np.ones(fleet.dim))
        got.append(fleet.mean(advance, 0.01))
    return got


# -- failures -------------------------------------------------------------------------------------------------------


@two_ranks
@pytest.mark.parametrize("sums, fan", [("by-tree", FAN), ("by-tree", 1), ("by-mpi", FAN)])
def test_a_failing_task_is_named_and_the_next_call_works(folder: Path, sums: str, fan: int) -> None:
    plan = packed(folder)
    plan = plan if sums == "by-tree" else by_mpi(plan)

    def test(session: MpiSession) -> None:
        fleet = session.open(plan)
        hosts = fleet.gather(rank)
        truth = fleet.sum(index)
        for kind, known, last in itertools.product(KINDS, (False, True), (None, LAST)):
            if known:  # the driver knows the layout of the replies from a call that went well
                getattr(fleet, kind)(fail, LAST + 1, LAST + 1)
            for worker in range(len(SIZES)):
                with pytest.raises(WorkerError) as caught:
                    getattr(fleet, kind)(fail, worker, worker if last is None else last)
                error = caught.value
                assert (error.worker, error.rank) == (worker, hosts[worker])
                assert error.task == f"{__name__}:fail"
                assert f"ZeroDivisionError: planted on {worker}" in error.trace and "in fail" in error.trace
                assert fleet.sum(index) == truth == 21

    drive(test, fan=fan)


@pytest.mark.mpi(min_size=4)
def test_a_rank_that_fails_between_others_leaves_their_sums_in_shape(folder: Path) -> None:
    plan = packed(folder, (2, 3, 1, 4, 2, 3))
    # Six workers on three ranks: were the middle one to leave a gap, the others' lists would not fit into a message.
    comm = WORLD.Split(WORLD.rank >= 4, WORLD.rank)

    def test(session: MpiSession) -> None:
        fleet = session.open(plan)
        fleet.send(fail, 9, 9)
        for first, last in itertools.combinations(range(6), 2):
            with pytest.raises(WorkerError, match=f"planted on {first}"):
                fleet.send(fail, first, last)  # no numbers: the shortest messages
            assert fleet.sum(index) == 15

    if WORLD.rank < 4:
        drive(test, comm=comm)


def rank(worker: Worker) -> int:
    return WORLD.rank


def index(worker: Worker) -> int:
    return worker.index


@only_on(3)
def test_only_those_asked_can_fail(folder: Path) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleet = session.open(plan)
        assert fleet.gather(fail, 2, LAST, among=[0, 1]) == [np.inf, np.inf]
        with pytest.raises(WorkerError) as caught:
            fleet.mean(fail, 2, LAST, among=[0, LAST])
        assert caught.value.worker == LAST

    drive(test)


@only_on(5)
@pytest.mark.parametrize("fan", [1, 2])
def test_ranks_without_replies_pass_on_those_of_others(folder: Path, fan: int) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        for worker in range(len(SIZES)):
            fleet, local = session.open(plan), LocalSession().open(plan)  # which know no layout yet
            for _ in range(2):
                assert bits(fleet.sum(noise, 20, among=[worker])) == bits(local.sum(noise, 20, among=[worker]))

    drive(test, fan=fan)


@only_on(3)
@pytest.mark.parametrize("fan", [1, FAN])
def test_replies_that_cannot_be_added_up_are_refused_as_in_one_process(folder: Path, fan: int) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleets = session.open(plan), LocalSession().open(plan)
        for known, odd in itertools.product((False, True), range(1, len(SIZES))):
            errors = []
            for fleet in fleets:
                if known:
                    fleet.sum(uneven, LAST + 1)
                with pytest.raises(WorkerError) as caught:
                    fleet.sum(uneven, odd)
                errors.append((caught.value.worker, caught.value.trace))
                assert fleet.sum(index) == 21
            assert errors[0] == errors[1] and errors[0][0] == odd

    drive(test, fan=fan)


@only_on(3)
def test_what_a_task_is_given_cannot_be_written_to(folder: Path) -> None:
    plan = packed(folder)

    def test(session: MpiSession) -> None:
        fleet = session.open(plan)
        for size in (1, 10 * FRAME):
            with pytest.raises(WorkerError, match="read-only"):
                fleet.send(write, np.zeros(size))

    drive(test)


@two_ranks
def test_a_method_that_cannot_be_built_on_a_rank_is_said_and_the_fleet_goes_on(folder: Path) -> None:
    plan = packed(folder)

    @dataclass(frozen=True)
    class Local:
        pass

    def test(session: MpiSession) -> None:
        fleet = session.open(plan)
        with pytest.raises(ConfigError, match=r"^not on the last rank$"):
            fleet.adopt(Refused(1.0))
        with pytest.raises(ConfigError, match="define it at the top level of its module"):
            fleet.adopt(Local())
        method = Tasks(2.0)
        fleet.adopt(method)
        assert fleet.sum(method.scaled, np.ones(2)).tolist() == [42.0, 42.0]

    drive(test)


@only_on(3)
@pytest.mark.parametrize("worker", [0, 3, LAST])
@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_bad_shard_on_any_rank_is_the_drivers_error(folder: Path, worker: int, damage: str) -> None:
    plan = packed(folder)
    name = plan.manifest.shards[worker].file
    if WORLD.rank == DRIVER:
        path = Path(plan.folder) / name
        if damage == "gone":
            path.unlink()
        else:
            other = Path(plan.folder) / plan.manifest.shards[1].file
            path.write_bytes(other.read_bytes())  # a sound shard, but not this worker's
    WORLD.Barrier()

    def test(session: MpiSession) -> None:
        with pytest.raises(DataError, match=name):
            session.open(plan)
        assert session.each(item, [2]) == [[2, 4]]  # the ranks are well

    drive(test)


@only_on(1)
@pytest.mark.parametrize("code", [MPI.ERR_OTHER, MPI.ERR_IN_STATUS])
def test_a_rank_whose_partner_died_ends_with_a_sentence(code: int, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(world, "quit_job", lambda code: None)
    world.abort(MPI.Exception(code), "serving the driver")
    said = capsys.readouterr().err
    assert "has lost the connection to another rank (" in said and "Traceback" not in said


@only_on(1)
@pytest.mark.parametrize(("code", "word"), [(MPI.ERR_IN_STATUS, "1 lost"), (MPI.ERR_TRUNCATE, "1")])
def test_a_driver_that_lost_a_rank_has_the_job_started_again(
    code: int, word: str, folder: Path, monkeypatch: Any
) -> None:
    def drive(session: Any) -> int:
        raise MPI.Exception(code)

    monkeypatch.setenv(END_VARIABLE, str(folder / "end"))
    monkeypatch.setattr(world, "abort", lambda error, doing: sys.exit(1))
    monkeypatch.setattr(session, "_others_ended", [])
    with pytest.raises(SystemExit):
        session._drive(SimpleNamespace(link=SimpleNamespace(busy=True)), drive)
    assert (folder / "end").read_text() == word


# -- the session ----------------------------------------------------------------------------------------------------


@two_ranks
def test_items_are_dealt_out_and_results_come_in_order() -> None:
    def test(session: MpiSession) -> None:
        for count in (0, 1, 5, 23):
            assert session.each(item, list(range(count))) == [[k, k**2] for k in range(count)]
        with pytest.raises(DataError, match=r"^item -1$"):
            session.each(item, [0, 1, 2, 3, -1])
        with pytest.raises(MpinewtonError, match=r"rank 1 failed:\n(?s:.*)ZeroDivisionError"):
            session.each(broken, [1])
        ranks = session.introductions()
        assert session.ranks == WORLD.size == len(ranks) == len({rank["pid"] for rank in ranks})

    drive(test)


def test_join_runs_the_driver_once_and_gives_all_ranks_its_code(folder: Path) -> None:
    plan = packed(folder)

    def main(session: Any) -> int:
        assert WORLD.rank == DRIVER and session.ranks == WORLD.size
        assert session.open(plan).sum(index) == 21
        return 7

    # And again in the same job: MPI has room for 16 reduce operators.
    for _ in range(20 if WORLD.size == 2 else 2):
        assert join(main) == 7
