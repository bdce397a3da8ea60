"""The page: served by the standard library, to this machine alone, or with a token to others."""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from station import Station

from edgeplast.errors import EdgeplastError

_PAGE = Path(__file__).with_name("page.html")
_MOST_BYTES = 4096
"""Of a request's body."""

_POLICY = (
    "default-src 'none'; img-src data:; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "frame-ancestors 'none'"
)


def serve(station: Station, host: str, port: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        OSError: the address cannot be had.
    """
    token = "" if _is_loopback(host) else secrets.token_urlsafe(16)
    server = HTTPServer((host, port), _handler(station, token))  # one request at a time: they are short, threads cost
    asked = f"/?token={token}" if token else "/"
    print(f"Open http://{host}:{server.server_port}{asked}", flush=True)

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.serve_forever(poll_interval=0.2)
    finally:
        server.server_close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _handler(station: Station, token: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # of whoever connects and says nothing

        def do_GET(self) -> None:
            self._answer({"/": lambda _: _PAGE.read_bytes(), "/state": lambda _: station.state()})

        def do_POST(self) -> None:
            # Other sites' pages can post to this machine, but not with a header of their own making.
            if self.headers.get("X-Edgeplast") != "page":
                self._send(403, {"error": "This is for the page alone."})
                return
            self._answer(
                {
                    "/add": lambda given: station.add(int(given["number"]), str(given["class"])),
                    "/class": lambda given: station.add_class(str(given["name"])),
                    "/hold": lambda given: station.hold(int(given["number"])),
                    "/learn": lambda _: station.learn(),
                }
            )

        def _answer(self, ways: dict[str, Any]) -> None:
            parts = urlsplit(self.path)
            if not self._is_allowed(parse_qs(parts.query).get("token", [""])[0]):
                self._send(403, {"error": "The token is missing: open the address that was printed."})
            elif parts.path not in ways:
                self._send(404, {"error": "There is no such page."})
            else:
                try:
                    self._send(200, ways[parts.path](self._body()))
                except EdgeplastError as error:
                    self._send(400, {"error": str(error)})
                except (ValueError, KeyError, TypeError):
                    self._send(400, {"error": "That was not understood."})

        def _is_allowed(self, given: str) -> bool:
            if token:
                return hmac.compare_digest(given.encode(), token.encode())
            # A name that leads here but is not this machine's was made up by a page elsewhere.
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            return name == "localhost" or _is_loopback(name)

        def _body(self) -> Any:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= _MOST_BYTES:
                raise ValueError(length)
            return json.loads(self.rfile.read(length) or b"{}")

        def _send(self, code: int, content: bytes | dict[str, Any]) -> None:
            page = isinstance(content, bytes)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", f"{'text/html' if page else 'application/json'}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Security-Policy", _POLICY)
            self.send_header("Cache-Control", "no-store")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing of each request."""

    return Handler


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
