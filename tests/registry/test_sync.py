"""A directory of what is behind an alias: whole at any moment, and right again after anything."""

import errno
import json
import os
from pathlib import Path

import pytest
from typing_extensions import override

import share_registry as sr
from share_registry.cli.main import main
from share_registry.outside.files import Outside
from share_registry.outside.system import System
from share_registry.registry.opening import open_context
from share_registry.values.sync_reports import SyncStatus
from tests.catalog.statements import counting_statements
from tests.cli.tiny import SPACE, write_adapter
from tests.registry.plain import files
from tests.registry.syncing import (
    TASKS,
    aged,
    damage_adapter,
    directory_of,
    index,
    served,
)
from tests.ui.looking import damage_last_record


@pytest.fixture
def registry(prod_registry: sr.Registry) -> sr.Registry:
    return prod_registry


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "serve"


def test_everything_behind_the_alias_is_there_as_export_writes_it(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    report = registry.sync(root)
    assert (report.written, report.failed) == (3, 0)
    assert set(served(root).values()) == {f"{SPACE}/{task}@v1" for task in TASKS}
    exported = registry.export("cola@v1", tmp_path / "out")
    directory = directory_of(root, exported.ref)
    assert files(directory) == files(exported.path)
    assert directory.name == f"{SPACE}--cola--v1-{exported.digest[:12]}"


def test_a_second_run_writes_nothing_and_a_moved_alias_one_directory(
    registry: sr.Registry, root: Path
) -> None:
    registry.sync(root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert registry.sync(root).unchanged == 3
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    registry.set_alias("cola@v2", "prod")
    report = registry.sync(root)
    assert (report.written, report.unchanged) == (1, 2)
    assert [name for name in os.listdir(root) if "--cola--v2-" in name] == [
        directory_of(root, f"{SPACE}/cola@v2").name
    ]


def test_the_catalog_is_asked_no_more_often_for_more_tasks(
    registry: sr.Registry, root: Path
) -> None:
    registry.rename("mrpc", "paraphrases")
    for alias, tasks in (("one", ["paraphrases"]), ("all", ["cola", "paraphrases", "sst2"])):
        for task in tasks:
            registry.set_alias(f"{task}@v1", alias)
    asked = {}
    for alias in ("one", "all"):
        with counting_statements() as statements:
            assert registry.sync(root / alias, alias=alias).written > 0
        asked[alias] = len(statements)
    assert asked["one"] == asked["all"]


def test_what_is_served_no_longer_stays_until_it_is_pruned_after_its_grace(
    registry: sr.Registry, root: Path
) -> None:
    registry.sync(root)
    old = directory_of(root, f"{SPACE}/cola@v1")
    registry.set_alias("cola@v2", "prod")
    assert registry.sync(root, prune=True, grace_days=0.5).retired == (old.name,)
    assert old.is_dir()
    aged(root, hours=11)
    assert registry.sync(root, prune=True, grace_days=0.5).removed == ()
    aged(root, hours=2)
    assert registry.sync(root, grace_days=0.5).removed == ()
    assert registry.sync(root, prune=True, grace_days=0.5).removed == (old.name,)
    assert not old.exists()
    assert index(root)["retired"] == []
    assert len(served(root)) == 3


def test_what_is_served_again_is_never_pruned(registry: sr.Registry, root: Path) -> None:
    registry.sync(root)
    for version in ("v2", "v1"):
        registry.set_alias(f"cola@{version}", "prod")
        registry.sync(root)
        aged(root, days=9)
    assert registry.sync(root, prune=True).removed != ()
    assert f"{SPACE}/cola@v1" in served(root).values()


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "extra", "folder", "gone"])
def test_a_damaged_directory_is_put_right(registry: sr.Registry, root: Path, damage: str) -> None:
    registry.sync(root)
    directory = directory_of(root, f"{SPACE}/cola@v1")
    before = files(directory)
    file = directory / "adapter_model.safetensors"
    content = file.read_bytes()
    if damage == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        file.write_bytes(content[:100])
    elif damage == "missing":
        file.unlink()
    elif damage == "extra":
        (directory / "tokenizer.json").write_text("{}")
    elif damage == "folder":
        file.unlink()
        (file / "deep").mkdir(parents=True)
    else:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    report = registry.sync(root)
    assert (report.repaired + report.written, report.unchanged) == (1, 2)
    assert files(directory) == before


def test_a_damaged_index_is_written_anew(registry: sr.Registry, root: Path) -> None:
    registry.sync(root)
    before = (root / "index.json").read_bytes()
    (root / "index.json").write_bytes(before.replace(b"alias", b"alien"))
    report = registry.sync(root)
    assert (root / "index.json").read_bytes() == before
    assert "it was written anew" in report.remarks[0]


def test_what_cannot_be_exported_is_reported_and_its_last_version_served_on(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    registry.sync(root)
    damage_adapter(registry, "cola@v2", tmp_path)
    registry.set_alias("cola@v2", "prod")
    report = registry.sync(root)
    (failed,) = (task for task in report.tasks if task.status is SyncStatus.FAILED)
    assert (failed.ref, report.unchanged) == (f"{SPACE}/cola@v2", 2)
    assert failed.reason
    assert failed.name is not None
    assert served(root)[failed.name] == f"{SPACE}/cola@v1"


def test_a_renamed_task_is_served_on_where_its_next_version_cannot_be(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    registry.sync(root)
    name = directory_of(root, f"{SPACE}/cola@v1").name
    damage_adapter(registry, "cola@v2", tmp_path)
    registry.rename("cola", "grammar")
    registry.set_alias("grammar@v2", "prod")
    assert registry.sync(root).failed == 1
    assert served(root)[name] == f"{SPACE}/grammar@v1"
    (listed,) = (each for each in index(root)["adapters"] if each["name"] == name)
    assert listed["task"] == "grammar"


def test_a_damaged_space_is_served_on_and_stops_no_other(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    other = write_adapter(tmp_path / "other", seed=7, base="org/other")
    registry.create_space("other", base_model="org/other")
    registry.commit(other, task="ner", space="other")
    registry.set_alias("other/ner", "prod")
    registry.sync(root)
    registry.set_alias(f"{SPACE}/cola@v2", "prod")
    damage_last_record(tmp_path / "registry", "other")
    with sr.Registry.open(tmp_path / "registry", mode="r") as reader:
        report = reader.sync(root)
    (failed,) = (task for task in report.tasks if task.status is SyncStatus.FAILED)
    assert (failed.ref, report.written, report.unchanged) == ("other/ner@v1", 1, 2)
    assert failed.name is not None
    assert {f"{SPACE}/cola@v2", "other/ner@v1"} <= {*served(root).values()}


class _Unreadable(System):
    """A medium on which one file cannot be read for now."""

    def __init__(self, inode: int) -> None:
        self._inode = inode

    @override
    def read(self, handle: int, size: int) -> bytes:
        if os.fstat(handle).st_ino == self._inode:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(handle, size)


def test_a_directory_that_cannot_be_read_stops_no_other(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    registry.sync(root)
    registry.commit(write_adapter(tmp_path / "new", seed=9), task="mrpc")
    registry.set_alias("mrpc", "prod")
    before = served(root)
    file = directory_of(root, f"{SPACE}/cola@v1") / "adapter_model.safetensors"
    outside = Outside(system=_Unreadable(file.stat().st_ino))
    context, _ = open_context(
        tmp_path / "registry", store=None, space=None, mode="r", outside=outside
    )
    with sr.Registry(context) as reader:
        report = reader.sync(root)
    (failed,) = (task for task in report.tasks if task.status is SyncStatus.FAILED)
    assert failed.ref == f"{SPACE}/cola@v1"
    assert "Input/output error" in failed.reason
    assert report.written == 1
    now = served(root)
    assert {ref for ref in before.values() if "mrpc" not in ref} <= {*now.values()}
    assert f"{SPACE}/mrpc@v2" in now.values()


def test_the_command_line_reports_a_failure_and_ends_with_code_7(
    registry: sr.Registry, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_adapter(registry, "cola@v1", tmp_path)
    command = ["-R", str(tmp_path / "registry"), "sync", str(root), "--json"]
    assert main(command) == 7
    document = json.loads(capsys.readouterr().out)
    assert (document["written"], document["failed"]) == (2, 1)


def test_a_dropped_task_is_served_no_longer(registry: sr.Registry, root: Path) -> None:
    registry.sync(root)
    registry.drop("cola")
    registry.sync(root)
    assert set(served(root).values()) == {f"{SPACE}/{task}@v1" for task in ("mrpc", "sst2")}


def test_a_renamed_task_keeps_its_directory(registry: sr.Registry, root: Path) -> None:
    registry.sync(root)
    names = set(served(root))
    registry.rename("cola", "grammar")
    assert registry.sync(root).written == 0
    assert set(served(root)) == names
    assert f"{SPACE}/grammar@v1" in served(root).values()


def test_an_alias_that_no_task_has_retires_nothing(registry: sr.Registry, root: Path) -> None:
    registry.sync(root)
    with pytest.raises(sr.NotFoundError, match="no task of any space has the alias 'prdo'"):
        registry.sync(root, alias="prdo")
    assert len(served(root)) == 3


def test_an_alias_that_is_taken_from_all_tasks_ends_what_it_served(
    registry: sr.Registry, root: Path
) -> None:
    registry.sync(root)
    names = {*served(root)}
    for task in TASKS:
        registry.remove_alias(task, "prod")
    report = registry.sync(root)
    assert (report.tasks, {*report.retired}, served(root)) == ((), names, {})
    assert report.remarks == ("no task has the alias 'prod' any more.",)
    registry.set_alias("cola@v1", "prod")
    assert registry.sync(root).unchanged == 1


def test_a_directory_of_another_alias_or_registry_is_refused(
    registry: sr.Registry, root: Path
) -> None:
    registry.sync(root)
    registry.set_alias("cola@v2", "canary")
    with pytest.raises(sr.RefusedError, match="is kept for the alias 'prod' of all spaces"):
        registry.sync(root, alias="canary")
    with pytest.raises(sr.RefusedError, match="kept for"):
        registry.space(SPACE).sync(root)


def test_the_base_model_is_what_the_server_calls_it(registry: sr.Registry, root: Path) -> None:
    registry.sync(root)
    before = directory_of(root, f"{SPACE}/cola@v1")
    registry.sync(root, base_model="/models/tiny")
    directory = directory_of(root, f"{SPACE}/cola@v1")
    old, new = (
        json.loads((each / "adapter_config.json").read_bytes()) for each in (before, directory)
    )
    assert directory.name != before.name
    assert new == {**old, "base_model_name_or_path": "/models/tiny"}
    assert list(new) == list(old)
