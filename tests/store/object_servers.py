"""Servers of the S3 protocol, started for a test run, and buckets of them."""

import logging
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from obstore.store import S3Store
from typing_extensions import override

from share_registry.outside.files import Outside
from share_registry.store.bucket import Bucket
from share_registry.store.object_store import ObjectStore

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

BUCKET: Final = "registry"
_CLIENT: "Final[ClientConfig]" = {"allow_http": True, "timeout": "20s"}
_PORTS: Final = [
    f"{service}.port{suffix}"
    for service in ("master", "volume", "filer", "s3")
    for suffix in ("", ".grpc")
]
_STARTS_S: Final = 60.0


@contextmanager
def moto() -> Iterator[str]:
    """Run moto, which keeps everything in the memory of this process; yield its URL.

    It answers one request at a time: between its look whether a key is free and its writing it,
    another thread of it may write, so that two writers win.
    """
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    # a line for every request
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def answer(environment: dict[str, Any], start: Any) -> list[bytes]:
        with lock:
            return [*application(environment, start)]

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=MotoRequestHandler)
    runner = threading.Thread(target=server.serve_forever, daemon=True)
    runner.start()
    try:
        yield _with_bucket(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        runner.join()


@contextmanager
def seaweedfs() -> Iterator[str]:
    """Run SeaweedFS in a process of its own, on the disk; yield its URL."""
    folder = tempfile.mkdtemp(prefix="sr-weed-")
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    command = [
        *(str(Path(sysconfig.get_path("scripts")) / "weed"), "-logtostderr=true", "server"),
        *(f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
        *("-master.telemetry=false", "-volume.max=8", "-master.volumeSizeLimitMB=64"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    log = Path(folder) / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield _with_bucket(f"http://127.0.0.1:{ports['s3.port']}", log)
    finally:
        # what it has is thrown away, so it need not end in order
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def driver(
    url: str,
    prefix: str | None = None,
    *,
    bucket: str = BUCKET,
    credentials: tuple[str, str] = ("key", "secret"),
    retries: "RetryConfig | None" = None,
) -> S3Store:
    """Return obstore's view of a bucket of a server."""
    return S3Store(
        bucket,
        prefix=prefix,
        endpoint=url,
        access_key_id=credentials[0],
        secret_access_key=credentials[1],
        region="us-east-1",
        client_options=_CLIENT,
        retry_config=retries,
    )


def fresh_bucket(url: str, *, retries: "RetryConfig | None" = None) -> Bucket:
    """Return an empty place in the bucket of a server."""
    prefix = uuid.uuid4().hex
    return Bucket(driver(url, prefix, retries=retries), f"s3://{BUCKET}/{prefix}")


def environment(url: str) -> dict[str, str]:
    """Return the environment with which a process reaches a server."""
    return {**os.environ, **variables(url)}


def variables(url: str) -> dict[str, str]:
    """Return the variables of the environment that lead to a server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }


def _with_bucket(url: str, log: Path | None = None) -> str:
    """Wait until a server answers and can write, with a bucket; return its URL."""
    last_s = time.monotonic() + _STARTS_S
    while True:
        try:
            request = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
            with suppress(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=5).close()
            driver(url, retries={"max_retries": 0}).put("ready", b"")
        except Exception as error:
            if time.monotonic() > last_s:
                text = log.read_text(errors="replace")[-4000:] if log else ""
                raise TimeoutError(f"no server at {url}: {text}") from error
            time.sleep(0.1)
        else:
            return url


def _free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


class Hasty(Outside):
    """The world, in which nobody waits."""

    @override
    def wait(self, seconds: float) -> None:
        return


def fresh_store(bucket: Bucket) -> ObjectStore:
    return ObjectStore(bucket, Hasty(), identity=str(uuid.uuid4()))
