"""A report is one file that asks for nothing, says all of it, and replaces nothing unasked."""

import re
import shutil
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

import share_registry as sr
from share_registry.cli.main import main
from share_registry.registry import review
from share_registry.values.report_page import ReportPage
from tests.cli.tiny import SPACE, write_adapter
from tests.look.document import Document
from tests.look.samples import EVIL, NOT_LOOKS

TEXTS: Final = EVIL.replace("\x1b", "")
"""What a registry takes as a message: without control characters."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sr.Registry]:
    """Two versions of a task, a merge, a dropped task, a restored version, evil texts."""
    folder = tmp_path_factory.mktemp("report")
    with sr.Registry.open(folder / "registry") as registry:
        for seed, task in enumerate(("cola", "sst2", "gone"), start=1):
            registry.commit(
                write_adapter(folder / task, seed=seed),
                task=task,
                message=TEXTS,
                author=TEXTS,
                labels={"team": TEXTS},
                metrics={"acc": 0.5},
            )
        registry.commit(write_adapter(folder / "cola-2", seed=9, near=1), task="cola")
        registry.set_alias("cola@v1", "prod", reason=TEXTS)
        registry.set_alias("cola@v2", "prod")
        registry.merge({"cola@v2": 0.5, "sst2": 0.5}, task="both", budget=0.1)
        registry.drop("gone")
        registry.restore("cola@v1")
        registry.tag("release", "cola@v2")
        yield registry


SUBJECTS: Final = {
    "a dropped task": "gone@v1",
    "a merge": "both",
    "a restored version": "cola@v3",
    "a space": None,
    "a version": "cola@prod",
}


@pytest.fixture(scope="module")
def documents(registry: sr.Registry) -> dict[str, Document]:
    return {name: Document(registry.report(ref).content) for name, ref in SUBJECTS.items()}


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_a_report_runs_nothing_and_asks_for_nothing(
    subject: str, documents: dict[str, Document]
) -> None:
    document = documents[subject]
    tags = {tag for tag, _ in document.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not document.values("style")
    assert not [name for _, names in document.elements for name in names if name.startswith("on")]
    assert all(address.startswith("#") for address in document.values("href"))
    assert "url(" not in document.style
    assert "@import" not in document.style
    (rules,) = (
        attributes["content"]
        for _, attributes in document.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    digest = b64encode(sha256(document.style.encode()).digest()).decode()
    assert rules.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_its_contents_lead_to_its_parts_and_headings_go_down_one_by_one(
    subject: str, documents: dict[str, Document]
) -> None:
    document = documents[subject]
    anchors = document.values("id")
    assert len({*anchors}) == len(anchors)
    assert [address.removeprefix("#") for address in document.values("href")] == anchors
    headings = [tag for tag, _ in document.elements if re.fullmatch("h[1-6]", tag)]
    assert headings == ["h1", *["h2"] * len(anchors)]
    assert {*document.values("aria-labelledby")} == {*anchors}


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_every_look_of_a_report_is_in_its_stylesheet(
    subject: str, documents: dict[str, Document]
) -> None:
    document = documents[subject]
    used = {look for looks in document.values("class") for look in looks.split()}
    styled = {*re.findall(r"\.([a-z][a-z0-9-]*)", document.style)}
    assert used - styled - NOT_LOOKS - {"text"} == set()


def test_what_people_wrote_is_text(documents: dict[str, Document]) -> None:
    shown = TEXTS.replace("\u202e", "\N{REPLACEMENT CHARACTER}")
    for subject in ("a space", "a version", "a merge"):
        document = documents[subject]
        assert shown in document.text
        assert "\u202e" not in document.text


def test_a_version_has_its_modules_spectra_lineage_and_history(
    documents: dict[str, Document],
) -> None:
    assert documents["a merge"].values("id") == [
        *("version", "versions", "lineage", "modules", "spectra", "loading", "log"),
    ]
    drawn = documents["a version"].values("class")
    for look in ("timeline", "lineage", "bits", "errors", "directions", "spectra"):
        assert drawn.count(f"drawing {look}") == 1
    assert "prod is v2 from c7 to now" in documents["a version"].texts


def test_a_version_says_how_it_is_loaded(documents: dict[str, Document]) -> None:
    for part in ("PEFT", "vLLM", f"share-registry export {SPACE}/cola@v2 serve/"):
        assert part in documents["a version"].text


def test_a_space_has_its_tasks_aliases_retention_log_and_verification(
    documents: dict[str, Document],
) -> None:
    document = documents["a space"]
    assert document.values("id") == [
        *("tasks", "aliases", "retention", "policy", "log", "verification"),
    ]
    assert document.values("class").count("drawing sparkline") == 2 * 3
    assert "release" in document.texts
    assert "nothing is damaged" in document.text


def test_a_restored_version_and_one_of_a_dropped_task_say_their_error_too(
    documents: dict[str, Document],
) -> None:
    for subject in ("a restored version", "a dropped task"):
        assert "error of dW" in documents[subject].texts


def _figures_of(page: ReportPage) -> dict[str, str]:
    """Return the numbers at the top of a report by their names."""
    pairs = re.findall(r"<div><dt>(.*?)</dt><dd>(.*?) <small>(.*?)</small></dd>", page.content)
    return {name: f"{number} {of}" for name, number, of in pairs}


def test_a_version_older_than_those_that_are_listed_says_its_own_numbers(
    registry: sr.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = registry.report("cola@v2")
    monkeypatch.setattr(review, "_MOST_VERSIONS", 1)
    cut = registry.report("cola@v2")
    said = {"error of dW", "stored", "bits per parameter", "versions"}
    assert {*_figures_of(whole)} == {*_figures_of(cut)} == said
    assert _figures_of(whole)["versions"] == "3 of the task"
    assert _figures_of(cut) == {**_figures_of(whole), "versions": "3 of the task, 1 listed"}


def test_the_same_state_gives_the_same_bytes_which_name_it(registry: sr.Registry) -> None:
    first, second = registry.report("cola@v1"), registry.report("cola@v1")
    assert first == second
    head = registry.log(limit=1)[0]
    assert first.state == f"{SPACE}/@c{head.number}"
    assert head.id in first.content
    assert str(registry.location) not in first.content


def test_a_report_is_a_frame_in_a_notebook(registry: sr.Registry) -> None:
    page = registry.report("cola@v1")
    document = Document(page._repr_html_())
    ((tag, attributes),) = document.elements
    assert (tag, attributes["sandbox"]) == ("iframe", "")
    assert attributes["srcdoc"] == page.content
    assert repr(page) == f"<ReportPage {SPACE}/cola@v1 at {page.state}>"


def test_a_report_is_saved_whole_and_the_same_again_is_success(
    registry: sr.Registry, tmp_path: Path
) -> None:
    page = registry.report("cola@v1")
    place = tmp_path / "new" / "cola.html"
    assert page.save(place) == place
    written = place.stat()
    assert page.save(place) == place
    assert place.stat().st_mtime_ns == written.st_mtime_ns
    assert place.read_text(encoding="utf-8") == page.content
    assert [*place.parent.iterdir()] == [place]


def test_nothing_is_replaced_but_another_report_when_asked(
    registry: sr.Registry, tmp_path: Path
) -> None:
    first, second = registry.report("cola@v1"), registry.report("cola@v2")
    place, letter, folder = (tmp_path / name for name in ("report.html", "letter.html", "folder"))
    first.save(place)
    letter.write_text("<!doctype html>\n<p>dear ada")
    folder.mkdir()
    (tmp_path / "link.html").symlink_to(place)
    with pytest.raises(sr.RefusedError, match="is another report"):
        second.save(place)
    for other in (letter, folder, tmp_path / "link.html"):
        with pytest.raises(sr.RefusedError, match="is no report"):
            second.save(other, overwrite=True)
    assert place.read_text(encoding="utf-8") == first.content
    assert letter.read_text() == "<!doctype html>\n<p>dear ada"
    second.save(place, overwrite=True)
    assert place.read_text(encoding="utf-8") == second.content
    assert len([*tmp_path.iterdir()]) == 4


def test_a_report_of_a_state_of_nothing_or_of_one_of_several_spaces_is_refused(
    registry: sr.Registry, tmp_path: Path
) -> None:
    with pytest.raises(sr.InvalidInputError, match="is a state of a space"):
        registry.report("@c3")
    with pytest.raises(sr.NotFoundError):
        registry.report("nothing")
    with sr.Registry.open(tmp_path / "two") as two:
        two.create_space("a")
        two.create_space("b")
        with pytest.raises(sr.RefusedError):
            two.report()
        assert "There is no live task" in two.space("b").report().content


def test_a_version_whose_bytes_rotted_is_no_report(registry: sr.Registry, tmp_path: Path) -> None:
    shutil.copytree(registry.location, tmp_path / "copy")
    for path in (tmp_path / "copy" / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    with sr.Registry.open(tmp_path / "copy", mode="r") as copy:
        with pytest.raises(sr.IntegrityError):
            copy.report("cola@v1")
        assert "damaged" in copy.report().content


def test_the_command_writes_the_file_and_says_where(
    registry: sr.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "cola.html"
    command = ["-R", str(registry.location), "report", "cola@v1", "-o", str(place)]
    assert main(command) == 0
    assert place.read_text(encoding="utf-8") == registry.report("cola@v1").content
    assert f"{place}: {SPACE}/cola@v1 at " in capsys.readouterr().out
    assert main(["-R", str(registry.location), "report", "cola@v2", "-o", str(place)]) == 7
    assert "hint: Name another file, or --overwrite." in capsys.readouterr().err
    inside = Path(registry.location) / "report.html"
    assert main([*command[:-1], str(inside)]) == 2
    assert not inside.exists()
