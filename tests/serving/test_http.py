"""What `serve` answers, asked in this process."""

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
from starlette.testclient import TestClient

import share_registry as sr
from share_registry.catalog.queries.resolution import version_of
from share_registry.format.canonical import sha256
from share_registry.http.answers import JsonAnswer
from share_registry.http.application import Service, application
from share_registry.http.releases import Releases
from share_registry.outside.files import Outside
from share_registry.registry.checkout.version_export import ExportOptions
from share_registry.serving.adapter_cache import AdapterCache
from share_registry.serving.served_adapters import ServedAdapters, ServingPlaces
from tests.cli.tiny import BASE, SPACE, write_adapter
from tests.registry.plain import files
from tests.serving.http_clients import (
    ADDRESS,
    ATTACHED,
    MODEL_FILE,
    WAIT_S,
    Recorder,
    client_of,
    download,
    resolve,
    size_of,
    url_of,
)
from tests.ui.looking import damage_last_record


def test_models_are_what_is_behind_the_alias(client: TestClient, http_registry: Path) -> None:
    answer = client.get("/v1/models").json()
    assert (answer["object"], answer["unreadable"]) == ("list", [])
    with sr.Registry.open(http_registry, mode="r") as registry:
        times = {task: registry.show(f"{task}@v1").time for task in ("cola", "sst2")}
    assert answer["data"] == [
        {
            "id": f"{SPACE}/{task}@prod",
            "object": "model",
            "created": int(times[task].timestamp()),
            "owned_by": SPACE,
            "root": f"{SPACE}/{task}@v1",
            "parent": BASE,
            "tensors": sha256(download(client, resolve(client, f"{task}@v1"))[MODEL_FILE]),
            "url": f"/v1/resolve/{SPACE}/{task}@v1",
        }
        for task in ("cola", "sst2")
    ]


def test_an_alias_that_no_task_has_lists_nothing_and_is_said_at_the_start(
    stack: ExitStack, http_registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client_of(stack, http_registry, None)
    assert capsys.readouterr().out == ""
    client = client_of(stack, http_registry, None, alias="canary")
    assert "no task of any space has the alias 'canary'" in capsys.readouterr().out
    assert client.get("/v1/models").json()["data"] == []


@pytest.mark.parametrize(
    "ref", ["cola@v1", "cola@prod", f"{SPACE}/cola@v1", f"{SPACE}/cola@prod", "cola@latest~1"]
)
def test_a_version_is_downloaded_as_export_writes_it(
    client: TestClient, http_registry: Path, tmp_path: Path, ref: str
) -> None:
    document = resolve(client, ref)
    with sr.Registry.open(http_registry, mode="r") as registry:
        export = registry.export("cola@v1", tmp_path)
    assert (document["ref"], document["digest"]) == (f"{SPACE}/cola@v1", export.digest)
    assert document["name"] == f"{SPACE}--cola--v1-{export.digest[:12]}"
    assert download(client, document) == files(export.path)


@pytest.mark.parametrize(
    "options", [{"profile": "portable"}, {"base_model": "/models/tiny"}, {"target": "openvino"}]
)
def test_the_names_are_those_of_sync(
    stack: ExitStack, http_registry: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    client = client_of(stack, http_registry, tmp_path / "cache", **options)
    with sr.Registry.open(http_registry, mode="r") as registry:
        task = registry.sync(tmp_path / "served", **options).tasks[0]
    assert task.name is not None
    for name, content in files(tmp_path / "served" / task.name).items():
        assert client.get(f"/v1/adapters/{task.name}/{name}").content == content
    assert resolve(client, task.ref)["name"] == task.name


def test_what_the_target_misreads_is_not_sent(stack: ExitStack, http_registry: Path) -> None:
    client = client_of(stack, http_registry, None, target="openvino", profile="native")
    answer = client.get("/v1/resolve/cola@v1")
    assert answer.status_code == 422
    assert "leaves out the scale" in answer.json()["message"]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, None),
        ("bytes=-5", -5, None),
        ("bytes=10-99999999", 10, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_a_range_is_that_part_of_the_file(
    client: TestClient, asked: str, start: int, end: int | None
) -> None:
    url = url_of(resolve(client, "cola@v1"))
    whole = client.get(url).content
    answer = client.get(url, headers={"Range": asked})
    first = range(len(whole))[start]
    last = len(whole) - 1 if end is None else end - 1
    assert (answer.status_code, answer.content) == (206, whole[start:end])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(whole)}"
    assert answer.headers["content-length"] == str(last - first + 1)


def test_several_ranges_are_parts_of_one_answer(client: TestClient) -> None:
    url = url_of(resolve(client, "cola@v1"))
    whole = client.get(url).content
    answer = client.get(url, headers={"Range": "bytes=0-9,20-29"})
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    parts = answer.content.split(b"--" + boundary)[1:-1]
    bodies = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]
    assert (answer.status_code, bodies) == (206, [whole[:10], whole[20:30]])


@pytest.mark.parametrize(
    ("asked", "status"), [("bytes=99999999-", 416), ("bytes=9-3", 400), ("lines=1-2", 400)]
)
def test_a_range_that_is_not_there_is_refused(client: TestClient, asked: str, status: int) -> None:
    url = url_of(resolve(client, "cola@v1"))
    size = client.head(url).headers["content-length"]
    answer = client.get(url, headers={"Range": asked})
    assert (answer.status_code, answer.json()["error"]) == (status, "InvalidInputError")
    assert answer.headers.get("content-range") == (f"bytes */{size}" if status == 416 else None)


def test_a_range_of_other_bytes_is_the_whole_file(client: TestClient) -> None:
    url = url_of(resolve(client, "cola@v1"))
    tag = client.head(url).headers["etag"]
    for condition, status in ((tag, 206), ('"other"', 200)):
        headers = {"Range": "bytes=0-1", "If-Range": condition}
        assert client.get(url, headers=headers).status_code == status


def test_the_headers_say_what_the_file_is_and_that_it_stays(client: TestClient) -> None:
    document = resolve(client, "cola@v1")
    (file,) = [each for each in document["files"] if each["path"] == MODEL_FILE]
    got, head = client.get(file["url"]), client.head(file["url"])
    assert head.content == b""
    assert dict(head.headers) == dict(got.headers)
    assert got.headers["etag"] == f'"{file["sha256"]}"'
    assert got.headers["content-length"] == str(file["size"])
    assert got.headers["cache-control"] == "max-age=31536000, immutable"
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert client.get("/v1/models").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("{}", 304),
        ("W/{}", 304),
        ('"other", {}', 304),
        ("*", 304),
        ('"other"', 200),
        ("", 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_a_client_has_is_not_sent_again(
    client: TestClient, method: str, condition: str, status: int
) -> None:
    url = url_of(resolve(client, "cola@v1"))
    tag = client.head(url).headers["etag"]
    headers = {"If-None-Match": condition.format(tag)}
    answer = client.request(method, url, headers=headers)
    assert (answer.status_code, answer.headers["etag"]) == (status, tag)
    assert answer.content == b"" or (method, status) == ("GET", 200)


def test_an_alias_that_moved_is_followed_and_the_old_name_stays(
    stack: ExitStack, http_place: Path, tmp_path: Path
) -> None:
    client = client_of(stack, http_place, tmp_path / "cache")
    before = resolve(client, "cola@prod")
    contents = download(client, before)
    with sr.Registry.open(http_place) as registry:
        registry.set_alias("cola@v2", "prod")
    after = resolve(client, "cola@prod")
    assert [each["ref"] for each in (before, after)] == [f"{SPACE}/cola@v{n}" for n in (1, 2)]
    roots = [model["root"] for model in client.get("/v1/models").json()["data"]]
    assert roots == [f"{SPACE}/cola@v2", f"{SPACE}/sst2@v1"]
    # in another process too, which has not seen it before
    shutil.rmtree(tmp_path / "cache")
    again = client_of(stack, http_place, tmp_path / "cache")
    assert download(again, before) == contents
    assert download(client, before) == contents


@pytest.mark.parametrize("damage", ["rotten", "adapter gone", "attachment gone"])
def test_a_damaged_object_fails_its_version_alone(
    stack: ExitStack,
    http_place: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    with sr.Registry.open(http_place) as registry, registry.context.reading() as session:
        row = version_of(session, "cola@v1")
    digest = sha256(ATTACHED) if damage == "attachment gone" else row.adapter_digest
    (stored,) = [path for path in http_place.rglob("*") if path.name.startswith(digest[2:])]
    stored.chmod(0o600)
    if damage == "rotten":
        stored.write_bytes(stored.read_bytes()[:-1] + b"\0")
    else:
        stored.unlink()
    client = client_of(stack, http_place, tmp_path / "cache")
    answer = client.get("/v1/resolve/cola@v1")
    assert (answer.status_code, answer.json()["error"]) == (500, "IntegrityError")
    assert "/v1/resolve/cola@v1" in answer.json()["message"]
    assert str(tmp_path) not in answer.text
    assert "cola@v1 is not served" in caplog.text
    assert download(client, resolve(client, "sst2@v1"))
    assert len(client.get("/v1/models").json()["data"]) == 2


def test_a_damaged_file_of_the_cache_is_put_right_before_it_is_sent(
    stack: ExitStack, http_registry: Path, tmp_path: Path
) -> None:
    client = client_of(stack, http_registry, tmp_path / "cache")
    document = resolve(client, "cola@v1")
    contents = download(client, document)
    stored = tmp_path / "cache" / document["name"] / MODEL_FILE
    stored.write_bytes(bytes(len(contents[MODEL_FILE])))
    assert download(client, document) == contents
    shutil.rmtree(stored.parent)
    assert download(client, document) == contents


def test_what_was_read_is_not_hashed_again(
    stack: ExitStack, http_registry: Path, tmp_path: Path
) -> None:
    system = Recorder()
    client = client_of(stack, http_registry, tmp_path / "cache", outside=Outside(system=system))
    document = resolve(client, "cola@v1")
    system.opened.clear()
    assert len(download(client, document)) == len(document["files"])
    assert MODEL_FILE not in system.opened


def test_a_fault_of_the_program_is_told_without_a_traceback(
    stack: ExitStack, http_registry: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    system = Recorder()
    client = client_of(stack, http_registry, tmp_path / "cache", outside=Outside(system=system))
    system.is_broken = True
    answer = client.get("/v1/resolve/sst2@v1")
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "ShareRegistryError",
        "message": "/v1/resolve/sst2@v1 cannot be served.",
        "hint": "The log of the server has the reason.",
        "exit_code": 1,
    }
    assert "secret of" in caplog.text
    system.is_broken = False
    assert resolve(client, "sst2@v1")


def test_others_are_answered_while_one_waits_for_the_registry(
    stack: ExitStack, http_registry: Path, tmp_path: Path
) -> None:
    system = Recorder()
    client = client_of(stack, http_registry, tmp_path / "cache", outside=Outside(system=system))
    document = resolve(client, "cola@v1")
    system.may_open.clear()
    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(client.get, "/v1/resolve/sst2@v1") for _ in range(8)]
        prompt = pool.submit(download, client, document)
        health = pool.submit(client.get, "/healthz")
        try:
            assert prompt.result(WAIT_S / 2)
            assert health.result(WAIT_S / 2).status_code == 200
            assert not any(each.done() for each in waiting)
        finally:
            system.may_open.set()
        assert {each.result(WAIT_S).status_code for each in waiting} == {200}


def test_an_alias_of_a_damaged_record_is_named(
    stack: ExitStack, http_place: Path, tmp_path: Path
) -> None:
    record = next(
        path
        for path in sorted(http_place.glob(f"spaces/{SPACE}/log/**/*"))
        if path.is_file() and b'"sst2"' in path.read_bytes()
    )
    record.chmod(0o600)
    record.write_bytes(record.read_bytes().replace(b'"sst2"', b'"sst3"'))
    answer = client_of(stack, http_place, tmp_path / "cache").get("/v1/models").json()
    assert answer["unreadable"] == [f"{SPACE}/sst2@prod"]
    assert [model["id"] for model in answer["data"]] == [f"{SPACE}/cola@prod"]


def test_a_damaged_space_takes_no_model_of_another_away(
    stack: ExitStack, http_place: Path, tmp_path: Path
) -> None:
    with sr.Registry.open(http_place) as registry:
        registry.create_space("other", base_model="org/other")
        adapter = write_adapter(tmp_path / "ner", seed=7, base="org/other")
        registry.commit(adapter, task="ner", space="other")
        registry.set_alias("other/ner", "prod")
        registry.tag("release", "other/@latest")
    damage_last_record(http_place, "other")
    answer = client_of(stack, http_place, tmp_path / "cache").get("/v1/models").json()
    assert answer["unreadable"] == ["other/ner@prod"]
    assert [model["id"] for model in answer["data"]] == [f"{SPACE}/cola@prod", f"{SPACE}/sst2@prod"]


def test_a_registry_that_is_out_of_reach_is_said_to_be(
    stack: ExitStack, http_place: Path, tmp_path: Path
) -> None:
    client = client_of(stack, http_place, tmp_path / "cache")
    document = resolve(client, "cola@v1")
    shutil.move(http_place, tmp_path / "away")
    answer = client.get("/v1/resolve/sst2@v1")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert str(tmp_path) not in answer.text
    # what is in the cache is served on
    assert download(client, document)
    shutil.move(tmp_path / "away", http_place)
    assert resolve(client, "sst2@v1")


@pytest.mark.parametrize(
    ("ref", "status"),
    [("nothing@v1", 404), ("cola@v9", 404), ("other/cola@v1", 404), ("@c1", 400)],
)
def test_what_is_not_there_is_not_found(client: TestClient, ref: str, status: int) -> None:
    answer = client.get(f"/v1/resolve/{ref}")
    assert answer.status_code == status
    assert answer.json()["hint"]


@pytest.mark.parametrize("name", [f"{SPACE}--cola--v1-{'0' * 12}", "other--cola--v1-" + "0" * 12])
def test_a_name_of_no_version_is_not_found(client: TestClient, name: str) -> None:
    assert client.get(f"/v1/adapters/{name}/{MODEL_FILE}").status_code == 404


def test_what_was_sent_is_held_by_nobody_and_makes_room(
    stack: ExitStack, client: TestClient, http_registry: Path, tmp_path: Path
) -> None:
    before = threading.enumerate()
    room_gb = 1.5 * size_of(resolve(client, "cola@v1")) / 1e9
    client = client_of(stack, http_registry, tmp_path / "cache", cache_gb=room_gb)
    first = resolve(client, "cola@v1")["name"]
    assert client.get("/v1/resolve/cola@v2").status_code == 503
    # asked for two minutes ago
    for mark in (tmp_path / "cache" / ".used").iterdir():
        os.utime(mark, (time.time() - 120,) * 2)
    second = resolve(client, "cola@v2")["name"]
    there = {path.name for path in (tmp_path / "cache").iterdir()} - {".used"}
    assert (first not in there, there) == (True, {second})
    started = {thread.name for thread in threading.enumerate() if thread not in before}
    assert "share-registry-cache" not in started


def test_nothing_in_an_answer_reorders_its_letters() -> None:
    assert JsonAnswer({"name": "a\u202e\ud800"}).body == b'{"name": "a\\u202e\\ud800"}'


def test_many_clients_of_a_small_cache_get_no_wrong_bytes(
    stack: ExitStack, client: TestClient, http_place: Path, tmp_path: Path
) -> None:
    with sr.Registry.open(http_place) as registry:
        for seed in range(10, 16):
            registry.commit(write_adapter(tmp_path / f"in{seed}", seed=seed), task=f"t{seed}")
    outside = Outside()
    # of three of eight
    room = int(3.5 * size_of(resolve(client, "cola@v1")))
    cache = AdapterCache(
        tmp_path / "cache", limit_bytes=room, keep_s=0.2, outside=outside, hold=False
    )
    places = ServingPlaces(registry=http_place, store=None, options=ExportOptions(), relabel=False)
    adapters = ServedAdapters(places, cache, outside)
    stack.callback(adapters.close)
    releases = Releases(adapters, cache, base_model=None, outside=outside)
    app = application(
        Service(adapters=adapters, releases=releases, alias="prod"), host="127.0.0.1", token=None
    )
    client = stack.enter_context(TestClient(app, base_url=ADDRESS))
    refs = ["cola@v1", "cola@v2", *(f"t{seed}@v1" for seed in range(10, 16))]
    served: set[str] = set()

    def ask(number: int) -> int:
        ref = Random(number).choice(refs)
        answer = client.get(f"/v1/resolve/{ref}")
        if answer.status_code == 200:
            (file,) = [each for each in answer.json()["files"] if each["path"] == MODEL_FILE]
            answer = client.get(file["url"])
            if answer.status_code == 200:
                assert sha256(answer.content) == file["sha256"]
                served.add(ref)
        return answer.status_code

    statuses: set[int] = set()
    # those for whom there was no room ask again
    for _ in range(20):
        with ThreadPoolExecutor(32) as pool:
            statuses |= {*pool.map(ask, range(64))}
        if served == set(refs):
            break
    assert served == set(refs)
    assert statuses <= {200, 503}
    total = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert total <= room
