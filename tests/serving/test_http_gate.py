"""Whom `serve` lets in, and what it refuses to look at."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.http.gate import check_token, is_loopback
from share_registry.outside.files import Outside
from tests.registry.plain import files
from tests.serving.http_clients import MODEL_FILE, Recorder, client_of, resolve, url_of

TOKEN = "0123456789abcdef"
PATHS = ("/", "/healthz", "/v1/models", "/v1/resolve/cola@v1", "/v1/adapters/a/b", "/nothing")


@pytest.fixture(scope="module")
def recorded(
    http_registry: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TestClient, Recorder]]:
    """Another, with what it opens."""
    system = Recorder()
    with ExitStack() as stack:
        cache = tmp_path_factory.mktemp("recorded")
        yield client_of(stack, http_registry, cache, outside=Outside(system=system)), system


def test_nothing_is_written_to_the_registry_whatever_is_asked(
    stack: ExitStack, http_place: Path, tmp_path: Path
) -> None:
    before = files(http_place)
    client = client_of(stack, http_place, tmp_path / "cache")
    document = resolve(client, "cola@prod")
    paths = [*PATHS, url_of(document)]
    for path in paths:
        for method in ("GET", "HEAD"):
            assert client.request(method, path).status_code in (200, 404)
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "COPY"):
            answer = client.request(method, path, content=b"x" if method == "POST" else None)
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    stack.close()
    assert files(http_place) == before


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        *((f"Bearer {TOKEN}x", 401), (f"Bearer {TOKEN[:-1]}", 401), ("Bearer", 401)),
        *((f"Basic {TOKEN}", 401), (TOKEN, 401), ("", 401), (None, 401)),
    ],
)
def test_a_token_lets_in(
    stack: ExitStack, http_registry: Path, tmp_path: Path, sent: str | None, status: int
) -> None:
    client = client_of(stack, http_registry, tmp_path / "cache", token=f"{TOKEN}\n")
    headers = {} if sent is None else {"Authorization": sent}
    answer = client.get("/v1/models", headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert client.get("/healthz").json() == {"status": "ok"}
    # nothing is told without it, not even what is there
    if status == 401:
        assert {client.get(path, headers=headers).status_code for path in PATHS} == {200, 401}


@pytest.mark.parametrize(
    ("host", "sent", "status"),
    [
        *(("127.0.0.1", sent, 200) for sent in ("127.0.0.1", "localhost:8080", "[::1]:80")),
        *(("127.0.0.1", sent, 421) for sent in ("evil.example", "127.0.0.1.evil.example", "")),
        *(("127.0.0.1", sent, 421) for sent in ("evil.example:8080", "0.0.0.0", "[::2]")),
        *(("10.1.2.3", sent, 200) for sent in ("10.1.2.3:8080", "LOCALHOST")),
        ("10.1.2.3", "10.1.2.4", 421),
        *(("0.0.0.0", sent, 200) for sent in ("10.1.2.3:8080", "registry.example")),
    ],
)
def test_a_host_that_is_not_ours_is_refused(
    stack: ExitStack, http_registry: Path, tmp_path: Path, host: str, sent: str, status: int
) -> None:
    client = client_of(stack, http_registry, tmp_path / "cache", host=host, token=TOKEN)
    headers = {"Host": sent, "Authorization": f"Bearer {TOKEN}"}
    assert client.get("/v1/models", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example", False)),
    ],
)
def test_other_machines_are_let_in_with_a_token_alone(host: str, local: bool) -> None:
    assert is_loopback(host) == local
    assert check_token(f" {TOKEN}\n", host=host) == TOKEN
    if local:
        assert check_token(None, host=host) is None
    else:
        with pytest.raises(RefusedError, match="no token"):
            check_token(None, host=host)


@pytest.mark.parametrize("token", ["", "short", "sixteen letters!", "ä" * 16, "a\0" * 16])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    with pytest.raises(InvalidInputError, match="token"):
        check_token(token, host="127.0.0.1")


def test_a_token_is_read_from_a_secret_that_is_mounted_or_from_the_environment(
    stack: ExitStack, http_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "token").write_text(TOKEN)
    (tmp_path / "token").symlink_to(tmp_path / "..data" / "token")
    first = client_of(stack, http_registry, None, token_file=tmp_path / "token")
    monkeypatch.setenv("SHARE_REGISTRY_SERVE_TOKEN", TOKEN)
    for client in (first, client_of(stack, http_registry, None)):
        assert client.get("/v1/models").status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/v1/models", headers=headers).status_code == 200


HOSTILE = [
    *("..", "../..", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "cola@v1/..", "/etc"),
    *("cola@v1%00", "%00", "cola@%E2%80%AEv1", "%FF@v1", "a" * 10_000, "a@b@c", "c%0d%0aX: y@v1"),
    *("cola@v1%0a", "~1", "@", "%ED%B2%80@v1", "cola@" + "9" * 300, "{}@v1"),
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "path", ["/v1/resolve/{}", "/v1/adapters/{}/" + MODEL_FILE, "/v1/adapters/{name}/{}"]
)
def test_hostile_names_are_refused_and_open_no_file(
    recorded: tuple[TestClient, Recorder], path: str, name: str
) -> None:
    client, system = recorded
    good = resolve(client, "cola@v1")["name"]
    system.opened.clear()
    answer = client.get(path.replace("{name}", good).replace("{}", name))
    assert answer.status_code in (400, 404, 414)
    assert answer.json().keys() == {"error", "message", "hint", "exit_code"}
    assert answer.text.isprintable()
    assert all(re.fullmatch(r"[\x20-\x7e]*", value) for value in answer.headers.values())
    assert system.opened == []


def test_a_long_path_is_refused_and_no_other_is_led_to(client: TestClient) -> None:
    start = "/v1/resolve/"
    assert client.get(start + "a" * (1024 - len(start))).status_code == 400
    assert client.get(start + "a" * (1025 - len(start))).status_code == 414
    assert client.get("/v1/models/", follow_redirects=False).status_code == 404
