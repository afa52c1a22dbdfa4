"""Stores of other programs that keep many adapters in common subspaces."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.exchange.import_list import expand
from share_registry.exchange.peft_directory import adapter_of
from share_registry.outside.files import Outside
from share_registry.values.imports import ImportSource
from tests.exchange.foreign import SAME, distance, read, updates

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")
TASKS = ("cola", "sst2", "task of mine")
ALPHA, RANK = 6, 2
PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of one shape, as directories of PEFT."""
    root = tmp_path_factory.mktemp("sources")
    generator = torch.Generator().manual_seed(0)
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["q_proj", "down_proj"],
        "base_model_name_or_path": "acme/base",
    }
    places = {}
    for task in TASKS:
        tensors = {}
        for module, (out, width) in zip(MODULES, ((12, 8), (8, 16)), strict=True):
            tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.randn(
                RANK, width, generator=generator
            )
            tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
        places[task] = adapter_of(tensors, config).save(root / task)
    return places


@pytest.fixture(scope="module")
def vlora_store(
    sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    import vlora

    path = tmp_path_factory.mktemp("vlora") / "store"
    adapters = [vlora.load_adapter(place) for place in sources.values()]
    subspace = vlora.SharedSubspace.from_adapters(
        adapters, task_ids=list(sources), num_components=2
    )
    subspace.save(path)
    return path, subspace


@pytest.fixture(scope="module")
def lorashare_store(
    sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    import lorashare

    path = tmp_path_factory.mktemp("lorashare") / "store"
    model = lorashare.SHAREModel.from_adapters(
        [str(place) for place in sources.values()], num_components=4
    )
    model.save_pretrained(path)
    return path, model


def products(tensors: dict[str, torch.Tensor], scale: float) -> Iterator[tuple[str, torch.Tensor]]:
    for module in MODULES:
        a, b = (tensors[f"{PREFIX}{module}.lora_{side}.weight"].double() for side in "AB")
        yield module, scale * b @ a


@pytest.mark.parametrize("task", TASKS)
def test_a_task_of_vlora_is_what_vlora_rebuilds(
    task: str, vlora_store: tuple[Path, Any], tmp_path: Path
) -> None:
    import vlora

    path, subspace = vlora_store
    vlora.save_adapter(subspace.reconstruct(task), tmp_path)
    deltas = updates(read(path, part=task))
    for module, product in products(load_file(tmp_path / "adapter_model.safetensors"), 1.0):
        assert distance(deltas[module], product) < SAME


@pytest.mark.parametrize("task", TASKS)
def test_an_adapter_of_lorashare_is_what_lorashare_rebuilds(
    task: str, lorashare_store: tuple[Path, Any]
) -> None:
    path, model = lorashare_store
    adapter = read(path, part=task)
    deltas = updates(adapter)
    for module, product in products(model.reconstruct(task), ALPHA / RANK):
        assert distance(deltas[module], product) < SAME
    assert adapter.config["base_model_name_or_path"] == "acme/base"


@pytest.mark.parametrize("name", ["vlora_store", "lorashare_store"])
def test_each_adapter_of_a_store_is_imported_as_a_task(
    name: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)[0]
    sources = expand(path, outside=Outside())
    tasks = {item.task for item in sources if isinstance(item, ImportSource)}
    assert tasks == {"cola", "sst2", "task-of-mine"}
    with sr.Registry.open("memory://") as registry:
        registry.create_space("s", base_model="acme/base")
        report = registry.import_many(path, space="s")
        assert report.committed == 3
        assert registry.import_many(path, space="s").unchanged == 3
        again = registry.commit(path, adapter_name="cola", space="s")
        assert again.refs == {"cola": "s/cola@v1"}


@pytest.mark.parametrize("name", ["vlora_store", "lorashare_store"])
def test_which_adapter_of_a_store_has_to_be_said(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)[0]
    for part, problem in ((None, "which is meant is not said"), ("rte", "none is 'rte'")):
        with pytest.raises(sr.InvalidInputError, match=problem) as caught:
            read(path, part=part)
        assert "adapter_name" in str(caught.value.hint)


def test_packed_components_are_refused_with_the_way_out(
    vlora_store: tuple[Path, Any], tmp_path: Path
) -> None:
    vlora_store[1].save_quantized(tmp_path / "packed")
    with pytest.raises(sr.RefusedError, match="packed components") as caught:
        read(tmp_path / "packed", part="cola")
    assert "save" in str(caught.value.hint)


def rewritten(store: Path, place: Path, file: str, **tensors: torch.Tensor) -> Path:
    """Return a copy of a store in which tensors, by the ends of their keys, are others."""
    shutil.copytree(store, place)
    kept = load_file(place / file)
    others = {
        key: next((new for end, new in tensors.items() if key.endswith(end)), tensor)
        for key, tensor in kept.items()
    }
    save_file({key: tensor.clone() for key, tensor in others.items()}, place / file)
    return place


@pytest.mark.parametrize(
    ("file", "tensors"),
    [
        ("subspace.safetensors", {"mean_a": torch.ones(40_000, 1)}),
        ("subspace.safetensors", {"components_b": torch.ones(())}),
        ("task_cola.safetensors", {"loadings_a": torch.ones(20_000, 2)}),
    ],
)
def test_tensors_of_vlora_that_do_not_fit_are_refused_before_they_are_large(
    file: str, tensors: dict[str, torch.Tensor], vlora_store: tuple[Path, Any], tmp_path: Path
) -> None:
    path = rewritten(vlora_store[0], tmp_path / "store", file, **tensors)
    with pytest.raises(sr.InvalidInputError, match="tensors of task 'cola'"):
        read(path, part="cola")


def test_a_product_of_lorashare_that_grows_without_measure_is_refused(
    lorashare_store: tuple[Path, Any], tmp_path: Path
) -> None:
    store = lorashare_store[0]
    path = rewritten(
        store, tmp_path / "store", "shared_components.safetensors", A=torch.ones(20_000, 1)
    )
    loadings = path / "adapters" / "cola" / "loadings.safetensors"
    save_file({key: torch.ones(1, 20_000) for key in load_file(loadings)}, loadings)
    with pytest.raises(sr.InvalidInputError, match="400000000 elements"):
        read(path, part="cola")
