"""What programs ask: documents as `--json` prints them, their description, numbers to monitor."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any, Final

import pytest
from starlette.testclient import TestClient

from share_registry.cli.main import main
from share_registry.outside.files import Outside
from tests.cli.evil import has_driver
from tests.cli.tiny import SPACE
from tests.serving.http_clients import WAIT_S, Recorder, download, resolve
from tests.ui.looking import damage_last_record, looking_at

# anyio's
SERVER_THREADS: Final = 40
# By then no further request asks for the registry
SETTLED_S: Final = 0.5
SAME = {
    "/v1/spaces": ["spaces"],
    f"/v1/tasks?space={SPACE}": ["ls"],
    "/v1/tasks?label=team%3D*&name=c*&sort=-acc&limit=1": [
        *("ls", "--label", "team=*", "--name", "c*", "--sort", "-acc", "--limit", "1"),
    ],
    "/v1/tasks?all_versions=true&where=acc>0.3": ["ls", "--all-versions", "--where", "acc>0.3"],
    f"/v1/log?space={SPACE}&limit=1000": ["-s", SPACE, "log", "--limit", "0"],
    "/v1/log?task=cola&kind=absorb&limit=1": [
        "log",
        "--task",
        "cola",
        "--kind",
        "absorb",
        "--limit",
        "1",
    ],
    "/v1/aliases?task=cola": ["aliases", "--task", "cola"],
    "/v1/alias-history?task=cola&alias=prod": ["alias-history", "cola", "prod"],
    "/v1/tags": ["tags"],
    f"/v1/show/{SPACE}/cola@v2": ["show", f"{SPACE}/cola@v2"],
    "/v1/show/cola@prod": ["show", "cola@prod"],
    f"/v1/show/{SPACE}/@c3": ["show", f"{SPACE}/@c3"],
    "/v1/lineage/sst2": ["lineage", "sst2"],
    "/v1/diff?a=cola@v1&b=cola@v2": ["diff", "cola@v1", "cola@v2"],
    f"/v1/retention?space={SPACE}&metric=acc": ["-s", SPACE, "retention", "--metric", "acc"],
    "/v1/changes?since=2000-01-01": ["changes", "--since", "2000-01-01", "--no-compare"],
    "/v1/lint/cola@v2?target=vllm": ["lint", "cola@v2", "--target", "vllm"],
    "/v1/verify?level=quick": ["verify", "--level", "quick"],
}


@pytest.mark.parametrize("path", sorted(SAME))
def test_a_document_is_what_the_command_line_prints(
    pages: TestClient, story: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    assert main(["-R", str(story), "--json", *SAME[path]]) == 0
    answer = pages.get(path)
    assert answer.status_code == 200
    assert answer.json() == json.loads(capsys.readouterr().out)
    assert not has_driver(answer.text)


def test_every_document_is_described_and_compared(pages: TestClient) -> None:
    described = pages.get("/openapi.json").json()
    compared = {"/".join(path.partition("?")[0].split("/")[:3]) for path in SAME}
    assert {path.partition("/{")[0] for path in described["paths"]} == compared
    assert {*described["paths"]["/v1/tasks"]} == {"get"}
    schema = described["components"]["schemas"]["Task"]
    task = pages.get("/v1/tasks").json()[0]
    assert {*schema["properties"]} == {*task}


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/v1/tasks?limit=0", 400, "InvalidInputError"),
        ("/v1/tasks?limit=x", 400, "InvalidInputError"),
        ("/v1/tasks?label=team", 400, "InvalidInputError"),
        ("/v1/diff?a=cola", 400, "InvalidInputError"),
        ("/v1/tasks?space=nowhere", 404, "NotFoundError"),
        ("/v1/show/colla", 404, "NotFoundError"),
        ("/v1/verify?level=deep", 400, "InvalidInputError"),
        ("/v1/nothing", 404, "NotFoundError"),
    ],
)
def test_what_cannot_be_answered_is_said_as_the_command_line_does(
    pages: TestClient, path: str, status: int, error: str
) -> None:
    answer = pages.get(path)
    said = answer.json()
    assert (answer.status_code, said["error"]) == (status, error)
    assert said.keys() == {"error", "message", "hint", "exit_code"}
    assert said["hint"]


def test_what_serve_answers_is_answered_too(pages: TestClient) -> None:
    assert [model["root"] for model in pages.get("/v1/models").json()["data"]] == [
        f"{SPACE}/cola@v2"
    ]
    version = pages.get("/v1/resolve/cola@prod").json()
    for file in version["files"]:
        answer = pages.get(file["url"])
        assert (answer.status_code, len(answer.content)) == (200, file["size"])
        assert answer.headers["content-type"] == "application/octet-stream"
        assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize("path", ["/", "/v1/tasks", "/v1/spaces", "/metrics"])
def test_downloads_wait_for_no_page_document_or_number(
    story: Path, tmp_path: Path, path: str
) -> None:
    system = Recorder()
    cache = tmp_path / "cache"
    with (
        looking_at(story, cache=cache, outside=Outside(system=system)) as client,
        ThreadPoolExecutor(SERVER_THREADS + 2) as pool,
    ):
        document = resolve(client, "cola@prod")
        system.may_open.clear()
        system.waiting = Semaphore(0)
        asking = [pool.submit(client.get, path) for _ in range(SERVER_THREADS + 1)]
        # until all threads wait that there are for this
        while system.waiting.acquire(timeout=SETTLED_S):
            pass
        prompt = pool.submit(download, client, document)
        try:
            assert len(prompt.result(WAIT_S / 2)) == len(document["files"])
            assert not any(each.done() for each in asking)
        finally:
            system.may_open.set()
        assert {each.result(WAIT_S).status_code for each in asking} == {200}


def read_metrics(text: str) -> dict[str, float]:
    """Return samples by name and labels; every line is as the text format has it."""
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) share_registry_\w+ .+", line), line
            continue
        sample = re.fullmatch(
            r'(share_registry_\w+(?:\{\w+="[^"\\\n]*"(?:,\w+="[^"\\\n]*")*\})?) (\S+)', line
        )
        assert sample, line
        samples[sample[1]] = float(sample[2])
    return samples


def test_numbers_to_monitor_are_those_of_the_registry_and_of_the_requests(story: Path) -> None:
    with looking_at(story) as client:
        for path in (
            "/",
            f"/spaces/{SPACE}",
            "/spaces/nowhere",
            "/tasks/a/b",
            '/x"y',
            "/v1/spaces",
        ):
            client.get(path)
        client.post("/")
        answer = client.get("/metrics")
        spaces: list[dict[str, Any]] = client.get("/v1/spaces").json()
        versions = len(client.get("/v1/tasks?all_versions=true&limit=1000").json())
    samples = read_metrics(answer.text)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert samples["share_registry_up"] == 1
    assert samples["share_registry_spaces"] == len(spaces) == 2
    for space in spaces:
        label = f'{{space="{space["name"]}"}}'
        assert samples[f"share_registry_tasks{label}"] == space["tasks"]
        assert samples[f"share_registry_commits{label}"] == space["commits"]
        assert samples[f"share_registry_added_bytes{label}"] == space["bytes_added"]
    # those of a dropped task too
    assert samples[f'share_registry_versions{{space="{SPACE}"}}'] > versions
    counted = {name: value for name, value in samples.items() if "_requests_total" in name}
    assert counted == {
        'share_registry_requests_total{route="/",status="200"}': 1,
        'share_registry_requests_total{route="/",status="405"}': 1,
        'share_registry_requests_total{route="/spaces/{space}",status="200"}': 1,
        'share_registry_requests_total{route="/spaces/{space}",status="404"}': 1,
        'share_registry_requests_total{route="/tasks/{space}/{task}",status="404"}': 1,
        'share_registry_requests_total{route="/v1/spaces",status="200"}': 1,
        'share_registry_requests_total{route="other",status="404"}': 1,
    }
    assert samples['share_registry_request_seconds_count{route="/"}'] == 2
    assert samples['share_registry_request_seconds_bucket{route="/",le="+Inf"}'] == 2


def test_a_damaged_space_takes_no_numbers_of_others_away(story: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(story, tmp_path / "registry"))
    damage_last_record(place, "other")
    with looking_at(place) as client:
        samples = read_metrics(client.get("/metrics").text)
    assert (samples["share_registry_up"], samples["share_registry_spaces"]) == (1, 2)
    assert {name: value for name, value in samples.items() if "_space_up" in name} == {
        'share_registry_space_up{space="other"}': 0,
        f'share_registry_space_up{{space="{SPACE}"}}': 1,
    }
    assert samples[f'share_registry_tasks{{space="{SPACE}"}}'] > 0
    assert [name for name in samples if 'space="other"' in name] == [
        'share_registry_space_up{space="other"}'
    ]


def test_numbers_to_monitor_are_sent_where_the_registry_cannot_be_read(
    story: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(story, tmp_path / "registry"))
    with looking_at(place) as client:
        client.get("/healthz")
        shutil.rmtree(place)
        answer = client.get("/metrics")
    samples = read_metrics(answer.text)
    assert (answer.status_code, samples["share_registry_up"]) == (200, 0)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert samples['share_registry_requests_total{route="/healthz",status="200"}'] == 1
    assert not any("_spaces" in name for name in samples)
