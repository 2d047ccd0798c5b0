"""Public data sets: downloads from a server of ours that breaks off, and files that are there."""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from click.testing import CliRunner

from mpinewton.cli.datasets import command
from mpinewton.data import public
from mpinewton.data.pack import pack
from mpinewton.data.public import PublicData, fetch, public_folder
from mpinewton.data.sources import absolute
from mpinewton.errors import ConfigError, DataError

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Sends CONTENT, by the name also compressed; of each answer only the first `most` bytes."""

    most: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.content = CONTENT
        self.daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = bz2.compress(self.server.content) if self.path.endswith(".bz2") else self.server.content
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if wanted and first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.server.most])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("pooch")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # pooch waits between tries
    with Server() as server:
        address = f"http://127.0.0.1:{server.server_port}"
        digest = hashlib.sha256(CONTENT).hexdigest()
        for name, end in (("text", ""), ("packed", ".bz2")):
            monkeypatch.setitem(public.PUBLIC, name, PublicData(f"{address}/{name}{end}", digest, 3, 2, f"{name}.xz"))
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["text", "packed"])
def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server: Server, tmp_path: Path, name: str) -> None:
    server.most = 8 * public.PIECE
    path = fetch(name, tmp_path / "new")
    assert lzma.decompress(path.read_bytes()) == CONTENT
    begun = [None, "bytes=131072-", "bytes=262144-"]
    assert server.asked == begun
    assert left(tmp_path / "new") == {f"{name}.xz"}
    assert fetch(name, tmp_path / "new") == path  # it is there now
    assert server.asked == begun


def test_the_same_command_continues_a_download(server: Server, tmp_path: Path) -> None:
    server.most = public.PIECE
    with pytest.raises(DataError, match=r"/text cannot be downloaded \(.*the same command continues"):
        fetch("text", tmp_path)
    assert len(server.asked) == public.TRIES + 1
    assert left(tmp_path) == {".text.xz.download.part"}
    server.most = None
    fetch("text", tmp_path)
    assert server.asked[-1] == f"bytes={public.PIECE * (public.TRIES + 1)}-"


def test_a_server_without_ranges_and_a_remainder_that_is_too_long(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / ".text.xz.download.part").write_bytes(b"older")
    assert lzma.decompress(fetch("text", tmp_path).read_bytes()) == CONTENT
    server.ranges = True
    (tmp_path / ".packed.xz.download.part").write_bytes(bytes(400_000))
    assert lzma.decompress(fetch("packed", tmp_path).read_bytes()) == CONTENT


def test_other_content_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match=r"the content has sha256 [0-9a-f]{12}, expected [0-9a-f]{12}"):
        fetch("packed", tmp_path)
    assert left(tmp_path) == set()
    (tmp_path / "text.bz2").write_bytes(bz2.compress(b"+1 1:1\n"))
    with pytest.raises(DataError, match=r"text\.bz2: the content has sha256"):
        fetch("text", tmp_path)


def test_the_command(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPINEWTON_DATA", str(tmp_path))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(command, arguments)
        if done.exception:
            raise done.exception
        return done.stdout

    (tmp_path / "text").write_bytes(CONTENT)
    assert run("text", "packed").split() == [str(tmp_path / "text"), str(tmp_path / "packed.xz")]
    assert len(server.asked) == 1
    known = json.loads(run("--json"))
    assert known["packed"]["path"] == str(tmp_path / "packed.xz")
    assert known["a9a"]["path"] is None
    assert {line.split()[-1] for line in run().splitlines() if line.startswith("text ")} == {"text"}
    with pytest.raises(ConfigError, match="unknown public data set 'a9'"):
        run("a9")


def test_a_name_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"+1 1:1\n-1 2:1\n+1 1:2\n"
    monkeypatch.setitem(
        public.PUBLIC, "rows", PublicData("http://nowhere", hashlib.sha256(content).hexdigest(), 3, 2, "")
    )
    monkeypatch.setenv("MPINEWTON_DATA", str(tmp_path))
    (tmp_path / "rows.bz2").write_bytes(bz2.compress(content))
    assert pack("rows", tmp_path / "p", 2).manifest.rows == 3
    assert absolute("rows", Path("/jobs")) == "rows"
    monkeypatch.chdir(tmp_path)
    Path("rows").write_bytes(content[:14])  # a file of that name comes first
    assert pack("rows", tmp_path / "q", 2).manifest.rows == 2
    assert absolute("rows", tmp_path) == str(tmp_path / "rows")
    with pytest.raises(DataError, match=r"a9b: no such file, nor a public data set \(did you mean 'a9a'\?\)"):
        pack("a9b", tmp_path / "r", 2)


def test_without_pooch_the_extra_and_the_variable_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.delenv("MPINEWTON_DATA", raising=False)
    for call in (public_folder, lambda: fetch("a9a", tmp_path)):
        with pytest.raises(ConfigError, match=r"pip install mpinewton\[download\]; or set MPINEWTON_DATA"):
            call()
