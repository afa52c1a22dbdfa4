"""The application of `serve` in this process, and what is asked of it."""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from starlette.testclient import TestClient
from typing_extensions import override

from share_registry.format.canonical import sha256
from share_registry.http.server import ServeRequest, served
from share_registry.outside.files import Outside
from share_registry.outside.system import System

ADDRESS: Final = "http://127.0.0.1:8080"
# What hangs ends the test
WAIT_S: Final = 60.0
# A file of cola@v1 beside its tensors and config
ATTACHED: Final = b'{"loss": 1.5}'
MODEL_FILE: Final = "adapter_model.safetensors"


class Recorder(System):
    """Remembers what is opened; breaks, or waits for the registry, when it is told to."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.is_broken = False
        self.may_open = threading.Event()
        self.may_open.set()
        # one for each file of the registry that was asked for
        self.waiting = threading.Semaphore(0)

    @override
    def open(self, name: str, flags: int, *, mode: int = 0o666, folder: int | None = None) -> int:
        if self.is_broken:
            raise RuntimeError(f"secret of {name}")
        if "/cache/" not in name:
            self.waiting.release()
            self.may_open.wait(WAIT_S)
        self.opened.append(name.rpartition("/")[2])
        return super().open(name, flags, mode=mode, folder=folder)


def client_of(
    stack: ExitStack,
    place: Path | str,
    cache: Path | None,
    *,
    token: str | None = None,
    outside: Outside | None = None,
    **options: Any,
) -> TestClient:
    """Return a client of an application over a registry, until the stack is closed."""
    token_file = None
    if token is not None and cache is not None:
        token_file = cache.with_name("token")
        token_file.write_text(token)
    request = ServeRequest(
        **{
            "registry": place,
            "store": None,
            "space": None,
            "alias": "prod",
            "profile": None,
            "target": None,
            "base_config": None,
            "base_model": None,
            "host": "127.0.0.1",
            "port": 8080,
            "token_file": token_file,
            "cache": cache,
            "cache_gb": 1.0,
            **options,
        }
    )
    app = stack.enter_context(served(request, outside or Outside(), print))
    return stack.enter_context(TestClient(app, base_url=ADDRESS, raise_server_exceptions=False))


def resolve(client: TestClient, ref: str) -> dict[str, Any]:
    answer = client.get(f"/v1/resolve/{ref}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def url_of(document: dict[str, Any], file: str = MODEL_FILE) -> str:
    return next(str(each["url"]) for each in document["files"] if each["path"] == file)


def download(client: TestClient, document: dict[str, Any]) -> dict[str, bytes]:
    """Return every file of a version, each as large and as hashed as it is said to be."""
    contents = {}
    for file in document["files"]:
        answer = client.get(file["url"])
        assert answer.status_code == 200, answer.text
        # whatever it is: a browser shall show none of it
        assert answer.headers["content-type"] == "application/octet-stream"
        assert (len(answer.content), sha256(answer.content)) == (file["size"], file["sha256"])
        contents[file["path"]] = answer.content
    return contents


def size_of(document: dict[str, Any]) -> int:
    """Return how large the files of a version are together."""
    return sum(file["size"] for file in document["files"])
