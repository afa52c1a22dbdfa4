"""Families of adapters in memory, each with its kinship planted.

Nothing shared, one start, shared directions, continued versions.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from share_registry.exchange.adapter import Adapter
from share_registry.exchange.peft_directory import adapter_of

WIDTH, HEIGHT, RANK, MODULES = 128, 96, 4, 3
Draw = Callable[..., Tensor]


def drawing(seed: int) -> Draw:
    """Return a source of normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def adapter_from_rows(rows: Mapping[str, tuple[Tensor, Tensor]], *, alpha: int = 8) -> Adapter:
    """Make an adapter of rows of A and of B transposed by module."""
    rank = max(len(a) for a, _ in rows.values())
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "acme/tiny",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(rows),
        "bias": "none",
        "rank_pattern": {name: len(a) for name, (a, _) in rows.items() if len(a) != rank},
        "alpha_pattern": {name: alpha for name, (a, _) in rows.items() if len(a) != rank},
    }
    tensors = {}
    for name, (a, b) in rows.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.float().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.T.float().contiguous()
    return adapter_of(tensors, config)


def independent(count: int, *, seed: int = 0, rank: int = RANK) -> dict[str, Adapter]:
    """Adapters that have nothing in common."""
    draw = drawing(seed)
    return {
        f"own-{number}": adapter_from_rows(
            {name: (draw(rank, WIDTH), draw(rank, HEIGHT)) for name in modules()}
        )
        for number in range(count)
    }


def one_start(count: int, *, seed: int = 1, drift: float = 0.3) -> dict[str, Adapter]:
    """Adapters whose A began equal and moved by `drift` of its size, each with a B of its own."""
    draw = drawing(seed)
    start = {name: draw(RANK, WIDTH) for name in modules()}
    return {
        f"seed-{number}": adapter_from_rows(
            {name: (a + drift * draw(RANK, WIDTH), draw(RANK, HEIGHT)) for name, a in start.items()}
        )
        for number in range(count)
    }


def shared_directions(
    count: int, *, seed: int = 2, shared: int = 6, noise: float = 0.02
) -> dict[str, Adapter]:
    """Adapters whose rows on both sides mix the same few."""
    draw = drawing(seed)
    bases = {name: (draw(shared, WIDTH), draw(shared, HEIGHT)) for name in modules()}

    def mixed(base: Tensor) -> Tensor:
        rows = draw(RANK, shared) @ base
        return rows + noise * rows.square().mean().sqrt() * draw(*rows.shape)

    return {
        f"mix-{number}": adapter_from_rows(
            {name: (mixed(a), mixed(b)) for name, (a, b) in bases.items()}
        )
        for number in range(count)
    }


def continued(*, seed: int = 3, step: float = 0.15) -> dict[str, Adapter]:
    """Three versions of one adapter, each trained on from the one before."""
    draw = drawing(seed)
    rows = {name: (draw(RANK, WIDTH), draw(RANK, HEIGHT)) for name in modules()}
    versions = {}
    for version in (1, 2, 3):
        versions[f"v{version}"] = adapter_from_rows(rows)
        rows = {
            name: (a + step * draw(*a.shape), b + step * draw(*b.shape))
            for name, (a, b) in rows.items()
        }
    return versions


def change_gauge(original: Adapter, *, seed: int = 4) -> Adapter:
    """Return the same dW in another gauge."""
    draw = drawing(seed)
    rows = {}
    for name in modules():
        a, b = (
            original.tensors[f"base_model.model.{name}.lora_{side}.weight"].double()
            for side in "AB"
        )
        G = draw(RANK, RANK).double() + 3 * torch.eye(RANK, dtype=torch.float64)
        rows[name] = (G @ a, (b @ torch.linalg.inv(G)).T)
    return adapter_from_rows(rows)


def modules() -> list[str]:
    """Return the names of the modules."""
    return [f"layers.{number}.proj" for number in range(MODULES)]
