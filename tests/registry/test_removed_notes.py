"""A note that is not there leaves what it said unknown; unless it was purged it is lost (NOT-06)."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.format.canonical import load
from share_registry.format.notes import Note
from share_registry.registry.audit.walk import SPARED
from share_registry.values.checks import Outcome
from tests.cli.tiny import SPACE, write_adapter


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a registry of a version, committed by c2, that was annotated by c3 and c4."""
    folder = tmp_path_factory.mktemp("removed")
    with sr.Registry.open(folder / "registry") as registry:
        registry.commit(
            write_adapter(folder / "cola", seed=1),
            task="cola",
            labels={"state": "draft", "team": "red"},
            metrics={"acc": 0.5},
            author="Ada",
        )
        registry.annotate("cola@v1", labels={"state": "approved"}, metrics={"acc": 0.9})
        registry.annotate("cola@v1", labels={"owner": "Ada"})
    return folder / "registry"


@pytest.fixture
def store(written: Path, tmp_path: Path) -> Path:
    """Return a copy of the registry without its catalog."""
    root = Path(shutil.copytree(written, tmp_path / "registry"))
    (root / "catalog.sqlite").unlink()
    return root


def note_of(root: Path, number: int) -> Path:
    record = root / "spaces" / SPACE / "log" / f"{number:020}.json"
    digest = str(load(record.read_bytes(), subject="record")["note"])
    return root / "objects" / digest[:2] / digest[2:]


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("level", ["quick", "data", "deep"])
def test_a_note_that_no_record_removed_is_lost(store: Path, number: int, level: str) -> None:
    note_of(store, number).unlink()
    with sr.Registry.open(store, mode="r") as registry:
        report = registry.verify(level, raise_on_damage=False)
        assert [(item.outcome, item.code) for item in report.findings] == [
            (Outcome.DAMAGED, "NOT-06")
        ]
        with pytest.raises(sr.IntegrityError, match="no record removed it") as caught:
            registry.verify(level)
    assert "share-registry repair --from DIRECTORY" in caught.value.hint


def test_a_config_that_notes_alone_name_is_damage_where_it_is_lost(store: Path) -> None:
    note = Note.from_bytes(note_of(store, 2).read_bytes())
    config = str(note.tasks[0].config)
    (store / "objects" / config[:2] / config[2:]).unlink()
    with sr.Registry.open(store, mode="r") as registry:
        report = registry.verify("deep", raise_on_damage=False)
    assert [(item.outcome, item.what, item.refs) for item in report.findings] == [
        (Outcome.DAMAGED, f"object {config}", (f"{SPACE}/cola@v1",))
    ]


def write_own(folder: Path, seed: int) -> Path:
    """Write an adapter with a config and an attachment that no other has."""
    directory = write_adapter(folder / str(seed), seed=seed)
    config = directory / "adapter_config.json"
    config.write_text(config.read_text().replace('"bias"', f'"seed": {seed}, "bias"'))
    (directory / "tokenizer.json").write_text(f'{{"seed": {seed}}}')
    return directory


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Return a registry of three tasks; `first@v3` is what `first@v1` was, committed by c2."""
    with sr.Registry.open(tmp_path / "three") as registry:
        for seed, task in enumerate(("first", "second", "third", "first"), start=1):
            registry.commit(write_own(tmp_path, seed), task=task)
        registry.restore("first@v1")
    return tmp_path / "three"


def remove(root: Path, file: str) -> None:
    """Remove one of what an export of the version of c2 needs."""
    entry = Note.from_bytes(note_of(root, 2).read_bytes()).tasks[0]
    digest = str(entry.config if file == "config" else entry.attachments[0].object)
    path = note_of(root, 2) if file == "note" else root / "objects" / digest[:2] / digest[2:]
    path.unlink()


@pytest.mark.parametrize("file", ["note", "config", "attachment"])
def test_verify_names_the_versions_that_cannot_be_exported(
    three: Path, tmp_path: Path, file: str
) -> None:
    remove(three, file)
    with sr.Registry.open(three) as registry:
        report = registry.verify("quick", raise_on_damage=False)
        assert [item.outcome for item in report.findings] == [Outcome.DAMAGED]
        assert report.unexportable == (f"{SPACE}/first@v1", f"{SPACE}/first@v3")
        assert "first@v3 cannot be exported" in str(report)
        for ref in report.unexportable:
            named = "tokenizer.json" if file == "attachment" else file
            with pytest.raises(sr.IntegrityError, match=f"{ref}: .*{named}") as caught:
                registry.export(ref, tmp_path / "out")
            assert "share-registry repair --from DIRECTORY" in caught.value.hint


def unreadable(registry: sr.Registry, refs: Sequence[str]) -> set[str]:
    """Return those of some versions whose checkout, with all files, is refused as damaged."""
    refused = set()
    for ref in refs:
        try:
            registry.checkout(ref)
        except sr.IntegrityError:
            refused.add(ref)
    return refused


def test_verify_names_the_versions_that_need_what_is_lost_and_no_others(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "sound") as registry:
        for version in range(2):
            registry.commit_many(
                {task: write_own(tmp_path, 3 * version + seed) for seed, task in enumerate("ab")}
            )
        registry.restore("a@v1")
        registry.rename("b", "other")
        refs = [ref for commit in registry.log(None) for ref in commit.refs.values()]
    whole = {path: path.read_bytes() for path in (tmp_path / "sound/objects").rglob("*/*")}
    for path, content in sorted(whole.items()):
        path.unlink()
        with sr.Registry.open(tmp_path / "sound") as registry:
            findings = registry.verify(raise_on_damage=False).findings
            named = {ref for each in findings if SPARED not in each.message for ref in each.refs}
            assert named == unreadable(registry, refs), path
        path.write_bytes(content)


@pytest.mark.parametrize("file", ["note", "config"])
def test_what_works_on_a_whole_space_leaves_out_a_version_without_its_config(
    three: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    remove(three, file)
    with sr.Registry.open(three, space=SPACE) as registry:
        assert len(registry.analyze().adapters) == 2
        assert "first@v3 is left out" in caplog.text
        assert [near.ref for near in registry.similar("second")] == [f"{SPACE}/third@v1"]
        refit = registry.refit(max_rank=1, allow_loss=True)
        assert set(refit.versions) <= {"second", "third"}
        assert {item.code for item in registry.verify(raise_on_damage=False).findings} == {"NOT-06"}


def test_a_note_of_other_bytes_is_damage(store: Path) -> None:
    note_of(store, 3).write_bytes(b"{}")
    with sr.Registry.open(store, mode="r") as registry, pytest.raises(sr.IntegrityError):
        registry.verify("quick")


def test_what_an_annotation_said_is_unknown_and_not_what_was_said_before(store: Path) -> None:
    note_of(store, 3).unlink()
    with sr.Registry.open(store, mode="r") as registry:
        (task,) = registry.tasks()
        assert (dict(task.labels), dict(task.metrics)) == ({"owner": "Ada"}, {})
        (before,) = registry.tasks(at=2)
        assert {"state": "draft", "team": "red"}.items() <= before.labels.items()
        assert dict(before.metrics) == {"acc": 0.5}
        (report,) = registry.show("cola@v1").reports.values()
        assert "labels and metrics are not known from c3 on" in " ".join(report.notes)
        assert "its note is not in the store" in str(registry.show("@c3"))


def test_a_version_without_its_note_is_read_and_cannot_be_exported(
    store: Path, tmp_path: Path
) -> None:
    note_of(store, 2).unlink()
    with sr.Registry.open(store, mode="r") as registry:
        commit = registry.show("cola@v1")
        assert commit.author is None
        (report,) = commit.reports.values()
        assert "source, config" in " ".join(report.notes)
        with pytest.raises(sr.IntegrityError, match=r"its note, .* and with it the config"):
            registry.export("cola@v1", tmp_path / "out")
