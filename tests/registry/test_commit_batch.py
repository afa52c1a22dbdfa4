"""Many adapters in one commit.

No more of them are in memory than are looked at, and what comes of it is what a small commit makes.
"""

import tracemalloc
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.names import TaskName
from share_registry.outside.files import Outside
from share_registry.registry.commands import commit_batch
from share_registry.registry.commands.commit_batch import FEW, load_adapters
from tests.registry.planted import write_planted


@pytest.fixture(autouse=True)
def _no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for no more than a few."""
    monkeypatch.setattr(commit_batch, "KEPT_BYTES", 1)


RAW = 4 * 2 * 16 * 1024
"""Bytes of one adapter below: a module of 1024 x 1024, r = 16."""


def peak_of_committing(root: Path, count: int) -> int:
    """Return the most bytes that Python had allocated while this many adapters were committed."""
    folders = write_planted(root / "adapters", count, modules=1, rank=16, width=1024, shared=0)
    with sr.Registry.open(root / "registry") as registry:
        registry.create_space("tiny", base_model="acme/tiny")
        tracemalloc.start()
        try:
            registry.commit_many(folders, space="tiny")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_adapters(tmp_path: Path) -> None:
    some, many = (
        peak_of_committing(tmp_path / "some", FEW + 2),
        peak_of_committing(tmp_path / "many", FEW + 18),
    )
    # 16 adapters more; what was read of the latest stays in the reader's cache, which has a bound
    assert many < some + 8 * RAW


@pytest.mark.parametrize("shared", [8, 0])
def test_a_large_commit_keeps_every_adapter_within_its_budget(
    registry: sr.Registry, tmp_path: Path, shared: int
) -> None:
    commit = registry.commit_many(
        write_planted(tmp_path / "adapters", FEW + 3, modules=1, width=64, shared=shared)
    )
    assert len(commit.reports) == FEW + 3
    assert all(
        0 < report.error <= 0.025 and report.bytes_added > 0 for report in commit.reports.values()
    )
    assert registry.verify("deep").ok


def test_a_large_commit_gets_a_basis_where_that_takes_fewer_bytes(
    registry: sr.Registry, tmp_path: Path
) -> None:
    commit = registry.commit_many(
        write_planted(tmp_path / "adapters", FEW + 8, modules=1, shared=8)
    )
    assert registry.basis().number == commit.number


def test_a_dry_run_of_a_large_commit_stores_nothing(registry: sr.Registry, tmp_path: Path) -> None:
    registry.create_space("tiny", base_model="acme/tiny")
    before = list(registry.context.store.objects())
    commit = registry.commit_many(
        write_planted(tmp_path / "adapters", FEW + 1, modules=1, width=32),
        space="tiny",
        dry_run=True,
    )
    assert not commit.created
    assert sum(report.bytes_added for report in commit.reports.values()) > 0
    assert list(registry.context.store.objects()) == before


def test_an_adapter_that_changes_while_it_is_committed_is_refused(tmp_path: Path) -> None:
    folders = write_planted(tmp_path / "adapters", FEW + 1, modules=1, width=32)
    batch = load_adapters(list(folders.items()), adapter_name=None, outside=Outside())
    assert not batch.adapters[TaskName("t00")].tensors
    assert batch.read(TaskName("t00")).tensors
    (folders["t00"] / "adapter_model.safetensors").write_bytes(
        (folders["t01"] / "adapter_model.safetensors").read_bytes()
    )
    with pytest.raises(sr.InvalidInputError, match="changed while"):
        batch.read(TaskName("t00"))


def test_modules_of_two_shapes_in_one_large_commit_are_refused(
    registry: sr.Registry, tmp_path: Path
) -> None:
    folders = write_planted(tmp_path / "adapters", FEW, modules=1, width=32) | {
        "zz": write_planted(tmp_path / "other", 1, modules=1, width=48)["t00"]
    }
    with pytest.raises(sr.RefusedError, match="48 x 48"):
        registry.commit_many(folders)
    assert registry.tasks() == []


def test_where_there_is_room_a_basis_is_fitted_to_every_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_batch, "KEPT_BYTES", 1 << 30)
    folders = write_planted(tmp_path / "adapters", FEW + 9, modules=1, width=32)
    batch = load_adapters(list(folders.items()), adapter_name=None, outside=Outside())
    assert batch.sample() == sorted(folders)
    assert all(batch.adapters[task].tensors for task in batch.sample())
