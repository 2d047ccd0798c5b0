"""A page about runs in progress, for a browser on this machine."""

from __future__ import annotations

import errno
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from mpinewton.errors import ConfigError, MpinewtonError
from mpinewton.report.html import Page

HOST = "127.0.0.1"
TYPE = "text/html; charset=utf-8"


def serve(read: Callable[[], Page], port: int, started: Callable[[str], None]) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C.

    Parameters
    ----------
    read : callable
        Reads the runs; called for every answer, by one thread at a time.
    port : int
        0 for any free one.
    started : callable
        Called with the address.

    Raises
    ------
    ConfigError
        If the port cannot be used.
    """
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in ("/", "/main"):
                self.send_error(404)
                return
            with lock:
                content = _answer(read, self.path == "/").encode()
            self.send_response(200)
            for name, value in (
                ("Content-Type", TYPE),
                ("Content-Length", len(content)),
                ("Cache-Control", "no-store"),
            ):
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with _bound(port, Handler) as server:
        started(f"http://{HOST}:{server.server_port}/")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return


def _bound(port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A browser that closes its connection is no error."""

    try:
        return Server((HOST, port), handler)
    except OSError as error:
        remedy = "; choose another with --serve PORT, or 0 for any free one" if error.errno in (
            errno.EADDRINUSE, errno.EACCES
        ) else ""  # fmt: skip
        raise ConfigError(f"port {port} of {HOST} cannot be used ({error.strerror}){remedy}") from None


def _answer(read: Callable[[], Page], whole: bool) -> str:
    try:
        page = read()
        return page.html(live=True) if whole else page.main()
    except MpinewtonError as error:  # no run yet, or a file that is being written
        page = Page("Runs", {}, str(error))
        return page.html(live=True) if whole else f"<p>{escape(str(error))}</p>"
