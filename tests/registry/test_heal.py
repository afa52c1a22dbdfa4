"""A commit of the same adapter puts back what is lost of its version; `verify` says what to do."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.catalog.queries.resolution import version_of
from share_registry.registry.log_entries import read_note
from share_registry.values.task_version import TaskVersion
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.copying import object_path

REF = f"{SPACE}/cola@v2"


def rot(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"rotten")


DAMAGES: dict[str, Callable[[Path], None]] = {"missing": Path.unlink, "rotten": rot}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_adapter(tmp_path / "cola-2", seed=2, near=1)
    (folder / "train_log.json").write_text('{"loss": 1}')
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"bias"', '"seed": 2, "bias"'))
    return folder


@pytest.fixture
def root(tmp_path: Path, source: Path) -> Path:
    """Return a registry whose cola@v2 was committed with another task, and is followed by more."""
    root = tmp_path / "registry"
    with sr.Registry.open(root) as registry:
        registry.commit(write_adapter(tmp_path / "cola", seed=1), task="cola")
        registry.commit_many({"cola": source, "alike": write_adapter(tmp_path / "alike", seed=2)})
        registry.commit(write_adapter(tmp_path / "sst2", seed=3), task="sst2")
    return root


def row_of(registry: sr.Registry) -> TaskVersion:
    with registry.context.reading() as session:
        return version_of(session, REF)


def objects_of(registry: sr.Registry) -> dict[str, str]:
    row = row_of(registry)
    note = read_note(registry.context.store, row.note_digest)
    assert note is not None
    (attached,) = note.of(row.note_task).attachments
    return {
        "adapter": row.adapter_digest,
        "attachment": attached.object,
        "config": str(row.config_digest),
        "note": str(row.note_digest),
    }


def both(source: Path) -> dict[str, Path]:
    return {"alike": source.parent / "alike", "cola": source}


@pytest.mark.parametrize("part", ["adapter", "attachment", "config"])
@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_commit_of_the_same_adapter_heals_its_version(
    root: Path, source: Path, part: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sr.Registry.open(root) as registry:
        path = object_path(root, objects_of(registry)[part])
        content = path.read_bytes()
        DAMAGES[damage](path)
        assert not registry.commit_many(both(source), dry_run=True).created
        assert "would be healed" in caplog.text
        assert not path.exists() or path.read_bytes() != content
        commit = registry.commit_many(both(source))
        assert (commit.created, path.read_bytes()) == (False, content)
        assert f"{REF} is healed, without a new version" in caplog.text
        registry.export(REF, root.parent / "out")
        assert registry.verify("deep").ok


def test_a_sound_version_is_left_as_it_is(
    root: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sr.Registry.open(root) as registry:
        assert not registry.commit_many(both(source)).created
    assert "healed" not in caplog.text


def test_what_cannot_be_made_again_is_named_with_what_helps(root: Path, source: Path) -> None:
    with sr.Registry.open(root) as registry:
        digest = objects_of(registry)["note"]
        object_path(root, digest).unlink()
        with pytest.raises(sr.IntegrityError, match=digest[:8]) as caught:
            registry.commit(source, task="cola")
        assert "repair --from DIRECTORY" in caught.value.hint
        assert "allow_duplicate=True" in caught.value.hint
        again = registry.commit(source, task="cola", allow_duplicate=True)
        assert again.created
        registry.export("cola@v3", root.parent / "out")


def test_the_hint_of_verify_and_a_commit_bring_a_rotten_object_back(
    root: Path, source: Path
) -> None:
    with sr.Registry.open(root) as registry:
        rot(object_path(root, objects_of(registry)["adapter"]))
        with pytest.raises(sr.IntegrityError) as caught:
            registry.verify()
        command = re.search(r"`share-registry quarantine ([^`]*)`", caught.value.hint)
        assert command is not None
        registry.quarantine(command[1].split())
        with pytest.raises(sr.IntegrityError) as caught:
            registry.verify()
        assert caught.value.hint.endswith("Without a copy: commit the adapter again.")
        registry.commit_many(both(source))
        assert registry.verify("deep").ok


def test_an_object_is_named_by_the_beginning_of_its_digest_unless_several_begin_so(
    root: Path,
) -> None:
    with sr.Registry.open(root) as registry:
        digest = objects_of(registry)["adapter"]
        near = digest[:10] + ("0" if digest[10] != "0" else "1") * 54
        object_path(root, near).write_bytes(b"of other bytes")
        with pytest.raises(sr.InvalidInputError, match=f"2 objects .*{min(digest, near)}"):
            registry.quarantine(digest[:8])
        with pytest.raises(sr.InvalidInputError, match="64 lowercase"):
            registry.quarantine(digest[:7])
        with pytest.raises(sr.NotFoundError, match="00000000"):
            registry.quarantine("00000000")
        moved = registry.quarantine(near[:11])
        assert moved.moved == (f"objects/{near[:2]}/{near[2:]}",)
        assert object_path(root, digest).exists()
