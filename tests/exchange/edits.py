"""Changes to a directory that PEFT wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Q = "base_model.model.model.layers.0.self_attn.q_proj"
TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def set_config(source: Path, **fields: object) -> None:
    """Set fields of the config."""
    config = json.loads((source / CONFIG).read_bytes()) | fields
    (source / CONFIG).write_text(json.dumps(config))


def set_tensors(source: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Let a function change the tensors by key."""
    tensors = load_file(source / TENSORS)
    change(tensors)
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        source / TENSORS,
        metadata={"format": "pt"},
    )


def put(key: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], object]:
    """Return the change that sets a tensor."""
    return lambda tensors: tensors.update({key: value})


def move(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], object]:
    """Return the change that gives a tensor another key."""
    return lambda tensors: tensors.update({new: tensors.pop(old)})
