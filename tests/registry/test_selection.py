"""For random configs, whatever comes out of a registry is the function that PEFT loads."""

from pathlib import Path
from typing import Any, Final

import pytest
import torch

import share_registry as sr
from share_registry.algebra.merge_methods import MergeRule
from share_registry.catalog.queries import lookups
from share_registry.exchange.merged_adapter import WeightedAdapter, merge_adapters
from share_registry.materialize import models
from share_registry.names import SpaceName, TaskName
from tests.exchange import peft_configs

# PEFT warns of patterns and exclusions that match nothing
pytestmark = pytest.mark.filterwarnings("ignore")
CONFIGS: Final = 30
SOAK: Final = 500
CLOSE: Final = 1e-6
"""Relative, of logits and norms: the tensors are float32, and a folded scale is rounded once."""
TASK: Final = TaskName("made")


@pytest.mark.parametrize("seed", range(CONFIGS))
def test_what_comes_out_is_the_function_that_peft_loads(seed: int, tmp_path: Path) -> None:
    check_config(seed, tmp_path)


@pytest.mark.soak
def test_what_comes_out_of_many_configs_is_the_function_that_peft_loads(tmp_path: Path) -> None:
    compared = [check_config(seed, tmp_path / str(seed)) for seed in range(CONFIGS, SOAK)]
    assert sum(compared) > len(compared) / 2


def check_config(seed: int, directory: Path) -> bool:
    """Compare every way out with PEFT; tell whether PEFT makes and loads such an adapter."""
    made = directory / "made"
    made.mkdir(parents=True)
    name = peft_configs.save(seed, made)
    if name is None:
        return False
    try:
        reference = peft_configs.load(name, made)
    except (ValueError, KeyError, RuntimeError):
        reference = None
    with sr.Registry.open(directory / "registry") as registry:
        registry.create_space("tiny", base_model="org/tiny", policy=sr.Policy(refit=False))
        try:
            registry.commit(made, task=TASK, space="tiny", budget=0, allow_base_mismatch=True)
        except sr.InvalidInputError:
            assert reference is None
        if reference is None:
            return False
        expected = peft_configs.logits(reference, name)
        exported = registry.export(TASK, directory, name="native").path
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            assert (exported / file).read_bytes() == (made / file).read_bytes()
        with registry.context.catalog.begin() as session:
            row = lookups.latest_version(session, SpaceName("tiny"), TASK)
        assert row is not None
        assert row.norm == pytest.approx(peft_configs.energy(reference), rel=CLOSE)
        adapter = registry.checkout(TASK)
        check_close(apply(adapter, name), expected, name)
        check_swapped(adapter, name, expected)
        check_portable(registry, directory, name, expected)
        check_merged(adapter, name, expected)
    return True


def apply(adapter: sr.Adapter, name: str) -> Any:
    return adapter.apply_to(peft_configs.fresh(name))


def check_close(model: Any, expected: torch.Tensor, name: str) -> None:
    actual = peft_configs.logits(model, name)
    assert float((actual - expected).norm()) <= CLOSE * float(expected.norm())


def check_swapped(adapter: sr.Adapter, name: str, expected: torch.Tensor) -> None:
    model = apply(adapter, name)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.ones_(parameter)
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.scaling["default"] = 0.123
    models.swap(model, adapter)
    check_close(model, expected, name)


def check_portable(
    registry: sr.Registry, directory: Path, name: str, expected: torch.Tensor
) -> None:
    try:
        path = registry.export(TASK, directory, name="portable", profile="portable").path
    except sr.RefusedError:
        return
    check_close(peft_configs.load(name, path), expected, name)


def check_merged(adapter: sr.Adapter, name: str, expected: torch.Tensor) -> None:
    model = peft_configs.fresh(name)
    try:
        models.merge(model, adapter)
        check_close(model, expected, name)
    except sr.RefusedError:
        pass
    half = WeightedAdapter(ref="made", adapter=adapter, weight=0.5)
    try:
        merged = merge_adapters([half, half], MergeRule(method="linear"))
    except sr.RefusedError:
        return
    check_close(apply(merged, name), expected, name)
