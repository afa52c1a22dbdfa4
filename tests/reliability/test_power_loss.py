"""Whatever a power cut legally leaves, the log is whole and has every acknowledged commit (P3)."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from share_registry.format.canonical import sha256
from tests.reliability.journal import Journal, Recorder
from tests.reliability.scenarios import (
    ALL_KILLS,
    CI_STATES,
    IDENTITY,
    SHARED,
    NoLinks,
    World,
    after_a_death,
    alone,
    recovers,
    survives,
)

SOAK_STATES: Final = 4096
Scenario = Callable[[World, Path], Iterator[tuple[Journal, int]]]


class RecorderWithoutLinks(NoLinks, Recorder):
    """A disk without hard links."""


@pytest.mark.parametrize(
    ("scenario", "fewest", "system"),
    [(alone, 100, Recorder), (alone, 100, RecorderWithoutLinks), (after_a_death, 700, Recorder)],
)
def test_every_crash_state_comes_back_whole(
    quick_path: Path, scenario: Scenario, fewest: int, system: type[Recorder]
) -> None:
    assert survives(World(system=system), scenario, quick_path, most=CI_STATES) >= fewest


@pytest.mark.soak
@pytest.mark.parametrize("system", [Recorder, RecorderWithoutLinks])
@pytest.mark.parametrize(
    "scenario", [alone, partial(after_a_death, kills=ALL_KILLS)], ids=["alone", "after-a-death"]
)
def test_very_many_crash_states_come_back_whole(
    quick_path: Path, scenario: Scenario, system: type[Recorder]
) -> None:
    survives(
        World(system=system),
        scenario,
        quick_path,
        most=SOAK_STATES,
        seed=int(os.environ.get("SEED", "0")),
    )


def test_a_rotten_object_that_a_commit_names_again_is_sound_after_a_power_cut(
    quick_path: Path,
) -> None:
    (quick_path / "run").mkdir()
    journal = Journal(quick_path / "run")
    world = World()
    store = world.open(journal)
    world.commit(journal, store, "one")
    digest = sha256(SHARED)
    journal.rot(quick_path / "run" / "registry" / "objects" / digest[:2] / digest[2:], b"rotten")
    world.commit(journal, store, "two")
    since = len(journal)
    world.commit(journal, store, "three")
    for number, crash in enumerate(journal.crashes(most=CI_STATES, since=since)):
        work = quick_path / f"{number}"
        work.mkdir()
        recovers(crash, work)
    assert store.identity == IDENTITY
