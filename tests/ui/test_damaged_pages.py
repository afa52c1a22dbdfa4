"""Pages of a registry that is damaged in part, and of one space alone."""

import shutil
from pathlib import Path

import share_registry as sr
from share_registry.catalog.queries.resolution import version_of
from share_registry.catalog.tables import VersionRow
from tests.catalog.statements import counting_statements
from tests.cli.tiny import SPACE
from tests.ui.looking import Document, damage_last_record, looking_at


def test_a_task_whose_objects_are_damaged_is_shown_and_says_so(story: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(story, tmp_path / "registry"))
    with sr.Registry.open(place, mode="r") as registry, registry.context.reading() as session:
        digest = version_of(session, f"{SPACE}/cola@v2").adapter_digest
    path = place / "objects" / digest[:2] / digest[2:]
    path.chmod(0o600)
    path.write_bytes(b"rotten")
    with looking_at(place) as client:
        task = client.get(f"/tasks/{SPACE}/cola@v2")
        assert (task.status_code, digest[:8] in task.text) == (200, True)
        assert "4 versions" in Document(task.text).text
        spectra = client.get(f"/tasks/{SPACE}/cola@v2/spectra")
        assert spectra.status_code == 500
        assert f"object {digest}" in Document(spectra.text).text
        found = Document(client.get("/verify?level=data").text)
        assert {"OBJ-01", "damaged"} <= {*found.text.split()}
        assert f"/tasks/{SPACE}/cola@v2" in found.links


def test_a_damaged_space_costs_its_own_pages_alone(story: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(story, tmp_path / "registry"))
    damage_last_record(place, SPACE)
    with looking_at(place) as client:
        answer = client.get("/")
        first = Document(answer.text)
        assert answer.status_code == 200
        assert "newest state not known" in first.text
        assert f"of space {SPACE}" in first.text
        assert {"/spaces/other", f"/spaces/{SPACE}", "/commits/other/c1"} <= {*first.links}
        for path in (
            "/spaces/other",
            "/spaces/other/log",
            "/live",
            "/live?at=2999-01-01&space=other",
            "/changes?since=2000-01-01&space=other",
        ):
            assert client.get(path).status_code == 200, path
        for path in (f"/spaces/{SPACE}", "/log", "/changes"):
            refused = client.get(path)
            text = Document(refused.text).text
            assert (refused.status_code, f"of space {SPACE}" in text) == (500, True), path
            assert "rebuild --accept-loss" in text, path
        for path in ("", "/files", "/servers", "/spectra"):
            answer = client.get(f"/tasks/{SPACE}/cola@v1{path}")
            assert answer.status_code == 200, path
        pinned = Document(client.get(f"/tasks/{SPACE}/cola@v1").text).text
        assert "newest state of space" in pinned
        assert "Load it" in pinned
        assert client.get(f"/tasks/{SPACE}/cola@prod").status_code == 500
        said = client.get("/v1/spaces").json()
        assert (said["error"], f"of space {SPACE}" in said["message"]) == ("IntegrityError", True)


LISTING = (
    *("/", "/log", "/live", "/live?at=2999-01-01", "/changes?since=2000-01-01", "/metrics"),
    *("/v1/spaces", "/v1/tasks", "/v1/log", "/v1/aliases", "/v1/tags", "/v1/models"),
    *("/v1/changes?since=2000-01-01", "/diff", "/verify"),
)


def test_one_space_is_listed_alone_whatever_is_wrong_with_others(
    story: Path, tmp_path: Path
) -> None:
    with looking_at(story) as client:
        assert SPACE in client.get("/").text
    with looking_at(story, space="other") as client:
        assert "other" in client.get("/").text
        # that of the others is answered where it is asked for by name, as `serve` does
        for path in (f"/spaces/{SPACE}", f"/tasks/{SPACE}/cola", f"/v1/resolve/{SPACE}/cola@v1"):
            assert client.get(path).status_code == 200, path
    place = Path(shutil.copytree(story, tmp_path / "registry"))
    damage_last_record(place, SPACE)
    for registry in (story, place):
        with looking_at(registry, space="other") as client:
            for path in LISTING:
                answer = client.get(path)
                assert (answer.status_code, SPACE in answer.text) == (200, False), path


def test_tags_to_look_back_to_are_listed_without_those_of_a_damaged_space_or_a_count(
    story: Path, tmp_path: Path
) -> None:
    with looking_at(story) as client, counting_statements() as statements:
        links = Document(client.get("/live").text).links
    assert f"/live?at=rc&space={SPACE}" in links
    assert [text for text in statements if VersionRow.table.name in text] == []
    place = Path(shutil.copytree(story, tmp_path / "registry"))
    with sr.Registry.open(place) as registry:
        registry.space("other").tag("begin", "@c1")
    damage_last_record(place, "other")
    with looking_at(place) as client:
        assert [link for link in Document(client.get("/live").text).links if "?at" in link] == [
            f"/live?at=rc&space={SPACE}"
        ]


def test_what_is_said_of_damage_names_no_place_of_the_machine(story: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(story, tmp_path / "registry"))
    with sr.Registry.open(place, mode="r") as registry, registry.context.reading() as session:
        digest = version_of(session, f"{SPACE}/cola@v2").adapter_digest
    path = place / "objects" / digest[:2] / digest[2:]
    path.unlink()
    path.mkdir()
    with looking_at(place) as client:
        for asked in (
            f"/tasks/{SPACE}/cola@v2",
            f"/tasks/{SPACE}/cola@v2/spectra",
            f"/v1/show/{SPACE}/cola@v2",
            "/verify?level=data",
            "/v1/verify?level=data",
        ):
            text = client.get(asked).text
            assert str(tmp_path) not in text, asked
            assert digest[:8] in text or f"{digest[:2]}/{digest[2:8]}" in text, asked
