"""For random configs, whatever comes out of a registry is the function that PEFT loads."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

import share_registry as sr
from share_registry.algebra.merge_methods import MergeRule
from share_registry.catalog.queries import version_lookups
from share_registry.exchange.merged_adapter import WeightedAdapter, merge_adapters
from share_registry.materialize import models
from share_registry.names import SpaceName, TaskName
from tests.exchange import peft_configs

# PEFT warns of patterns and exclusions that match nothing
pytestmark = pytest.mark.filterwarnings("ignore")
CONFIGS: Final = 20
SOAK: Final = 500
CLOSE: Final = 1e-6
"""Relative, of logits and norms: the tensors are float32, and a folded scale is rounded once."""
TASK: Final = TaskName("made")


@pytest.mark.parametrize("seed", range(CONFIGS))
def test_what_comes_out_is_the_function_that_peft_loads(seed: int, tmp_path: Path) -> None:
    check_config(seed, tmp_path)


@pytest.mark.soak
def test_what_comes_out_of_many_configs_is_the_function_that_peft_loads(tmp_path: Path) -> None:
    ways: Counter[str] = Counter()
    for seed in range(CONFIGS, SOAK):
        ways.update(check_config(seed, tmp_path / str(seed)))
    assert {*peft_configs.MODELS} < ways.keys()
    # what has no portable form, or cannot be merged into a model, is the smaller part
    assert min(ways["portable"], ways["merged into the model"], ways["merged"]) > SOAK / 4
    assert ways["swapped"] == sum(ways[name] for name in peft_configs.MODELS) > SOAK / 2


def check_config(seed: int, directory: Path) -> set[str]:
    """Compare every way out with PEFT; return the ways, and the model.

    It is none where PEFT does not load such an adapter. Some ways out are refused.
    """
    made = directory / "made"
    made.mkdir(parents=True)
    name = peft_configs.save(seed, made)
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
            return set()
        expected = peft_configs.logits(reference, name)
        exported = registry.export(TASK, directory, name="native").path
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            assert (exported / file).read_bytes() == (made / file).read_bytes()
        with registry.context.catalog.begin() as session:
            row = version_lookups.latest_version(session, SpaceName("tiny"), TASK)
        assert row is not None
        assert row.norm == pytest.approx(peft_configs.energy(reference), rel=CLOSE)
        adapter = registry.checkout(TASK)
        ways: dict[str, Callable[[], Any]] = {
            "applied": lambda: apply(adapter, name),
            "swapped": lambda: swapped(adapter, name),
            "merged into the model": lambda: merged_into_model(adapter, name),
            "merged": lambda: apply(merged(adapter, [1.0]), name),
            "merged of halves": lambda: apply(merged(adapter, [0.5, 0.5]), name),
            "portable": lambda: peft_configs.load(name, exported_portable(registry, directory)),
        }
        return {name} | {way for way, make in ways.items() if is_close(make, expected, name)}


def is_close(make: Callable[[], Any], expected: torch.Tensor, name: str) -> bool:
    """Check that a model is the function expected; return False where it is refused."""
    try:
        model = make()
    except sr.RefusedError:
        return False
    actual = peft_configs.logits(model, name)
    assert float((actual - expected).norm()) <= CLOSE * float(expected.norm())
    return True


def apply(adapter: sr.Adapter, name: str) -> Any:
    return adapter.apply_to(peft_configs.fresh(name))


def swapped(adapter: sr.Adapter, name: str) -> Any:
    model = apply(adapter, name)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.ones_(parameter)
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.scaling["default"] = 0.123
    models.swap(model, adapter)
    return model


def merged_into_model(adapter: sr.Adapter, name: str) -> Any:
    model = peft_configs.fresh(name)
    models.merge(model, adapter)
    return model


def exported_portable(registry: sr.Registry, directory: Path) -> Path:
    return registry.export(TASK, directory, name="portable", profile="portable").path


def merged(adapter: sr.Adapter, weights: list[float]) -> sr.Adapter:
    parts = [WeightedAdapter(ref="made", adapter=adapter, weight=weight) for weight in weights]
    return merge_adapters(parts, MergeRule(method="linear"))
