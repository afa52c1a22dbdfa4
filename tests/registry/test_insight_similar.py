"""Similar: the nearest tasks by what they do, whatever their gauge, rank and age."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.registry.analysis.similar import similar
from share_registry.values.documents import document
from tests.exchange import peft_configs, zoo
from tests.registry.conftest import DEMO
from tests.registry.families import (
    adapter_from_rows,
    change_gauge,
    continued,
    drawing,
    independent,
    modules,
    one_start,
    shared_directions,
)

STORED = 0.02
"""Stored adapters differ from the given ones by 1 % at most, and so does a distance at each end."""


@pytest.fixture
def collection(registry: sr.Registry) -> sr.Registry:
    versions = continued()
    for version in ("v1", "v2"):
        registry.commit(versions[version], task="grown", budget=0.01)
    for name, adapter in {**independent(3), **one_start(2)}.items():
        registry.commit(adapter, task=name, budget=0.01)
    return registry


def test_the_nearest_task_comes_first_at_its_newest_version(collection: sr.Registry) -> None:
    nearest = similar(collection.context, continued()["v3"], space=None)
    assert (nearest[0].ref, nearest[0].continues) == ("tiny/grown@v2", True)
    assert [neighbour.distance for neighbour in nearest] == sorted(
        neighbour.distance for neighbour in nearest
    )
    assert not any(neighbour.continues for neighbour in nearest.neighbours[1:])
    assert len(nearest) == 6


def test_figures_are_those_of_dense_products(collection: sr.Registry) -> None:
    asked, independent_adapter = continued()["v3"], independent(3)["own-0"]
    (neighbour,) = (
        neighbour
        for neighbour in similar(collection.context, asked, space=None)
        if neighbour.task == "own-0"
    )
    asked_dw, other_dw = (
        np.concatenate([_dense(adapter, name).ravel() for name in modules()])
        for adapter in (asked, independent_adapter)
    )
    assert neighbour.cosine == pytest.approx(
        asked_dw @ other_dw / np.linalg.norm(asked_dw) / np.linalg.norm(other_dw), abs=STORED
    )
    assert neighbour.distance == pytest.approx(
        np.linalg.norm(asked_dw - other_dw) / np.linalg.norm(asked_dw), abs=STORED
    )


def test_another_gauge_is_the_same_adapter(collection: sr.Registry) -> None:
    nearest = similar(
        collection.context, change_gauge(independent(1)["own-0"]), space=None, limit=1
    )
    assert nearest[0].task == "own-0"
    assert nearest[0].distance < STORED
    assert nearest[0].cosine > 1 - STORED


def test_a_common_start_is_seen(collection: sr.Registry) -> None:
    nearest = similar(collection.context, "seed-0", space=None)
    assert {neighbour.task for neighbour in nearest if neighbour.one_start} == {"seed-1"}
    assert all(neighbour.overlap > neighbour.chance for neighbour in nearest if neighbour.one_start)


def test_directions_shared_on_both_sides_are_no_common_start(registry: sr.Registry) -> None:
    for name, adapter in shared_directions(2, shared=5).items():
        registry.commit(adapter, task=name)
    (neighbour,) = similar(registry.context, "mix-0", space=None)
    assert neighbour.overlap > 0.8
    assert not neighbour.one_start


def test_a_version_is_not_its_own_neighbour_but_an_older_one_has_the_newest(
    collection: sr.Registry,
) -> None:
    assert "tiny/grown@v2" not in {
        neighbour.ref for neighbour in similar(collection.context, "grown", space=None)
    }
    assert similar(collection.context, "grown@v1", space=None)[0].ref == "tiny/grown@v2"


def test_what_an_earlier_call_returned_is_a_reference(collection: sr.Registry) -> None:
    resolved = collection.resolve("grown@v1")
    assert similar(collection.context, resolved, space=None).adapter == "tiny/grown@v1"


def test_dropped_tasks_are_left_out(collection: sr.Registry) -> None:
    collection.drop("grown")
    assert "grown" not in {
        neighbour.task for neighbour in similar(collection.context, continued()["v3"], space=None)
    }


def test_ranks_may_differ_and_modules_be_missing(collection: sr.Registry) -> None:
    draw = drawing(9)
    small = adapter_from_rows(
        {modules()[0]: (draw(2, 128), draw(2, 96)), "layers.9.other": (draw(2, 128), draw(2, 96))}
    )
    nearest = similar(collection.context, small, space=None)
    assert all(abs(neighbour.cosine) < 0.2 for neighbour in nearest)
    assert all(neighbour.distance > 1 for neighbour in nearest)


def test_a_directory_is_read_where_no_task_is_called_so(registry: sr.Registry) -> None:
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    for place in (str(DEMO / "wn-pos-gloss" / "v2"), DEMO / "wn-pos-gloss" / "v2"):
        nearest = similar(registry.context, place, space=None)
        assert (nearest[0].task, nearest[0].continues) == ("gloss", True)


def test_what_is_neither_is_not_found(collection: sr.Registry) -> None:
    with pytest.raises(sr.NotFoundError):
        similar(collection.context, "absent", space=None)


@pytest.mark.parametrize("limit", [-1, 0, True, 1.5])
def test_a_limit_is_checked(collection: sr.Registry, limit: object) -> None:
    with pytest.raises(sr.InvalidInputError):
        collection.similar("grown", limit=limit)  # type: ignore[arg-type]


def test_a_limit_keeps_the_nearest(collection: sr.Registry) -> None:
    every = similar(collection.context, "seed-0", space=None, limit=None)
    assert (
        similar(collection.context, "seed-0", space=None, limit=2).neighbours
        == every.neighbours[:2]
    )


def test_text_html_and_json(collection: sr.Registry, tmp_path: Path) -> None:
    nearest = similar(collection.context, continued()["v3"], space=None)
    assert "tiny/grown@v2" in str(nearest)
    assert "<table>" in nearest._repr_html_()
    assert repr(nearest) == "<Similar the adapter given: 6 nearest in tiny>"
    assert (
        json.loads(json.dumps(document(nearest), allow_nan=False))["neighbours"][0]["continues"]
        is True
    )


def _dense(adapter: sr.Adapter, name: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    a, b = (
        adapter.tensors[f"base_model.model.{name}.lora_{side}.weight"].double().numpy()
        for side in "AB"
    )
    product: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = b @ a
    return product


def test_what_was_trained_on_for_long_is_recognised_from_either_end(registry: sr.Registry) -> None:
    first, second = (continued(step=0.255)[version] for version in ("v1", "v3"))
    registry.commit(second, task="late")
    (late,) = similar(registry.context, first, space=None)
    assert late.distance > 0.5
    assert late.continues
    registry.commit(first, task="late")
    (early,) = similar(registry.context, second, space=None)
    assert early.continues


def test_directions_shared_on_both_sides_are_called_so(registry: sr.Registry) -> None:
    for name, adapter in shared_directions(2, shared=5).items():
        registry.commit(adapter, task=name)
    assert similar(registry.context, "mix-0", space=None)[0].shares
    assert "shared directions" in str(similar(registry.context, "mix-0", space=None))


@pytest.mark.parametrize(
    ("later", "written"),
    [
        ("model.language_model.", "language_model.model."),
        ("layers.0.", "layers.0._orig_mod."),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_one_function_under_other_keys_is_at_distance_zero(
    later: str, written: str, registry: sr.Registry, tmp_path: Path
) -> None:
    config = zoo.peft.LoraConfig(r=2, target_modules=r".*language_model.*q_proj")
    model = zoo.peft.get_peft_model(peft_configs.fresh("vision-language"), config)
    zoo.scatter(model)
    zoo.save(model.float(), tmp_path / "new")
    (tmp_path / "old").mkdir()
    for name in ("adapter_config.json", "README.md"):
        (tmp_path / "old" / name).write_bytes((tmp_path / "new" / name).read_bytes())
    tensors = load_file(tmp_path / "new" / "adapter_model.safetensors")
    renamed = {key.replace(later, written): tensor for key, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    path = tmp_path / "old" / "adapter_model.safetensors"
    save_file(renamed, path, metadata={"format": "pt"})
    registry.create_space("llava", base_model="org/llava")
    for task in ("old", "new"):
        registry.commit(tmp_path / task, task=f"llava/{task}", budget=0)
    nearest = registry.similar("old").neighbours[0]
    assert nearest.cosine == pytest.approx(1)
    assert nearest.distance == pytest.approx(0, abs=1e-6)
    assert registry.diff("old", "new").tasks[0].change == pytest.approx(0, abs=1e-12)
    assert len(registry.analyze().continued) == 1
