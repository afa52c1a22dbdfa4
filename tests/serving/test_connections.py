"""Connections that nothing becomes of, through real sockets."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from threading import Thread

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from share_registry.http.connections import WatchedConnection
from share_registry.http.server import server_config
from share_registry.outside.listening import listen, port_of
from tests.serving.http_clients import WAIT_S

# Longer than a client that means well may stop for, on a machine that has much to do
LIMIT_S = 0.5
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
SENT = (
    b"",
    HEAD,
    # answered, and then half a head or half a body
    HEAD + b"\r\n" + HEAD,
    HEAD + b"Content-Length: 9\r\n\r\nx",
)
# With these and one more the server is full
MOST = len(SENT) + 1
# In parts, as files are sent, and more than sockets buffer
PARTS = [b"x" * (1 << 20)] * 16


async def healthz(_: Request) -> Response:
    return PlainTextResponse("ok")


async def slow(_: Request) -> Response:
    await asyncio.sleep(3 * LIMIT_S)
    return PlainTextResponse("ok")


async def large(_: Request) -> Response:
    return StreamingResponse(iter(PARTS))


class Hasty(WatchedConnection):
    limit_s = LIMIT_S


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server as `serve` and `ui` start it, but for two limits."""
    app = Starlette(routes=[Route(f"/{each.__name__}", each) for each in (healthz, slow, large)])
    config = server_config(app)
    assert config.http is WatchedConnection
    config.http, config.limit_concurrency = Hasty, MOST
    server = uvicorn.Server(config)
    with closing(listen("127.0.0.1", 0)) as listener:
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield port_of(listener)
        server.should_exit = True
        thread.join(WAIT_S)


def ask(port: int, path: str) -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=WAIT_S)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def connect(port: int, stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))


def test_connections_that_ask_nothing_are_closed_and_keep_nobody_out(port: int) -> None:
    with ExitStack() as stack:
        connections = [connect(port, stack) for _ in SENT]
        for connection, sent in zip(connections, SENT, strict=True):
            connection.sendall(sent)
        assert ask(port, "/healthz")[0] == 503
        for connection in connections:
            # until the server ends it
            with suppress(ConnectionResetError):
                while connection.recv(1 << 16):
                    pass
        assert ask(port, "/healthz") == (200, b"ok")


def test_clients_that_read_no_answer_are_closed_and_keep_nobody_out(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(MOST - 1):
            connection = connect(port, stack)
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        begin_s = time.monotonic()
        while ask(port, "/healthz") != (200, b"ok"):
            assert time.monotonic() < begin_s + WAIT_S


def test_an_answer_takes_as_long_as_it_takes(port: int) -> None:
    assert ask(port, "/slow") == (200, b"ok")
    assert ask(port, "/large") == (200, b"".join(PARTS))
