"""A proxy in front of a server of objects that counts requests and spoils some of them."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

from typing_extensions import override

# As services do, with the id of the key that a request was signed with
KEY_ID: Final = "AKIAEXAMPLE"
_ERROR: Final = (
    '<?xml version="1.0"?><Error><Code>{0}</Code><Message>{0}.</Message>'
    f"<AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>"
)


class Fault(StrEnum):
    """What becomes of a request."""

    NONE = "passes"
    LOST_REQUEST = "never reaches the server"
    LOST_ANSWER = "is carried out, and its answer lost"
    SLOW_DOWN = "is refused for now, with 503"
    FAILED = "is carried out, and answered with 500"
    CONFLICT = "is refused with 409, since another is under way"
    FORBIDDEN = "is refused with 403"
    CUT = "is answered with half the bytes"
    SPOILT = "is answered with other bytes"
    UNCONDITIONAL = "is carried out without its conditions"


_STATUS: Final = {
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
    Fault.FORBIDDEN: (403, "AccessDenied"),
}
# Tells what becomes of a request: of its method, path, and how many like it came before
Plan = Callable[[str, str, int], Fault]


@dataclass(slots=True)
class Proxy:
    """A running proxy.

    Attributes:
        url: Where it listens.
        plan: What becomes of requests.
        requests: Method and path of every request, in order.
        delay_s: How long each takes beside what the server needs.
    """

    url: str
    plan: Plan = lambda method, path, count: Fault.NONE
    requests: list[tuple[str, str]] = field(default_factory=list)
    delay_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_of(self, method: str, path: str) -> Fault:
        """Note a request and return what becomes of it."""
        with self.lock:
            count = self.requests.count((method, path))
            self.requests.append((method, path))
            return self.plan(method, path, count)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: Proxy, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy, self.upstream = proxy, upstream


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @override
    def log_message(self, format: str, *args: object) -> None:
        return

    def forward(self) -> None:
        """Pass one request on, as the plan says."""
        assert isinstance(self.server, _Server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.proxy.fault_of(self.command, self.path)
        time.sleep(self.server.proxy.delay_s)
        if fault in _STATUS:
            status, code = _STATUS[fault]
            self._answer(status, {}, _ERROR.format(code).encode())
        elif fault is Fault.LOST_REQUEST:
            self.close_connection = True
        else:
            self._carry_out(fault, body, self.server.upstream)

    def _carry_out(self, fault: Fault, body: bytes, upstream: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if fault is Fault.UNCONDITIONAL:
            headers.pop("if-none-match", None)
        with closing(http.client.HTTPConnection(upstream, timeout=30)) as connection:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        if fault is Fault.LOST_ANSWER:
            self.close_connection = True
        elif fault is Fault.FAILED:
            self._answer(500, {}, _ERROR.format("InternalError").encode())
        else:
            if fault is Fault.SPOILT:
                content = content[:-1] + bytes([content[-1] ^ 1])
            self._answer(answer.status, dict(answer.getheaders()), content, fault is Fault.CUT)

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, cut: bool = False
    ) -> None:
        kept = {name.lower(): value for name, value in headers.items()}
        if self.command != "HEAD":
            kept["content-length"] = str(len(content))
        self.send_response_only(status)
        for name, value in kept.items():
            if name not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        if cut:
            content, self.close_connection = content[: len(content) // 2], True
        if self.command != "HEAD":
            self.wfile.write(content)


for _method in ("GET", "PUT", "HEAD", "DELETE", "POST"):
    setattr(_Handler, f"do_{_method}", _Handler.forward)


@contextmanager
def proxy_to(server_url: str) -> Iterator[Proxy]:
    """Run a proxy to a server."""
    proxy = Proxy(url="")
    server = _Server(proxy, urlsplit(server_url).netloc)
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    runner = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    runner.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        runner.join()
