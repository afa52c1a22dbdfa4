"""Every page: it is there, harmless whatever it shows, and leads on to others."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import share_registry as sr
from share_registry.registry.audit.retention import retention
from share_registry.ui.safe_headers import POLICY
from share_registry.ui.views import computed
from share_registry.ui.views.page_table import PAGES
from tests.catalog.statements import counting_statements
from tests.cli.evil import has_driver
from tests.cli.tiny import SPACE, write_adapter
from tests.registry.plain import files
from tests.ui.looking import (
    NAME,
    QUOTED,
    Document,
    looking_at,
    walk,
)
from tests.ui.many import commit_copies

LOADING = {"script", "link", "img", "iframe", "object", "embed", "source", "video", "audio", "use"}
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def walked(pages: TestClient) -> dict[str, tuple[Any, Document]]:
    return walk(pages)


def test_every_page_is_reached_by_links_and_shown(
    walked: dict[str, tuple[Any, Document]],
) -> None:
    assert {path: answer.status_code for path, (answer, _) in walked.items()} == dict.fromkeys(
        walked, 200
    )
    patterns = [re.compile(re.sub(r"\{\w+\}", "[^/]+", pattern) + r"(\?.*)?") for pattern in PAGES]
    unreached = [p.pattern for p in patterns if not any(p.fullmatch(path) for path in walked)]
    assert unreached == []


def test_nothing_of_strangers_is_markup_or_drives_a_reader(
    walked: dict[str, tuple[Any, Document]],
) -> None:
    for path, (answer, page) in walked.items():
        if not page.elements:
            continue
        assert not has_driver(answer.text.replace("\n", "")), path
        assert page.scripts == "", path
        for tag, attributes in page.elements:
            assert "style" not in attributes, path
            assert not any(name.startswith("on") for name in attributes), (path, attributes)
            target = attributes.get("href") or attributes.get("src") or attributes.get("action")
            assert target is None or re.match(r"/(?!/)|#", target), (path, target)
            if tag in LOADING:
                assert str(target).startswith("/assets/"), (path, tag, target)
        assert {"b", "img"} & {tag for tag, _ in page.elements} == set()
        assert "49" not in page.text.replace("2.49", "").split(), path


def test_texts_of_strangers_are_shown_as_they_are(pages: TestClient) -> None:
    task = Document(pages.get(f"/tasks/{SPACE}/cola@v2").text)
    assert "<script>alert(1)</script>&`**[x](javascript:y)`=<script>" in task.text
    assert QUOTED in Document(pages.get("/spaces/other").text).text
    assert QUOTED in Document(pages.get(f"/tasks/{SPACE}/cola").text).text
    assert NAME in Document(pages.get(f"/spaces/{SPACE}").text).text
    asked = pages.get(f"/spaces/{SPACE}", params={"name": QUOTED})
    search = next(field for field in Document(asked.text).all("input") if field["name"] == "name")
    assert search["value"] == QUOTED


def test_every_answer_has_the_headers_that_keep_a_browser_safe(pages: TestClient) -> None:
    paths = ["/", "/nothing", "/v1/spaces", "/v1/nothing", "/metrics", "/healthz", "/openapi.json"]
    for path in [
        *paths,
        "/tasks/other/nothing",
        Document(pages.get("/").text).all("link")[0]["href"],
    ]:
        answer = pages.get(str(path))
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "set-cookie" not in answer.headers
    refused = pages.get("/", headers={"Host": "evil.example"})
    assert (refused.status_code, refused.headers["content-security-policy"]) == (421, POLICY)
    assert POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert POLICY.endswith("form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
    assert not {"unsafe", "*", "data:", "http"} & {*re.split(r"[ ';-]", POLICY)}


def test_no_page_says_where_the_registry_is_on_the_machine(
    walked: dict[str, tuple[Any, Document]], story: Path
) -> None:
    for path, (answer, page) in walked.items():
        shown = answer.text.replace(str(story.parent / "in"), "")
        assert str(story.parent) not in shown, path
        assert not page.elements or "registry" in page.text


def test_a_page_has_landmarks_headings_and_names(walked: dict[str, tuple[Any, Document]]) -> None:
    for path, (_, page) in walked.items():
        if not page.elements:
            continue
        tags = [tag for tag, _ in page.elements]
        assert tags.count("h1") == tags.count("main") == 1, path
        assert page.all("html")[0]["lang"] == "en"
        assert page.links[0] == "#main", path
        titles = [part for part in page.texts if part.strip()]
        assert titles[0].endswith("share-registry"), path
        assert all("scope" in head for head in page.all("th")), path
        for table in range(tags.count("table")):
            assert page.all("caption")[table]["id"], path
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), path


def test_what_is_not_there_is_said_with_what_to_do(pages: TestClient) -> None:
    for path, said in (
        ("/spaces/nowhere", "nowhere"),
        (f"/tasks/{SPACE}/colla", "cola"),
        (f"/tasks/{SPACE}/cola@v9", "v9"),
        (f"/commits/{SPACE}/c999", "c999"),
        ("/nothing", "nothing under this path"),
    ):
        answer = pages.get(path)
        page = Document(answer.text)
        assert (answer.status_code, said in page.text) == (404, True), path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for path in (f"/spaces/{SPACE}?where=acc>", f"/spaces/{SPACE}?label=x", "/tasks/a/b@c@d"):
        assert pages.get(path).status_code in (400, 404), path


def test_a_filter_that_is_none_replaces_the_list_that_is_fetched_anew(pages: TestClient) -> None:
    path = "/log?since=yesterday"
    assert pages.get(path).status_code == 400
    fetched = pages.get(path, headers={"HX-Request": "true"})
    assert fetched.status_code == 200
    results = fetched.text.partition('id="results"')[2]
    assert "yesterday" in results
    assert pages.get(f"/v1{path}", headers={"HX-Request": "true"}).status_code == 400


def test_only_what_reads_is_answered_and_nothing_is_written(story: Path) -> None:
    before = files(story)
    with looking_at(story) as client:
        paths = [*walk(client, most=2), "/v1/tasks", "/v1/diff?a=cola@v1&b=cola@v2", "/nothing"]
        for path in paths:
            answer, head = client.get(path), client.head(path)
            assert head.status_code == answer.status_code, path
            assert head.headers["content-type"] == answer.headers["content-type"]
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X"):
                refused = client.request(method, path, content=b"x=1")
                assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert files(story) == before


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"auth": ("anybody", TOKEN)}, 200),
        ({"auth": ("", TOKEN)}, 200),
        ({"headers": {"Authorization": f"Bearer {TOKEN}"}}, 200),
        ({"auth": (TOKEN, "")}, 401),
        ({"auth": ("anybody", TOKEN[:-1])}, 401),
        ({"headers": {"Authorization": f"Basic {TOKEN}"}}, 401),
        ({"headers": {"Authorization": "Basic ////"}}, 401),
        ({}, 401),
    ],
)
def test_a_browser_is_let_in_with_the_token_as_password(
    story: Path, tmp_path: Path, sent: dict[str, Any], status: int
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with looking_at(story, token_file=tmp_path / "token", host="0.0.0.0") as client:
        for path in ("/", "/v1/spaces", "/metrics", "/openapi.json", "/assets/none"):
            answer = client.get(path, **sent)
            assert answer.status_code == (
                404 if (status, path) == (200, "/assets/none") else status
            )
            if status == 401:
                assert answer.headers["www-authenticate"].startswith("Basic realm=")
        assert client.get("/healthz").status_code == 200


def test_files_of_pages_never_change_under_their_names(pages: TestClient) -> None:
    page = Document(pages.get("/").text)
    loaded = [
        str(each.get("src") or each.get("href")) for each in page.all("script") + page.all("link")
    ]
    assert len(loaded) == 4
    for path in loaded:
        answer = pages.get(path)
        assert re.fullmatch(r"/assets/[a-z.]+-[0-9a-f]{12}\.(js|css|svg)", path)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert len(answer.content) > 100
    assert pages.get("/assets/..%2fsite.py").status_code == 404
    assert pages.get("/").headers["cache-control"] == "private, no-cache"


NAMES = [f"t{number:03}" for number in range(120)]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space of 120 tasks, each with two versions, and one of two."""
    root = tmp_path_factory.mktemp("crowd")
    with sr.Registry.open(root / "registry") as registry:
        source = write_adapter(root / "in", seed=1)
        for space, names in (("many", NAMES), ("few", NAMES[:2])):
            registry.create_space(space)
            registry.commit(source, task="seed", space=space, allow_base_mismatch=True)
            said = {name: {"team": "a"} for name in names}, {name: {"acc": 0.5} for name in names}
            for version in (1, 2):
                ref = f"{space}/seed@v1"
                commit_copies(
                    registry, ref, names, version=version, labels=said[0], metrics=said[1]
                )
            registry.drop(f"{space}/seed")
    return root / "registry"


def test_a_page_of_tasks_takes_as_many_statements_for_many_as_for_few(crowd: Path) -> None:
    counts = []
    with looking_at(crowd) as client:
        for space, shown in (("few", 2), ("many", 50)):
            client.get(f"/spaces/{space}")
            with counting_statements() as statements:
                page = Document(client.get(f"/spaces/{space}").text)
            counts.append(len(statements))
            assert len(page.all("meter")) == shown
    assert counts[0] == counts[1] < 20


@pytest.mark.parametrize("query", ["", "sort=-acc", "sort=error", "at=2999-01-01", "label=team=a"])
def test_pages_of_tasks_follow_one_another(crowd: Path, query: str) -> None:
    listed: list[str] = []
    with looking_at(crowd) as client:
        path = f"/spaces/many?{query}"
        while path:
            page = Document(client.get(path).text)
            listed += tasks_of(page)
            path = "".join(str(a["href"]) for a in page.all("a") if a.get("rel") == "next")
    assert listed == NAMES


@pytest.mark.parametrize(("tasks", "commits"), [(0, 0), (-1, 0), (0, -1)])
def test_a_matrix_is_said_to_be_cut_only_where_it_is(
    story: Path, pages: TestClient, monkeypatch: pytest.MonkeyPatch, tasks: int, commits: int
) -> None:
    with sr.Registry.open(story, mode="r") as registry:
        space = registry.spaces()[0].name
        whole = retention(registry.context, space)
    most = len(whole.rows) + tasks, len(whole.commits) + commits
    monkeypatch.setattr(computed, "_MOST", most)
    shown = pages.get(f"/spaces/{space}/retention").text
    assert ("has all" in shown) == (tasks + commits < 0)


def test_tasks_are_found_by_part_of_their_name(crowd: Path) -> None:
    with looking_at(crowd) as client:
        assert tasks_of(Document(client.get("/spaces/many?name=11").text)) == [
            *("t011", *(f"t11{digit}" for digit in range(10))),
        ]
        assert tasks_of(Document(client.get("/spaces/many?name=t*11").text)) == ["t011", "t111"]
        assert tasks_of(Document(client.get("/spaces/many?where=acc>0.5").text)) == []


def tasks_of(page: Document) -> list[str]:
    """Return the tasks that a page lists, without the links to versions of them."""
    paths = [link for link in page.links if link.startswith("/tasks/")]
    return [path.rpartition("/")[2].partition("@")[0] for path in paths]


def test_a_version_that_is_gone_or_dropped_is_still_shown(pages: TestClient) -> None:
    expired = Document(pages.get(f"/tasks/{SPACE}/qnli@v1").text)
    assert "cannot be read any more" in expired.text
    dropped = Document(pages.get(f"/tasks/{SPACE}/mrpc").text)
    assert "This task is dropped" in dropped.text
    assert "mrpc v1" in dropped.text
    # by an older name
    assert pages.get(f"/tasks/{SPACE}/first@v2").status_code == 200


@pytest.mark.parametrize(
    ("site", "mode", "dest", "status"),
    [
        ("none", "navigate", "document", 200),
        ("same-origin", "cors", "empty", 200),
        ("same-origin", "navigate", "iframe", 200),
        ("cross-site", "navigate", "document", 200),
        ("cross-site", "navigate", "iframe", 403),
        ("same-site", "navigate", "frame", 403),
        ("cross-site", "navigate", "object", 403),
        ("cross-site", "navigate", "", 403),
        ("cross-site", "no-cors", "image", 403),
        ("cross-site", "no-cors", "document", 403),
        ("same-site", "cors", "empty", 403),
        ("cross-site", "", "", 403),
    ],
)
def test_pages_of_other_sites_may_link_and_not_load(
    pages: TestClient, site: str, mode: str, dest: str, status: int
) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    assert pages.get("/verify?level=quick", headers=headers).status_code == status


def test_a_page_of_a_commit_reads_no_adapter(
    pages: TestClient, story: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(story, tmp_path / "registry"))
    for path in (place / "objects").glob("*/*"):
        path.chmod(0o600)
        path.write_bytes(b"rotten")
    commit = f"/commits/{SPACE}/c4"
    with looking_at(place) as client:
        assert "error of budget" in pages.get(commit).text
        assert client.get(commit).text == pages.get(commit).text


def test_a_page_of_a_commit_of_many_versions_lists_some(
    crowd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("share_registry.ui.views.tasks_and_commits._REFS", 20)
    with looking_at(crowd) as client:
        log = client.get("/v1/log?limit=1000").json()
        commit = max(log, key=lambda each: len(each["refs"]))
        page = Document(client.get(f"/commits/{commit['space']}/c{commit['number']}").text)
    assert sum("/tasks/" in link for link in page.links) == 20
    assert f"And {len(commit['refs']) - 20} versions more" in page.text


def test_pages_are_the_same_from_postgresql(
    pages: TestClient, story: Path, tmp_path: Path, postgresql_url: str
) -> None:
    place = Path(shutil.copytree(story, tmp_path / "registry"))
    sr.Registry.open(postgresql_url, store=place, mode="c").close()
    with looking_at(postgresql_url, store=place) as client:
        for path in ("/", f"/spaces/{SPACE}", f"/spaces/{SPACE}?sort=-acc", f"/tasks/{SPACE}/cola"):
            # the bar on top says where the registry is
            shown, expected = (
                each.get(path).text.partition('<main id="main"')[2] for each in (client, pages)
            )
            assert shown == expected, path
        assert 'share_registry_versions{space="other"} 0' in client.get("/metrics").text
