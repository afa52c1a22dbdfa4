"""After a power cut a registry has every commit that anybody was told of (P3, P8).

Commits that a retry found are among them.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

import share_registry as sr
from tests.reliability.journal import Journal, Killed, Recorder, restore
from tests.reliability.registries import adapters, commit, keys, opened

CI_STATES: Final = 4
SOAK_STATES: Final = 256
Act = Callable[[sr.Registry, Path], sr.Commit]


def _same_key(registry: sr.Registry, adapter: Path) -> sr.Commit:
    return commit(registry, adapter, "two")


def _same_adapter(registry: sr.Registry, adapter: Path) -> sr.Commit:
    # a new commit where the one that died was not published
    return registry.commit(adapter, idempotency_key="three")


def _next(registry: sr.Registry, adapter: Path) -> sr.Commit:
    return commit(registry, adapter, "three")


def _dying(journal: Journal, root: Path, point: str, adapter: Path) -> None:
    """Commit under the key "two" and die at a point."""
    system = Recorder(journal)

    def hook(passed: str) -> None:
        if passed == point:
            system.dead = True
            raise Killed

    registry = opened(root, hook=hook, system=system)
    try:
        with pytest.raises(Killed):
            commit(registry, adapter, "two")
    finally:
        registry.context.catalog.close()


def _survives(top: Path, point: str, act: Act, *, most: int, at_most: int, seed: int = 0) -> int:
    first, second = adapters(top, 2)
    (top / "run").mkdir()
    journal, root = Journal(top / "run"), top / "run" / "registry"
    with opened(root, system=Recorder(journal)) as registry:
        commit(registry, first, "one")
    journal.acknowledge("one")
    _dying(journal, root, point, second)
    since = len(journal)
    with opened(root, system=Recorder(journal)) as registry:
        journal.acknowledge(act(registry, second).key)
    crashes = list(journal.crashes(most=most, since=since, seed=seed))
    for crash in crashes[:: max(1, len(crashes) // at_most)]:
        work = top / "crashed"
        work.mkdir()
        restore(crash.tree, work)
        with opened(work / "registry", mode="r") as reader:
            assert set(crash.acknowledged) <= set(keys(reader)) <= {"one", "two", "three"}
            assert reader.verify("quick").ok
        shutil.rmtree(work)
    return len(crashes)


@pytest.mark.parametrize("act", [_same_key, _same_adapter, _next])
def test_what_a_writer_was_told_survives(quick_path: Path, act: Act) -> None:
    assert _survives(quick_path, "record.linked", act, most=CI_STATES, at_most=40) > 0


@pytest.mark.soak
@pytest.mark.parametrize("act", [_same_key, _same_adapter, _next])
@pytest.mark.parametrize(
    "point",
    [
        "obj.linked",
        "obj.dirsync",
        "record.open",
        "record.postfsync",
        "record.linked",
        "record.dirsync",
    ],
)
def test_what_a_writer_was_told_survives_a_death_anywhere(
    quick_path: Path, point: str, act: Act
) -> None:
    assert (
        _survives(
            quick_path,
            point,
            act,
            most=SOAK_STATES,
            at_most=10_000,
            seed=int(os.environ.get("SEED", "0")),
        )
        > 0
    )
