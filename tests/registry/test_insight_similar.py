"""Similar: the nearest tasks by what they do, whatever their gauge, rank and age."""

import json
from pathlib import Path

import numpy as np
import pytest

import share_registry as sr
from share_registry.cli.output import document
from share_registry.registry.analysis.similar import similar
from tests.registry.conftest import DEMO
from tests.registry.families import (
    adapter,
    continued,
    drawing,
    independent,
    modules,
    one_start,
    shared_directions,
    turned,
)

STORED = 0.02
"""Stored adapters differ from those handed in by the budget of 1 % at most, and so do two distances at each end."""


@pytest.fixture
def told(registry: sr.Registry) -> sr.Registry:
    versions = continued()
    for version in ("v1", "v2"):
        registry.commit(versions[version], task="grown", budget=0.01)
    for name, one in {**independent(3), **one_start(2)}.items():
        registry.commit(one, task=name, budget=0.01)
    return registry


def test_the_nearest_task_comes_first_at_its_newest_version(told: sr.Registry) -> None:
    found = similar(told.context, continued()["v3"], space=None)
    assert (found[0].ref, found[0].continues) == ("tiny/grown@v2", True)
    assert [neighbour.distance for neighbour in found] == sorted(
        neighbour.distance for neighbour in found
    )
    assert not any(neighbour.continues for neighbour in found.neighbours[1:])
    assert len(found) == 6


def test_figures_are_those_of_dense_products(told: sr.Registry) -> None:
    asked, other = continued()["v3"], independent(3)["own-0"]
    (found,) = (
        neighbour
        for neighbour in similar(told.context, asked, space=None)
        if neighbour.task == "own-0"
    )
    one, two = (
        np.concatenate([_dense(adapter, name).ravel() for name in modules()])
        for adapter in (asked, other)
    )
    assert found.cosine == pytest.approx(
        one @ two / np.linalg.norm(one) / np.linalg.norm(two), abs=STORED
    )
    assert found.distance == pytest.approx(
        np.linalg.norm(one - two) / np.linalg.norm(one), abs=STORED
    )


def test_another_gauge_is_the_same_adapter(told: sr.Registry) -> None:
    found = similar(told.context, turned(independent(1)["own-0"]), space=None, limit=1)
    assert found[0].task == "own-0"
    assert found[0].distance < STORED
    assert found[0].cosine > 1 - STORED


def test_a_common_start_is_seen(told: sr.Registry) -> None:
    found = similar(told.context, "seed-0", space=None)
    assert {neighbour.task for neighbour in found if neighbour.one_start} == {"seed-1"}
    assert all(neighbour.overlap > neighbour.chance for neighbour in found if neighbour.one_start)


def test_directions_shared_on_both_sides_are_no_common_start(registry: sr.Registry) -> None:
    for name, one in shared_directions(2, shared=5).items():
        registry.commit(one, task=name)
    (found,) = similar(registry.context, "mix-0", space=None)
    assert found.overlap > 0.8
    assert not found.one_start


def test_a_version_is_not_its_own_neighbour_but_an_older_one_has_the_newest(
    told: sr.Registry,
) -> None:
    assert "tiny/grown@v2" not in {
        neighbour.ref for neighbour in similar(told.context, "grown", space=None)
    }
    assert similar(told.context, "grown@v1", space=None)[0].ref == "tiny/grown@v2"


def test_what_an_earlier_call_returned_is_a_reference(told: sr.Registry) -> None:
    resolved = told.resolve("grown@v1")
    assert similar(told.context, resolved, space=None).adapter == "tiny/grown@v1"


def test_dropped_tasks_are_left_out(told: sr.Registry) -> None:
    told.drop("grown")
    assert "grown" not in {
        neighbour.task for neighbour in similar(told.context, continued()["v3"], space=None)
    }


def test_ranks_may_differ_and_modules_be_missing(told: sr.Registry) -> None:
    draw = drawing(9)
    small = adapter(
        {modules()[0]: (draw(2, 128), draw(2, 96)), "layers.9.other": (draw(2, 128), draw(2, 96))}
    )
    found = similar(told.context, small, space=None)
    assert all(abs(neighbour.cosine) < 0.2 for neighbour in found)
    assert all(neighbour.distance > 1 for neighbour in found)


def test_a_directory_is_read_where_no_task_is_called_so(registry: sr.Registry) -> None:
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    for place in (str(DEMO / "wn-pos-gloss" / "v2"), DEMO / "wn-pos-gloss" / "v2"):
        found = similar(registry.context, place, space=None)
        assert (found[0].task, found[0].continues) == ("gloss", True)


def test_what_is_neither_is_not_found(told: sr.Registry) -> None:
    with pytest.raises(sr.NotFoundError):
        similar(told.context, "absent", space=None)


@pytest.mark.parametrize("limit", [-1, 0, True, 1.5])
def test_a_limit_is_checked(told: sr.Registry, limit: object) -> None:
    with pytest.raises(sr.InvalidInputError):
        told.similar("grown", limit=limit)  # type: ignore[arg-type]


def test_a_limit_keeps_the_nearest(told: sr.Registry) -> None:
    every = similar(told.context, "seed-0", space=None, limit=None)
    assert similar(told.context, "seed-0", space=None, limit=2).neighbours == every.neighbours[:2]


def test_text_html_and_json(told: sr.Registry, tmp_path: Path) -> None:
    found = similar(told.context, continued()["v3"], space=None)
    assert "tiny/grown@v2" in str(found)
    assert "<table>" in found._repr_html_()
    assert repr(found) == "<Similar the adapter given: 6 nearest in tiny>"
    assert (
        json.loads(json.dumps(document(found), allow_nan=False))["neighbours"][0]["continues"]
        is True
    )


def _dense(adapter: sr.Adapter, name: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    a, b = (
        adapter.tensors[f"base_model.model.{name}.lora_{side}.weight"].double().numpy()
        for side in "AB"
    )
    product: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = b @ a
    return product
