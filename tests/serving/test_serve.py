"""`share-registry serve` as a process, asked through real sockets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import share_registry as sr
from share_registry.cli.main import commands, main
from share_registry.format.canonical import sha256
from tests.cli.tiny import SPACE, write_adapter
from tests.house.blocks import agrees
from tests.house.tree import ROOT
from tests.registry.plain import files
from tests.store.object_servers import BUCKET, variables

DATA = ROOT / "share_registry" / "demo_data"
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
ASKED = re.compile(r"<!-- asked -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STARTS_S = 60.0
TOKEN = "0123456789abcdef"


@contextmanager
def serving(*arguments: object) -> Iterator[int]:
    """Run the verb on a free port, and yield that; it ends well when it is asked to."""
    command = [
        *(sys.executable, "-W", "ignore", "-m", "share_registry.cli.main"),
        *(*map(str, arguments), "serve", "--port", "0"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        address = re.search(r"serving at http://127\.0\.0\.1:(\d+);", line)
        if address is None:
            process.kill()
            pytest.fail(line + process.stderr.read())
        yield int(address[1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(STARTS_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def ask(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Send a path as it is."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=STARTS_S)) as connection:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def raw(port: int, request: bytes) -> bytes:
    """Send bytes, and return the first line of what comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=STARTS_S) as connection:
        connection.sendall(request)
        return connection.makefile("rb").readline()


def committed(place: str | Path, top: Path) -> None:
    with sr.Registry.open(place, mode="c") as registry:
        for seed, task in enumerate(("cola", "cola")):
            registry.commit(write_adapter(top / f"in{seed}", seed=seed), task=task)
        registry.set_alias("cola@v1", "prod")


def download(port: int, ref: str) -> dict[str, bytes]:
    status, body = ask(port, f"/v1/resolve/{ref}")
    assert status == 200, body
    return {
        file["path"]: content
        for file in json.loads(body)["files"]
        if sha256(content := ask(port, file["url"])[1]) == file["sha256"]
    }


def test_many_clients_download_what_export_writes_and_nothing_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "registry"
    committed(place, tmp_path)
    with sr.Registry.open(place, mode="r") as registry:
        exports = {
            ref: files(registry.export(ref, tmp_path / "out").path)
            for ref in ("cola@v1", "cola@v2")
        }
    before = files(place)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with serving("-R", place) as port, ThreadPoolExecutor(32) as pool:
        asked = [*exports] * 16
        for ref, contents in zip(
            asked, pool.map(lambda ref: download(port, ref), asked), strict=True
        ):
            assert contents == exports[ref]
        assert ask(port, "/v1/models", {"Host": "evil.example"})[0] == 421
        for path in ("/v1/resolve/../../etc/passwd", "/../../etc/passwd", "/v1/adapters/../x/y"):
            assert ask(port, path)[0] in (400, 404)
        assert raw(port, b"GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n").split()[1] == b"400"
        assert raw(port, b"GET /healthz HTTP/1.0\r\n\r\n").split()[1] == b"421"
        assert raw(port, b"\x16\x03\x01 nonsense\r\n\r\n").split()[1] == b"400"
        assert ask(port, "/healthz") == (200, b'{"status": "ok"}')
    assert files(place) == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_catalog_on_postgresql_and_a_store_in_a_bucket_are_served(
    moto_url: str, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = {
        "SHARE_REGISTRY_URI": postgresql_url,
        "SHARE_REGISTRY_STORE": f"s3://{BUCKET}/{uuid.uuid4().hex}",
        "SHARE_REGISTRY_CACHE": str(tmp_path / "objects"),
    }
    for name, value in (variables(moto_url) | team).items():
        monkeypatch.setenv(name, value)
    with sr.Registry.open(mode="c") as registry:
        registry.commit(write_adapter(tmp_path / "in", seed=1), task="cola")
        registry.set_alias("cola", "prod")
        export = registry.export("cola", tmp_path / "out")
    with serving() as port:
        assert json.loads(ask(port, "/v1/models")[1])["data"][0]["root"] == f"{SPACE}/cola@v1"
        assert download(port, "cola@prod") == files(export.path)


def test_the_page_says_what_is_answered(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry", mode="c") as registry:
        for source, task in (("wn-pos-gloss/v1", "gloss"), ("wn-pos-gloss/v2", "gloss")):
            registry.commit(DATA / source, task=task)
        registry.commit(DATA / "wn-syn-ant" / "v1", task="antonyms")
        for task in ("gloss", "antonyms"):
            registry.set_alias(task, "prod")
        export = registry.export("gloss@prod", tmp_path / "out")
    console, program = ASKED.findall(PAGE)
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    with serving("-R", tmp_path / "registry") as port:
        address = f"http://127.0.0.1:{port}"
        lines = re.findall(r"^\$ (curl .+)\n(.+)\n", console, re.MULTILINE)
        assert len(lines) == 3
        for command, expected in lines:
            spelled = command.replace("http://127.0.0.1:8080", address).split()
            printed = subprocess.run(spelled, capture_output=True, text=True, check=True).stdout
            assert agrees(expected, printed), (command, printed)
        folder = namespace["fetch"](address, "gloss@prod", tmp_path / "fetched")
    assert files(folder) == files(export.path)


@pytest.mark.parametrize("arguments", re.findall(r"args: \[((?:sync|serve), .*)\]", PAGE))
def test_the_examples_for_kubernetes_are_command_lines(arguments: str) -> None:
    verb, *rest = arguments.split(", ")
    commands()[verb].make_context(verb, rest)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--host", "0.0.0.0"), 7, "--token-file"),
        (("--host", "192.0.2.1", "--token-file", "token"), 2, "--host"),
        (("--port", "{port}"), 2, "--port"),
        (("--cache-gb", "0"), 2, "--cache-gb"),
        (("--alias", "v1"), 2, "alias"),
        (("--target", "vlm"), 2, "peft, vllm"),
        (("--token-file", "nowhere"), 3, "nowhere"),
        (("-R", "nowhere"), 3, "nowhere"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    sr.Registry.open(tmp_path / "share-registry", mode="c").close()
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        spelled = [argument.replace("{port}", port) for argument in arguments]
        assert main(["serve", *spelled]) == code
    assert said in capsys.readouterr().err


def test_without_the_extra_it_is_said_how_to_get_it() -> None:
    script = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from share_registry.cli.main import main; sys.exit(main(['serve']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert ran.returncode == 7
    assert ran.stderr == (
        "error: uvicorn is not installed, expected it to serve.\n"
        "hint: pip install 'share-registry[serve]'\n"
    )
