"""Adapters that other programs wrote, and what they are worth once they went through a registry."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

import share_registry as sr
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.normal_form import pairs_of_function
from share_registry.format.layout import Form
from share_registry.outside.files import Outside

SAMPLES = Path(__file__).parent / "samples"
"""Files that the programs named there wrote, with the dW that each of them merges."""
SAME = 1e-6
"""Between a product in float32, as the programs compute it, and the one in float64."""


def read(path: Path, *, format: str | None = None, part: str | None = None) -> Adapter:
    """Return an adapter as a commit reads it."""
    return read_place(path, format=format, part=part, outside=Outside())


def updates(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Return dW of every module; of an embedding as its table has it."""
    tables = {factor.module for factor in adapter.layout.factors if factor.form is Form.EMBEDDING}
    deltas = {}
    for pair in pairs_of_function(adapter):
        delta = pair.scale * (pair.b.T @ pair.a)
        deltas[pair.module] = delta.T if pair.module in tables else delta
    return deltas


def distance(delta: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative error of a dW."""
    flat = expected.double().reshape(delta.shape)
    return float((delta - flat).norm() / flat.norm())


def farthest(deltas: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Return the largest relative error of the modules expected, which must all be there."""
    return max(distance(deltas[module], expected[module]) for module in expected)


def expected_of(path: Path) -> dict[str, torch.Tensor]:
    """Return what a program merges."""
    return load_file(path)


def through_registry(path: Path, folder: Path) -> dict[str, Adapter]:
    """Commit an adapter bit for bit; return it as its exports are read, by their profile."""
    with sr.Registry.open(folder / "registry") as registry:
        registry.create_space("s", base_model="org/base")
        commit = registry.commit(path, space="s", task="t", budget=0, allow_base_mismatch=True)
        exports = {
            profile: registry.export(commit.ref, folder / profile, profile=profile)
            for profile in ("native", "portable")
        }
        return {profile: read(Path(export.path)) for profile, export in exports.items()}
