"""Verify and rebuild of a registry with a basis and tasks re-expressed in it."""

from pathlib import Path

import pytest

import share_registry as sr
from share_registry.registry.audit.verify import LEVELS
from tests.catalog.rows import dump
from tests.registry.planted import write_planted

TASKS = ("t00", "t01", "t02")


@pytest.fixture
def refitted(registry: sr.Registry, tmp_path: Path) -> sr.Registry:
    """Three tasks, each re-expressed in one basis."""
    for task, place in write_planted(tmp_path / "adapters", 3).items():
        registry.commit(place, task=task)
    registry.refit(max_rank=6, allow_loss=True)
    assert {task.version for task in registry.tasks()} == {2}
    return registry


def object_of(registry: sr.Registry) -> Path:
    digest = registry.basis().digest
    return Path(registry.location) / "objects" / digest[:2] / digest[2:]


def damage_by_clause(registry: sr.Registry, level: str) -> dict[str, tuple[str, ...]]:
    """Return what cannot be trusted, by clause."""
    report = registry.verify(level, raise_on_damage=False)
    merged: dict[str, tuple[str, ...]] = {}
    for finding in report.findings:
        merged[finding.code] = (*merged.get(finding.code, ()), *finding.refs)
    return merged


@pytest.mark.parametrize("level", LEVELS)
def test_a_sound_basis_is_verified(refitted: sr.Registry, level: str) -> None:
    report = refitted.verify(level)
    assert report.ok
    assert report.versions == 2 * len(TASKS)


@pytest.mark.parametrize("level", LEVELS)
def test_a_basis_that_is_gone_is_found(refitted: sr.Registry, level: str) -> None:
    refs = {"tiny/@c5"} if level == "quick" else {f"tiny/{task}@v2" for task in TASKS}
    object_of(refitted).unlink()
    assert refs <= set(damage_by_clause(refitted, level)["OBJ-02"])


def test_a_damaged_basis_is_found_with_the_versions_that_need_it(refitted: sr.Registry) -> None:
    place = object_of(refitted)
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.chmod(0o600)
    place.write_bytes(bytes(content))
    assert not damage_by_clause(refitted, "quick")
    needed = {f"tiny/{task}@v2" for task in TASKS}
    assert needed <= set(damage_by_clause(refitted, "data")["OBJ-01"])
    assert set(damage_by_clause(refitted, "deep")["DEC-12"]) == needed


def test_a_rebuild_replays_bases_and_what_was_re_expressed(refitted: sr.Registry) -> None:
    def rows() -> dict[str, list[tuple[object, ...]]]:
        with refitted._context.catalog.begin() as session:
            return dump(session)

    before, basis = rows(), refitted.basis().digest
    refitted.rebuild()
    assert rows() == before
    assert refitted.basis().digest == basis
