"""A commit of several adapters makes versions of those alone that changed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from share_registry.catalog.queries.version_lookups import config_digests
from share_registry.catalog.sql import Session
from share_registry.names import Digest, SpaceName
from share_registry.registry.basis.members import stored_members
from share_registry.registry.commands import commit as commands, commit_batch
from share_registry.registry.stored_config import described_versions
from share_registry.store.local import LocalStore
from tests.registry.planted import write_planted


@pytest.fixture
def folders(registry: sr.Registry, tmp_path: Path) -> dict[str, Path]:
    """Five adapters, t00 to t04, of which three are committed."""
    registry.create_space("tiny", base_model="acme/tiny", policy=sr.Policy(refit=False))
    folders = write_planted(tmp_path / "adapters", 5, modules=1, width=64)
    registry.commit_many(dict(list(folders.items())[:3]))
    return folders


def test_one_new_adapter_makes_one_version(registry: sr.Registry, folders: dict[str, Path]) -> None:
    *_, fourth, fifth = sorted(folders)
    commit = registry.commit_many(dict(list(folders.items())[:4]), labels={"night": "1"})
    assert list(commit.versions) == [fourth]
    first = sorted(folders)[:3]
    assert commit.unchanged == tuple(f"tiny/{task}@v1" for task in first)
    assert f"unchanged, without a new version: {commit.unchanged[0]} and 2 more" in str(commit)
    assert [task.version for task in registry.tasks()] == [1, 1, 1, 1]
    preview = registry.commit_many(folders, dry_run=True)
    assert (list(preview.versions), len(preview.unchanged)) == ([fifth], 4)
    assert registry.show(fourth).unchanged == ()
    assert registry.verify("deep").ok


def test_labels_that_unchanged_tasks_do_not_get_are_warned_of(
    registry: sr.Registry, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    registry.commit_many(dict(list(folders.items())[:4]), labels={"night": "1"})
    first = sorted(folders)[0]
    assert f"labels not recorded for tiny/{first}@v1 and 2 more" in caplog.text
    caplog.clear()
    registry.commit_many(folders, message="all")
    assert "not recorded" not in caplog.text


def test_what_is_said_of_a_version_that_is_there_is_not_lost_in_silence(
    registry: sr.Registry, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    task, adapter = sorted(folders.items())[0]
    assert not registry.commit(adapter, task=task).created
    assert not caplog.records
    assert not registry.commit(adapter, task=task, labels={"a": "b"}, message="again").created
    assert "tiny/@c2 holds this adapter already: labels, message not recorded" in caplog.text


def test_what_was_said_at_the_commit_is_not_called_lost(
    registry: sr.Registry, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    adapter = min(folders.items())[1]
    said: dict[str, Any] = {"labels": {"a": "b"}, "metrics": {"f1": 0.1}, "message": "first"}
    registry.commit(adapter, task="other", **said)
    prepared = registry.prepare(adapter, task="new", labels=said["labels"])
    registry.publish(prepared, message="published")
    caplog.clear()
    assert not registry.commit(adapter, task="other", **said).created
    assert not registry.publish(prepared, message="published").created
    assert not caplog.records
    registry.commit(adapter, task="other", **said | {"metrics": {"f1": 0.2}})
    assert "metrics not recorded" in caplog.text


def test_adapters_of_several_commits_that_are_all_unchanged_make_none(
    registry: sr.Registry, folders: dict[str, Path]
) -> None:
    second = registry.commit_many(folders)
    again = registry.commit_many(folders)
    assert (again.created, again.number) == (False, second.number)
    assert [*again.refs.values(), *again.unchanged] == [
        f"tiny/{task}@v1" for task in [*sorted(folders)[3:], *sorted(folders)[:3]]
    ]


def test_what_is_unchanged_is_a_version_on_request(
    registry: sr.Registry, folders: dict[str, Path]
) -> None:
    four = dict(list(folders.items())[:4])
    again = registry.commit_many(four, allow_duplicate=True)
    assert (list(again.versions.values()), again.unchanged) == ([2, 2, 2, 1], ())


def test_what_changed_is_a_version_again(
    registry: sr.Registry, folders: dict[str, Path], tmp_path: Path
) -> None:
    first, second, third = sorted(folders)[:3]
    config = json.loads((folders[first] / "adapter_config.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(folders[first], other)
    (other / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 5}))
    commit = registry.commit_many({first: other, second: folders[second], third: folders[third]})
    assert commit.versions == {first: 2}
    registry.drop(second)
    commit = registry.commit_many({first: other, second: folders[second], third: folders[third]})
    assert (commit.versions, len(commit.unchanged)) == ({second: 2}, 2)


def test_a_key_stands_for_the_whole_call(registry: sr.Registry, folders: dict[str, Path]) -> None:
    four = dict(list(folders.items())[:4])
    commit = registry.commit_many(four, idempotency_key="night-1")
    again = registry.commit_many(four, idempotency_key="night-1")
    assert (again.created, again.number) == (False, commit.number)
    fifth = sorted(folders)[4]
    for wrong in ({**four, fifth: folders[fifth]}, {fifth: folders[fifth]}):
        with pytest.raises(sr.ConflictError, match="night-1"):
            registry.commit_many(wrong, idempotency_key="night-1")


def test_a_task_that_changes_meanwhile_is_a_conflict(
    registry: sr.Registry, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = commit_batch.encode_adapters

    def encode_late(*arguments: object, **options: object) -> object:
        monkeypatch.setattr(commands, "encode_adapters", encode)
        registry.commit(folders[sorted(folders)[4]], task=sorted(folders)[0])
        return encode(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(commands, "encode_adapters", encode_late)
    with pytest.raises(sr.ConflictError, match="is not at v1 any more"):
        registry.commit_many(dict(list(folders.items())[:4]))
    assert len(registry.commit_many(dict(list(folders.items())[:4])).versions) == 2


def test_a_label_that_was_accepted_is_looked_for_once(
    registry: sr.Registry, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in folders.values():
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": "mirror/tiny"}
        path.write_text(json.dumps(config))
    first, *others = sorted(folders)
    registry.commit(folders[first], task=first, space="tiny", allow_base_mismatch=True)
    asked: list[str] = []

    def configs(session: Session, space: str) -> list[Digest]:
        asked.append(space)
        return config_digests(session, space)

    monkeypatch.setattr(version_lookups, "config_digests", configs)
    registry.commit_many({task: folders[task] for task in others}, space="tiny")
    assert asked == ["tiny"]


def test_what_versions_have_in_common_is_read_once_for_all(
    registry: sr.Registry, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.commit_many(folders)
    with registry.context.catalog.begin() as session:
        rows = version_lookups.latest_versions(session, SpaceName("tiny"))
        (config,) = version_lookups.config_digests(session, SpaceName("tiny"))
    asked: list[str] = []
    for method in ("get", "has"):
        real = getattr(LocalStore, method)

        def spied(store: Any, digest: Digest, *, of: Any = real, **options: Any) -> Any:
            asked.append(digest)
            return of(store, digest, **options)

        monkeypatch.setattr(LocalStore, method, spied)
    assert len(stored_members(registry.context, described_versions(registry.context, rows))) == 5
    assert asked.count(config) == 2
