"""Hosts that sync, prune and are killed at once, and a registry that changes meanwhile."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.names import Digest
from share_registry.outside.files import Outside
from share_registry.registry.delivery import served_directory
from share_registry.registry.delivery.served_directory import remove_litter, take_away
from share_registry.registry.opening import open_context
from tests.cli.tiny import SPACE
from tests.registry.plain import files
from tests.registry.syncing import (
    aged,
    directory_of,
    run_elsewhere,
    served,
    tree,
)
from tests.reliability.processes import fork, kill_at, wait_for, wait_for_all
from tests.reliability.scenarios import NoFlush


@pytest.fixture
def registry(prod_registry: sr.Registry) -> sr.Registry:
    return prod_registry


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "serve"


def test_a_run_killed_anywhere_leaves_only_whole_directories(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    registry.sync(root)
    expected = tree(root)
    for point in ("export.half", "export.swap", "index.half", "index.postfsync"):
        place = tmp_path / f"killed-{point}"
        hook = kill_at(point, 2 if point.startswith("export") else 1)
        killed = fork(partial(run_elsewhere, tmp_path / "registry", place, hook))
        assert wait_for(killed) == -9
        assert not (place / "index.json").exists()
        whole = [path for path in place.iterdir() if not path.name.startswith(".")]
        assert all(files(path) == files(root / path.name) for path in whole)
        run_elsewhere(tmp_path / "registry", place)
        assert {n: c for n, c in tree(place).items() if not n.startswith(".")} == expected


def test_hosts_that_sync_at_once_end_with_one_tree(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    registry.sync(alone)
    registry.set_alias("cola@v2", "prod")
    registry.sync(alone)

    def host() -> None:
        while not (root.parent / "go").exists():
            time.sleep(0.001)
        run_elsewhere(tmp_path / "registry", root)

    hosts = [fork(host) for _ in range(4)]
    (root.parent / "go").touch()
    # read all the while: what the index names is whole
    deadline = time.monotonic() + 60
    while not (root / "index.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    for _ in range(20):
        assert len(served(root)) == 3
    assert wait_for_all(hosts) == [0, 0, 0, 0]
    assert served(root) == served(alone)
    assert set(tree(root)) == {name for name in tree(alone) if "--cola--v1-" not in name}


def test_an_alias_that_moves_while_the_index_is_written_is_followed(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    moved: list[str] = []

    def hook(point: str) -> None:
        if point == "index.postfsync" and not moved:
            moved.append(point)
            registry.set_alias("cola@v2", "prod")

    run_elsewhere(tmp_path / "registry", root, hook)
    assert f"{SPACE}/cola@v2" in served(root).values()


def test_a_task_that_is_dropped_or_restored_while_the_index_is_written_is_followed(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    registry.drop("mrpc")
    done: list[str] = []

    def hook(point: str) -> None:
        if point == "index.postfsync" and not done:
            done.append(point)
            registry.drop("cola")
            registry.restore("mrpc@v1")

    run_elsewhere(tmp_path / "registry", root, hook)
    assert set(served(root).values()) == {f"{SPACE}/{task}@v1" for task in ("mrpc", "sst2")}


def test_a_directory_that_goes_on_changing_is_told(registry: sr.Registry, root: Path) -> None:
    def keep_changing(point: str) -> None:
        if point == "index.postfsync":
            version = next(iter(registry.aliases(task="cola"))).version
            registry.set_alias(f"cola@v{3 - version}", "prod")

    context, _ = open_context(
        root.parent / "registry",
        store=None,
        space=None,
        mode="r",
        outside=Outside(keep_changing, system=NoFlush()),
    )
    with sr.Registry(context) as reader:
        (remark,) = reader.sync(root).remarks
    assert "went on changing" in remark


@pytest.mark.parametrize("when", ["prune.unnamed", "prune.aside"])
def test_a_directory_that_is_served_again_while_it_is_pruned_comes_back(
    registry: sr.Registry, root: Path, tmp_path: Path, when: str
) -> None:
    registry.sync(root)
    name = directory_of(root, f"{SPACE}/cola@v1").name
    registry.set_alias("cola@v2", "prod")
    registry.sync(root)
    aged(root, days=9)
    again: list[str] = []

    def hook(point: str) -> None:
        if point == when and not again:
            again.append(point)
            registry.set_alias("cola@v1", "prod")
            registry.sync(root)

    run_elsewhere(tmp_path / "registry", root, hook)
    assert again
    assert served(root)[name] == f"{SPACE}/cola@v1"


def test_what_is_pruned_is_not_taken_for_what_a_killed_writer_left(
    registry: sr.Registry, root: Path, tmp_path: Path
) -> None:
    registry.sync(root)
    directory = directory_of(root, f"{SPACE}/cola@v1")
    os.utime(directory, (1e9, 1e9))
    registry.set_alias("cola@v2", "prod")
    registry.sync(root)
    aged(root, days=9)
    passed: list[str] = []

    def hook(point: str) -> None:
        if point == "prune.unnamed" and not passed:
            registry.set_alias("cola@v1", "prod")
            registry.sync(root)
        if point == "prune.aside" and "prune.aside" not in passed:
            remove_litter(root, Outside())
        passed.append(point)

    run_elsewhere(tmp_path / "registry", root, hook)
    assert "prune.aside" in passed
    assert served(root)[directory.name] == f"{SPACE}/cola@v1"


def test_what_is_pruned_while_it_is_compared_is_written_again(
    registry: sr.Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.sync(root)
    directory = directory_of(root, f"{SPACE}/cola@v1")
    (directory / "README.md").write_bytes(b"other")
    registry.set_alias("cola@v2", "prod")
    registry.sync(root)
    registry.set_alias("cola@v1", "prod")
    compare = served_directory.is_sound

    def compare_late(path: Path, digest: Digest, outside: Outside) -> bool:
        if path == directory and path.exists():
            assert take_away(root, directory.name, outside)
        return compare(path, digest, outside)

    monkeypatch.setattr(served_directory, "is_sound", compare_late)
    assert registry.sync(root).failed == 0
    monkeypatch.undo()
    assert served(root)[directory.name] == f"{SPACE}/cola@v1"
