"""What a slip of the keyboard or of the mind leads to is said, or refused."""

from pathlib import Path

import pytest

import share_registry as sr
from tests.registry.families import adapter_from_rows, continued, drawing, independent

BASE = "tiny"


@pytest.fixture
def fleet(registry: sr.Registry) -> sr.Registry:
    """Two versions of cust-01, one of cust-10, and a narrower base model's space."""
    versions = continued()
    for version in ("v1", "v2"):
        registry.commit(versions[version], task="cust-01")
    registry.commit(independent(1)["own-0"], task="cust-10")
    draw = drawing(5)
    registry.create_space("narrow", base_model="acme/narrow")
    registry.space("narrow").commit(
        adapter_from_rows({"layers.0.self_attn.q_proj": (draw(4, 24), draw(4, 16))}),
        task="qw",
        allow_base_mismatch=True,
    )
    return registry


def _notes(registry: sr.Registry, adapter: object, task: str, *parents: str) -> tuple[str, ...]:
    commit = registry.space(BASE).commit(adapter, task=task, derived_from=parents, dry_run=True)
    return commit.reports[task].notes


def test_a_new_task_with_an_adapter_that_is_there_says_where(fleet: sr.Registry) -> None:
    same = "new task; the same adapter as cust-01@v2."
    asked = "csut-01 is a new task: did you mean cust-01?"
    assert _notes(fleet, continued()["v2"], "csut-01") == (same, asked)
    assert _notes(fleet, continued()["v2"], "other") == (same,)


def test_a_new_task_that_is_called_almost_like_its_parent_asks(fleet: sr.Registry) -> None:
    adapter = continued()["v3"]
    asked = "csut-01 is a new task: did you mean cust-01?"
    assert _notes(fleet, adapter, "csut-01", "cust-01") == (asked,)
    for task in ("cust-02", "cust-11", "reviews"):
        assert _notes(fleet, adapter, task, "cust-01") == ()


@pytest.mark.parametrize("task", ["c4", "v2", "latest", "2026-11-16", "deadbeef"])
def test_a_new_task_whose_name_reads_as_something_else_says_so(
    fleet: sr.Registry, task: str
) -> None:
    (note,) = _notes(fleet, continued()["v3"], task)
    assert note.startswith(f"{task} is a new task, whose name reads as ")
    fleet.space(BASE).commit(continued()["v3"], task=task)
    assert fleet.resolve(f"{BASE}/{task}").version == 1
    assert _notes(fleet, independent(1, seed=8)["own-0"], task) == ()


def test_an_export_that_comes_back_is_known(fleet: sr.Registry, tmp_path: Path) -> None:
    exported = fleet.export("cust-01@v1", tmp_path / "serve").path
    assert "the same adapter as v1, as exported." in _notes(fleet, exported, "cust-01")
    assert "new task; the same adapter as cust-01@v1, as exported." in _notes(
        fleet, exported, "new"
    )


def test_versions_of_unlike_base_models_are_not_compared(fleet: sr.Registry) -> None:
    with pytest.raises(sr.RefusedError, match="of different base models"):
        fleet.diff("tiny/cust-01", "narrow/qw")
    assert fleet.diff("tiny/cust-01", "tiny/cust-10").tasks


def test_no_task_of_an_unlike_base_model_is_near(fleet: sr.Registry) -> None:
    with pytest.raises(sr.RefusedError, match="of another base model than space narrow"):
        fleet.space("narrow").similar(continued()["v3"])
    assert len(fleet.space("tiny").similar(continued()["v3"])) == 2
