"""An HTTP server on a free port of 127.0.0.1 whose every answer a test writes, faults included."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """What came. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What goes back.

    Attributes:
        missing: so many bytes that the Content-Length promises never come: the connection ends instead.
        pause: seconds before each byte of the body: a slow link.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    pause: float = 0


@dataclass
class WebServer:
    """A running server.

    Attributes:
        stalled: set it to let go of the handlers that wait for it.
    """

    url: str
    requests: list[Request] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def web_server(answer: Callable[[Request], Answer], tls: ssl.SSLContext | None = None) -> Iterator[WebServer]:
    """A server that hands each request, read whole, to ``answer``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            state.requests.append(request)
            made = answer(request)
            self.send_response(made.status)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(made.body) + made.missing))
            self.end_headers()
            # The client may have given up on us.
            with contextlib.suppress(ConnectionError):
                for piece in (made.body[n : n + 1] for n in range(len(made.body))) if made.pause else [made.body]:
                    state.stalled.wait(made.pause)
                    self.wfile.write(piece)
            self.close_connection = self.close_connection or made.missing > 0

        do_GET = do_POST = do_PUT = do_DELETE = _any

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that breaks off is what some tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        state = WebServer(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            state.stalled.set()
            server.shutdown()
            thread.join()
