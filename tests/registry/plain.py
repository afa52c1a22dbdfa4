"""Adapter directories read with numpy and nothing of this project.

What an export is measured against.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

import share_registry as sr

Floats = NDArray[np.float64]


def tensors(directory: Path) -> dict[str, Floats]:
    """Return the tensors in float64 by key."""
    return {
        key: value.astype(np.float64)
        for key, value in load_file(directory / "adapter_model.safetensors").items()
    }


def pooled_error(original: Path, exported: Path) -> float:
    """Return sqrt(sum |dW' - dW|^2 / sum |dW|^2) over all modules, with dense products.

    One alpha and rank for all modules.
    """
    old, new = tensors(original), tensors(exported)
    config = json.loads((original / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    wrong = total = 0.0
    for key in old:
        if key.endswith("lora_A.weight"):
            key_b = key.replace("lora_A", "lora_B")
            expected, actual = scale * old[key_b] @ old[key], scale * new[key_b] @ new[key]
            wrong += float(((actual - expected) ** 2).sum())
            total += float((expected**2).sum())
    return float(np.sqrt(wrong / total))


def files(directory: Path) -> dict[str, bytes]:
    """Return every file of a directory by its path below it."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def exports(registry: sr.Registry, refs: list[str], root: Path) -> dict[str, bytes]:
    """Export versions below a directory; return every file there."""
    for ref in refs:
        registry.export(ref, root)
    return files(root)
