"""PEFT directories whose factors are mixtures of the same rows, so that a basis is worth having."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

BASE = "acme/tiny"


def write_planted(
    root: Path,
    count: int,
    *,
    modules: int = 3,
    rank: int = 4,
    width: int = 192,
    shared: int = 6,
    noise: float = 0.02,
    seed: int = 0,
    module: str = "proj",
) -> dict[str, Path]:
    """Write adapters `t00`, `t01`, ... and return their directories by name.

    `shared` 0: they have nothing in common. `module`: what each layer's one is called; servers
    know by name which they adapt.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    bases = [(normal(shared, width), normal(shared, width)) for _ in range(modules)]
    folders = {}
    for number in range(count):
        tensors = {}
        for index, (base_a, base_b) in enumerate(bases):
            key = f"base_model.model.layers.{index}.{module}"
            for side, base in (("A", base_a), ("B", base_b)):
                mixed = normal(rank, shared) @ base if shared else normal(rank, width)
                rows = mixed + noise * mixed.square().mean().sqrt() * normal(rank, width)
                tensors[f"{key}.lora_{side}.weight"] = (
                    rows if side == "A" else rows.T
                ).float().contiguous() * 0.1
        folders[f"t{number:02d}"] = write(root / f"t{number:02d}", tensors, rank, module)
    return folders


def write(
    directory: Path, tensors: Mapping[str, torch.Tensor], rank: int, module: str = "proj"
) -> Path:
    """Write one PEFT directory."""
    directory.mkdir(parents=True)
    save_file(dict(tensors), directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": BASE,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": [module],
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory
