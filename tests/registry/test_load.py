"""Everything that can be handed to commit.

Directories, the Hub, live models, adapters in memory.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import share_registry as sr
from share_registry.exchange import peft_directory
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_directory import adapter_of
from share_registry.format.adapter_object import MAX_EXTERNAL
from share_registry.outside.files import Outside
from share_registry.registry.commands import coding
from tests.exchange import zoo
from tests.exchange.hub_state import Hub
from tests.registry import plain
from tests.registry.conftest import DEMO
from tests.registry.planted import write, write_planted

Original = Callable[[str], Path]


def test_a_hub_repository_is_committed_pinned(
    hub: Hub, original: Original, registry: sr.Registry
) -> None:
    pinned = hub.push("ann/cola-lora", plain.files(original("plain")))
    registry.create_space("zoo")
    commit = registry.commit("hf://ann/cola-lora", space="zoo", allow_base_mismatch=True)
    assert commit.task == "cola-lora"
    assert registry.checkout("cola-lora").source.revision == pinned
    assert pinned in registry.lineage("cola-lora").nodes[0].source
    assert not registry.commit(
        "hf://ann/cola-lora@main", space="zoo", allow_base_mismatch=True
    ).created


def test_a_live_model_is_committed_and_comes_back_into_one(registry: sr.Registry) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = zoo.live("plain")
        registry.create_space("zoo")
        with pytest.raises(sr.InvalidInputError, match="task="):
            registry.commit(trained, space="zoo")
        registry.commit(trained, task="live", space="zoo", budget=0, allow_base_mismatch=True)
        applied = registry.checkout("live").apply_to(zoo.CASES["plain"].base())
        assert torch.equal(zoo.logits(applied), zoo.logits(trained))


def test_a_checked_out_adapter_may_be_committed_to_another_task(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.commit(DEMO / "wn-syn-ant" / "v1", task="first")
    adapter = registry.checkout("first")
    commit = registry.commit(adapter, task="second", derived_from=["first@v1"])
    assert commit.report is not None
    assert {node.ref.rpartition("/")[2] for node in registry.lineage("second").nodes} == {
        "second@v1",
        "first@v1",
    }
    adapter.save(tmp_path / "saved")
    assert registry.commit(tmp_path / "saved", task="third").ref.endswith("third@v1")


def test_what_is_no_adapter_is_named(registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="of type dict, which is no kind of adapter"):
        registry.commit({"lora_A": torch.zeros(2, 2)}, task="x")
    with pytest.raises(sr.NotFoundError, match="does not exist"):
        registry.commit("nowhere/at/all")


@pytest.mark.parametrize("size", [1e-160, 1e-60, 1e60, 1e160])
def test_factors_and_scales_of_no_size_that_can_be_computed_with_are_refused(
    registry: sr.Registry, tmp_path: Path, size: float
) -> None:
    folder = write_planted(tmp_path / "made", 1)["t00"]
    registry.create_space("acme", base_model="acme/tiny")
    tensors = {
        key: tensor.double()
        for key, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    key = next(reversed(tensors))
    with pytest.raises(sr.InvalidInputError, match=f"{key}.*expected 0 or a size between"):
        registry.commit(write(tmp_path / "wide", tensors | {key: tensors[key] * size}, 4))
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', f'"lora_alpha": {size}'))
    with pytest.raises(sr.InvalidInputError, match=r"has the scale .*expected 0 or a size between"):
        registry.commit(folder)
    with pytest.raises(sr.InvalidInputError, match="has the scale"):
        sr.analyze(tmp_path / "made")


@pytest.mark.filterwarnings("error")
def test_tasks_of_every_size_that_float32_has_share_a_space(
    registry: sr.Registry, tmp_path: Path
) -> None:
    """Nothing that weighs tasks against each other leaves float64, whatever their sizes."""
    registry.create_space("acme", base_model="acme/tiny")
    for name, folder in write_planted(tmp_path / "made", 10, shared=4).items():
        power = (-44, -40, -30, -20, -10, 0, 10, 20, 30, 37)[int(name[1:])]
        tensors = {
            key: (tensor.double() * 10.0**power).float()
            for key, tensor in load_file(folder / "adapter_model.safetensors").items()
        }
        report = registry.commit(write(tmp_path / "sized" / name, tensors, 4)).report
        assert report is not None
        assert report.error <= 0.025
    assert registry.refit(max_rank=4, force=True).basis
    assert registry.refit(weighting="energy", max_rank=3, force=True).basis
    assert registry.refit(max_rank=2, budget=0.02).number
    assert registry.analyze().verdict
    assert registry.verify(level="deep").ok


def test_more_large_passengers_than_can_be_objects_are_kept_all_the_same(
    registry: sr.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coding, "EXTERNAL_BYTES", 16)
    source = read_place(DEMO / "wn-syn-ant" / "v1", outside=Outside())
    biases = {
        f"base_model.model.extra.{number}.bias": torch.full((4,), float(number))
        for number in range(MAX_EXTERNAL + 3)
    }
    registry.commit(adapter_of(dict(source.tensors) | biases, source.config_bytes), task="biased")
    restored = registry.checkout("biased").tensors
    assert all(torch.equal(restored[key], bias) for key, bias in biases.items())


def test_more_tensors_than_a_layout_has_are_refused_by_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peft_directory, "MAX_TENSORS", 10)
    directory = DEMO / "wn-syn-ant" / "v1"
    with pytest.raises(sr.InvalidInputError, match=r"has \d+ tensors, more than the limit of 10"):
        read_place(directory, outside=Outside())
