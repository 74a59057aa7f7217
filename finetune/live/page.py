"""What a camera shows, on a page of this machine: a stream of JPEGs and the numbers beside it.

Bound to the loopback alone. What asks by another host's name gets nothing, so that no web page that
names this machine anew can read it; other pages may not show the stream either.
"""

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from engine.errors import UserError, explain
from engine.logging.page import render
from finetune.live.newest import Newest

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
LOOKS = Path(__file__).resolve().parent / "looks"
BOUNDARY = "counterposeframe"
WAIT_S = 1.0
MOST_VIEWERS = 8


class Page:
    """Serves the page until ``stop``.

    Args:
        port: 0: any that is free.
        title: of the page.
        frames: Newest of JPEG bytes.
        facts: gives the numbers that the page shows.

    Attributes:
        address: URL of the page.

    Raises:
        UserError: the port is taken.
    """

    def __init__(
        self, port: int, title: str, frames: Newest[bytes], facts: Callable[[], dict]
    ) -> None:
        body = render.page("live.html", {"name": title}, [LOOKS], [LOOKS / "live.js"]).encode()
        viewers = threading.BoundedSemaphore(MOST_VIEWERS)

        class Handler(_Handler):
            """Knows what it shows."""

            page, stream, numbers, seats = body, frames, staticmethod(facts), viewers

        try:
            self._server = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise UserError(
                f"live.port={port} cannot be used: {explain(error)}; does another one run? "
                "live.port=0 takes any that is free"
            ) from None
        self._server.daemon_threads = True
        self.address = f"http://{HOST}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        if self._thread.ident is not None:
            self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    page: bytes
    stream: Newest[bytes]
    numbers: Callable[[], dict]
    seats: threading.BoundedSemaphore
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802, a name of http.server's
        """Answer a browser."""
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in NAMES:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"another host's name\n")
        elif self.path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.page)
        elif self.path == "/facts":
            facts = json.dumps(self.numbers()).encode()
            self._answer(HTTPStatus.OK, "application/json", facts)
        elif self.path == "/stream":
            self._send_frames()
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"no such page\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, its name
        """Say nothing of each request."""

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self._send_rules(kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_rules(self, kind: str) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("X-Content-Type-Options", "nosniff")

    def _send_frames(self) -> None:
        if not self.seats.acquire(blocking=False):
            busy = f"{MOST_VIEWERS} pages show it already\n".encode()
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", busy)
            return
        self.close_connection = True
        try:
            self.send_response(HTTPStatus.OK)
            self._send_rules(f"multipart/x-mixed-replace; boundary={BOUNDARY}")
            self.end_headers()
            # Browsers show an image when its end is there: the mark after it goes out with it.
            mark = f"--{BOUNDARY}\r\n".encode()
            self.wfile.write(mark)
            taken = 0
            while True:
                newer = self.stream.take(taken, WAIT_S)
                if newer is None:
                    if self.stream.is_closed:
                        return
                    continue
                taken, jpeg = newer
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n" + mark)
        except (ConnectionError, TimeoutError):
            pass  # the page was closed
        finally:
            self.seats.release()
