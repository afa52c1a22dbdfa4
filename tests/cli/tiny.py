"""Small PEFT directories of random numbers: LoRA of rank 4 on two layers, 32 wide."""

import json
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

BASE: Final = "tiny-org/Tiny-Model"
SPACE: Final = "tiny-model"
WIDTH: Final = 32
RANK: Final = 4


def write_adapter(
    directory: Path,
    *,
    seed: int,
    near: int | None = None,
    base: str = BASE,
    layers: str = "encoder.layer",
) -> Path:
    """Write an adapter; with `near`, one that differs little from that of another seed.

    `layers`: where its layers are; servers know an encoder by that.
    """
    directory.mkdir(parents=True)
    tensors = {
        name.replace("encoder.layer", layers): value for name, value in _tensors(seed, near).items()
    }
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "task_type": "FEATURE_EXTRACTION",
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": ["query", "value"],
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return directory


def _tensors(seed: int, near: int | None) -> dict[str, np.ndarray]:
    tensors = _random(seed if near is None else near)
    if near is not None:
        tensors = {
            name: (value + 0.1 * change).astype(np.float32)
            for (name, value), change in zip(tensors.items(), _random(seed).values(), strict=True)
        }
    return tensors


def _random(seed: int) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(seed)
    shapes = {"lora_A": (RANK, WIDTH), "lora_B": (WIDTH, RANK)}
    return {
        f"base_model.model.encoder.layer.{layer}.attention.self.{module}.{factor}.weight": 0.05
        * numbers.standard_normal(shape, dtype=np.float32)
        for layer in range(2)
        for module in ("query", "value")
        for factor, shape in shapes.items()
    }
