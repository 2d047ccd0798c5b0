"""A fleet of what the ranks of a communicator bring: every rank hosts its own, and rank 0 drives as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from mpi4py import MPI

from mpinewton.fleet import orders
from mpinewton.fleet.fleet import Fleet
from mpinewton.fleet.host import Host
from mpinewton.fleet.orders import Trouble
from mpinewton.fleet.transport import world
from mpinewton.fleet.transport.driver import MpiFleet
from mpinewton.fleet.transport.mpi import DRIVER, Link
from mpinewton.fleet.transport.server import Server
from mpinewton.launcher import promised_ranks, refuse_singletons

Facts = dict[str, Any]


class Said(msgspec.Struct, frozen=True):
    """What one rank tells all others: facts, or why it has none."""

    facts: Facts = {}
    trouble: Trouble | None = None


decode_said = msgspec.msgpack.Decoder(Said).decode


def run_together(
    comm: MPI.Intracomm,
    describe: Callable[[], Facts],
    build: Callable[[list[Facts], int], Host],
    drive: Callable[[Fleet], bytes],
) -> bytes:
    """Run `drive` on rank 0 with the workers of all ranks; every rank calls this, and gets what it returns.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Duplicated for the messages of this call, and free for others afterwards.
    describe : function of nothing
        What the other ranks must know of this one: numbers, texts, lists and dicts.
    build : function of (facts of all ranks, number of this rank)
        The workers of this rank.
    drive : function of Fleet

    Raises
    ------
    Exception
        What is raised on one rank is raised on all: the same object there, a `MpinewtonError` elsewhere.
    """
    refuse_singletons(promised_ranks(), world.world().size)
    link = Link(comm, driver_hosts=True)
    try:
        facts = _agree(link, describe)
        hosts: list[Host] = []
        _agree(link, lambda: hosts.append(build(facts, link.rank)))
        return _drive(link, hosts[0], drive) if link.rank == DRIVER else _serve(link, hosts[0])
    finally:
        link.close()


def _agree(link: Link, action: Callable[[], Facts | None]) -> list[Facts]:
    """The facts that the action gives on every rank, in rank order; raises everywhere what it raises first."""
    error: Exception | None = None
    try:
        said = Said(action() or {})
        text = msgspec.msgpack.encode(said)
    except Exception as caught:
        error = caught
        text = msgspec.msgpack.encode(Said(trouble=Trouble.of(caught, link.rank)))
    everyone = [decode_said(data) for data in link.share(text)]
    for rank, said in enumerate(everyone):
        if said.trouble is not None:
            raise error if rank == link.rank and error else said.trouble.error() from error
    return [said.facts for said in everyone]


def _drive(link: Link, host: Host, drive: Callable[[Fleet], bytes]) -> bytes:
    try:
        result = drive(MpiFleet(link, host.problem, own=Server(link, host)))
    except BaseException as error:
        if link.busy:  # the other ranks wait for a message that will not come
            world.abort(error, "driving the run")
        link.tell(msgspec.json.encode(orders.Stop(1, Trouble.of(error, link.rank))))
        raise
    link.tell(msgspec.json.encode(orders.Stop(0)), np.frombuffer(result, dtype=np.uint8))
    return result


def _serve(link: Link, host: Host) -> bytes:
    try:
        stop, data = Server(link, host).run()
    except BaseException as error:
        world.abort(error, "serving the driver")
    if stop.error is not None:
        raise stop.error.error()
    return data.tobytes()
