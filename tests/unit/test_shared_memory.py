"""Memory that ranks of one host share, from one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mpinewton.fleet.transport.memory import LONGEST, Address, Greeting, Inbox, Outbox, decode_greeting, encode_greeting


def test_what_is_written_is_read_at_any_length_without_a_copy() -> None:
    outbox = Outbox()
    inbox = Inbox(outbox.address)
    rng = np.random.default_rng(0)
    for size in (1, LONGEST, 0, 1000):
        data = rng.integers(0, 256, size, dtype=np.uint8)
        outbox.write(data)
        read = inbox.read(size)
        assert read.tobytes() == data.tobytes()
        assert not read.flags.writeable
        outbox.write(np.zeros(size, dtype=np.uint8))
        assert not read.any()


def test_a_closed_outbox_takes_no_file_and_is_still_read_by_who_reads_it() -> None:
    files = len(list(Path("/proc/self/fd").iterdir()))
    outbox = Outbox()
    inbox = Inbox(outbox.address)
    outbox.write(np.arange(9, dtype=np.uint8))
    outbox.close()
    assert inbox.read(9).tobytes() == bytes(range(9))
    with pytest.raises(OSError, match=r"."):
        Inbox(outbox.address)
    del inbox, outbox
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def other_file(address: Address) -> Address:
    read, write = os.pipe()
    os.close(write)
    return msgspec.structs.replace(address, file=read)


@pytest.mark.parametrize(
    "change",
    [
        lambda address: msgspec.structs.replace(address, host=["another", *address.host[1:]]),
        lambda address: msgspec.structs.replace(address, host=[*address.host[:1], "net:[1]", *address.host[2:]]),
        lambda address: msgspec.structs.replace(address, nonce=bytes(16)),
        lambda address: msgspec.structs.replace(address, process=2**30),
        lambda address: msgspec.structs.replace(address, file=10**6),
        other_file,
    ],
    ids=["host", "network", "nonce", "process", "file", "kind-of-file"],
)
def test_memory_that_is_not_that_of_the_sender_is_refused(change: Callable[[Address], Address]) -> None:
    outbox = Outbox()
    with pytest.raises(OSError, match=r"."):
        Inbox(change(outbox.address))


def test_a_greeting_arrives_as_it_was_sent() -> None:
    for greeting in (Greeting(Outbox().address, True, True), Greeting(None, False)):
        assert decode_greeting(encode_greeting(greeting)) == greeting
