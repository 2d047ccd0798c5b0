"""Who this process is: the driver with a session, or a rank that serves it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from mpinewton import bits
from mpinewton.errors import ConfigError
from mpinewton.launcher import (
    FAREWELL,
    launcher_rank,
    on_own_core,
    promised_ranks,
    refuse_singletons,
    report_waiting,
    tell_launcher,
)
from mpinewton.signals import held_back

if TYPE_CHECKING:
    from mpinewton.fleet.fleet import Fleet
    from mpinewton.fleet.orders import Echo, Timing
    from mpinewton.fleet.plan import Plan
    from mpinewton.fleet.transport.driver import MpiSession


class Session(Protocol):
    """The driver's hold on the processes of the job, one or many."""

    @property
    def ranks(self) -> int:
        """Processes of the job, the driver's included."""

    @property
    def library(self) -> str:
        """Name and version of the MPI library; "none" in one process."""

    def open(self, plan: Plan) -> Fleet:
        """A fleet on the shards of the plan. Raises DataError where they do not fit."""

    def each(self, task: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """[task(item) for item in items], dealt out over the ranks; items and results are JSON-able."""

    def introductions(self) -> list[dict[str, Any]]:
        """What every rank says of itself, the driver first."""

    def time_collectives(self, sizes: Sequence[int]) -> list[Timing]:
        """What the collectives take for vectors of so many numbers; nothing in one process."""

    def time_echoes(self, sizes: Sequence[int]) -> list[Echo]:
        """What messages of so many bytes to other ranks and back take; nothing in one process."""

    def watch(self, pause: Callable[[], str], rank_timeout: float) -> None:
        """While ranks work, ask `pause` why the run must be interrupted, and end the job after so many seconds."""

    def survival(self) -> AbstractContextManager[bool | None]:
        """Context of a run. If ranks die in it, it ends without exception, and the session has the others."""

    def stop(self, code: int) -> None:
        """Let the other ranks end with this exit code."""


class LocalSession:
    """One process: the driver hosts the workers. Nothing heavy is imported before it is needed."""

    ranks = 1
    library = "none: one process"

    def open(self, plan: Plan) -> Fleet:
        """A fleet on the shards of the plan. Raises DataError where they do not fit."""
        from mpinewton.fleet.host import Host
        from mpinewton.fleet.local import LocalFleet

        return LocalFleet(Host.load(plan, range(plan.n_workers)))

    def each(self, task: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """[task(item) for item in items]."""
        return [task(item) for item in items]

    def introductions(self) -> list[dict[str, Any]]:
        """What this process says of itself."""
        from mpinewton.fleet.transport.introduction import introduction

        return [introduction()]

    def time_collectives(self, sizes: Sequence[int]) -> list[Timing]:
        """Nothing: no message leaves the process."""
        return []

    def time_echoes(self, sizes: Sequence[int]) -> list[Echo]:
        """Nothing: no message leaves the process."""
        return []

    def watch(self, pause: Callable[[], str], rank_timeout: float) -> None:
        """Nothing to watch."""

    def survival(self) -> AbstractContextManager[bool | None]:
        """Nobody can die alone."""
        return nullcontext()

    def stop(self, code: int) -> None:
        """Nothing to end."""


def join(drive: Callable[[Session], int], portable: Callable[[], bool] | None = None) -> int:
    """Run `drive` on the driver and serve it on the other ranks, until it returns an exit code; that code on all ranks.

    Without a launcher there is one process, and MPI is not even loaded. An exception of `drive` ends the other ranks
    too: at once by an abort where they are in the middle of a call, in good order otherwise.

    Parameters
    ----------
    portable : whether all processes shall compute portable bits; asked on the driver, before numpy is imported.

    Raises
    ------
    ConfigError
        If a launcher has started many processes that do not see one another.
    """
    promised = promised_ranks()
    if not promised:
        if portable is not None and portable():
            bits.hold()
        return drive(LocalSession())
    try:
        with held_back(), report_waiting(promised):
            from mpinewton.fleet.transport import world
    except (ImportError, RuntimeError) as error:
        if launcher_rank() > 0:  # where the driver lacks it too, its word ends the job before
            time.sleep(2 * FAREWELL)
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"rank {launcher_rank()} on {socket.gethostname()}: the launcher started {promised} processes, but mpi4py "
            f"finds no MPI library ({reason}): load the site's MPI module, or `pip install mpinewton[mpich]`"
        ) from None
    try:
        if portable is not None and world.from_driver(portable):
            bits.hold()
        from mpinewton.fleet.transport.driver import MpiSession
        from mpinewton.fleet.transport.mpi import DRIVER, Link
        from mpinewton.fleet.transport.server import serve
        from mpinewton.fleet.transport.watch import RankLost
    except BaseException as error:  # a package that only this host lacks, say: MPI is up, and the others wait
        world.abort(error, "loading mpinewton")
    refuse_singletons(promised, world.world().size)
    if world.world().size == 1:
        return drive(LocalSession())
    if _others_ended:
        raise ConfigError("the other ranks have ended after the failure before: start the job again")
    try:
        link = Link(world.world())
    except RankLost as error:
        tell_launcher(1, lost=True)
        world.abort(error)
    if link.rank != DRIVER:
        try:
            with on_own_core():
                return serve(link)
        except BaseException as error:
            world.abort(error, "serving the driver")
    return _drive(MpiSession(link), drive)


def _drive(session: MpiSession, drive: Callable[[Session], int]) -> int:
    """Run `drive`, and end the other ranks however it ends."""
    from mpinewton.fleet.transport import world

    stopping = False
    try:
        code = drive(session)
        tell_launcher(code, lost=session.link.watch.lost)
        if not session.link.busy:
            stopping = True
            session.stop(code)
            return code
    except BaseException as error:
        _others_ended.append(True)
        tell_launcher(1, lost=world.is_lost(error))
        if stopping or session.link.busy:
            world.abort(error, "driving the run")
        session.stop(1)
        raise
    return world.quit_job(code or 1)


# After a failure the other ranks leave, and a second `join` would wait for them for ever.
_others_ended: list[bool] = []
