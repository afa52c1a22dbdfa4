"""Small adapters of every form, as PEFT directories, and a registry that holds them.

The registry has references, chains, and everything that moves them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

import share_registry as sr

PREFIX: Final = "base_model.model.layer.0"
Tensors = dict[str, torch.Tensor]
SHAPES: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "query": ((4, 64), (48, 4)),
    "value": ((4, 64), (64, 4)),
}
CONV: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "conv": ((4, 8, 3, 3), (16, 4, 1, 1))
}
EXPERTS: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "experts": ((12, 40), (24, 12))
}


def pairs(
    seed: int,
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = SHAPES,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensors:
    """Return random factor pairs."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, sizes in shapes.items():
        for side, size in zip("AB", sizes, strict=True):
            tensors[f"{PREFIX}.{module}.lora_{side}.weight"] = (
                0.05 * torch.randn(size, generator=generator)
            ).to(dtype)
    return tensors


def near(tensors: Tensors, seed: int, amount: float) -> Tensors:
    """Return tensors that differ a little."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value + amount * 0.05 * torch.randn(value.shape, generator=generator)
        for key, value in tensors.items()
    }


def passengers(seed: int) -> Tensors:
    """Return tensors beside the pairs.

    One large enough to be an object of its own, one small, one of integers.
    """
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn((300, 64), generator=generator)
    return {
        f"{PREFIX}.query.lora_magnitude_vector": torch.randn(48, generator=generator),
        f"{PREFIX}.value.lora_magnitude_vector": torch.ones(64),
        "base_model.model.classifier.weight": head,
        "base_model.model.classifier.bias": torch.zeros(300),
    }


def write(directory: Path, tensors: Tensors, **options: Any) -> Path:
    """Write a PEFT directory."""
    directory.mkdir(parents=True)
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        directory / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/base",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["query", "value", "conv"],
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config | options, indent=2))
    (directory / "tokenizer.json").write_text('{"a": 1}')
    return directory


def fill(registry: sr.Registry, folder: Path) -> None:
    """Commit adapters of every form, continued, lossless, restored, renamed and dropped."""
    start = pairs(1)
    mixed = {
        f"{PREFIX}.query.lora_magnitude_vector": torch.ones(48),
        f"{PREFIX}.value.lora_magnitude_vector": torch.ones(64),
    }
    sources = {
        "plain": write(folder / "plain", start),
        "shared": write(
            folder / "shared",
            {key: value if "lora_A" in key else pairs(2)[key] for key, value in start.items()},
        ),
        "bf16": write(folder / "bf16", pairs(3, dtype=torch.bfloat16)),
        "fp16": write(folder / "fp16", pairs(4, dtype=torch.float16)),
        "conv": write(folder / "conv", pairs(5, CONV)),
        "experts": write(
            folder / "experts",
            pairs(6, EXPERTS),
            target_modules=[],
            target_parameters=["experts.down"],
        ),
        "dora": write(folder / "dora", near(start, 12, 0.1) | mixed, use_dora=True),
        "passengers": write(
            folder / "passengers",
            pairs(7) | passengers(8),
            use_dora=True,
            modules_to_save=["classifier"],
        ),
    }
    for task, source in sources.items():
        registry.commit(source, task=task)
    for version in range(2, 6):
        start = near(start, version, 0.05)
        registry.commit(write(folder / f"plain-{version}", start), task="plain")
    registry.commit(write(folder / "exact", pairs(9)), task="exact", budget=0)
    registry.commit(write(folder / "exact-2", near(pairs(9), 10, 0.02)), task="exact")
    registry.commit(
        write(folder / "coarse", pairs(11)), task="coarse", budget=0.3, derived_from=["plain@v1"]
    )
    registry.restore("plain@v2")
    registry.rename("shared", "common")
    registry.commit(write(folder / "common", near(pairs(2), 13, 0.02)), task="common")
    registry.set_alias("plain@v2", "prod")
    registry.drop("conv")
