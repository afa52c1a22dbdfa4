"""Files of other programs that are damaged or odd: read, or refused with an error of ours."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import share_registry as sr
from tests.exchange.foreign import SAMPLES, read

SOURCES = [
    (path, path.with_name("adapter_config.json"))
    for path in (
        SAMPLES / "kohya" / "kohya-alpha.safetensors",
        SAMPLES / "lycoris" / "locon-tucker.safetensors",
        SAMPLES / "lycoris" / "dora.safetensors",
        SAMPLES / "diffusers" / "sdxl-metadata" / "pytorch_lora_weights.safetensors",
        SAMPLES / "mlx-lm" / "moe" / "adapters.safetensors",
        SAMPLES / "mlx-lm" / "emb" / "adapters.safetensors",
        SAMPLES / "tinker" / "experts" / "adapter_model.safetensors",
        SAMPLES / "adapterhub" / "gpt2-merged" / "adapter.safetensors",
    )
]
FORMATS = (None, None, None, "diffusers", "kohya", "mlx-lm", "tinker", "adapterhub", "gguf")
ODD: list[Any] = [None, 0, -1, 1.5, "x", [], {}, True, [1, "a"], {"a": 1}, 10**18]
MORE_KEYS = ("x", ".alpha", ".weight", ".lora_A.weight")


def change_tensors(tensors: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    changed = dict(tensors)
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(list(changed))
        tensor = changed.pop(key)
        options = [
            {},
            {key: tensor.reshape(-1)},
            {key: tensor.unsqueeze(0)},
            {key: tensor[:0] if tensor.dim() else tensor},
            {key: tensor.to(torch.int64)},
            {key: tensor[:1] if tensor.dim() else tensor},
            {key: tensor, key + rng.choice(MORE_KEYS): tensor},
            {key: torch.zeros((), dtype=tensor.dtype)},
            {key: tensor.T if tensor.dim() == 2 else tensor},
        ]
        changed |= rng.choice(options)
        changed = changed or {"a": torch.ones(1)}
    return {key: tensor.contiguous().clone() for key, tensor in changed.items()}


def change_json(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict) or not value or rng.random() < 0.2:
        return rng.choice(ODD)
    key = rng.choice(list(value))
    member = rng.choice(ODD) if rng.random() < 0.5 else change_json(value[key], rng)
    return {**value, key: member}


def mutate(folder: Path, rng: random.Random) -> Path:
    folder.mkdir()
    path, config = rng.choice(SOURCES)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if metadata and rng.random() < 0.3:
        name = rng.choice(list(metadata))
        text = metadata[name]
        metadata[name] = json.dumps(change_json(json.loads(text), rng)) if text[:1] == "{" else "{"
    tensors = load_file(path)
    if rng.random() < 0.7:
        tensors = change_tensors(tensors, rng)
    save_file(tensors, folder / path.name, metadata=metadata)
    if config.exists():
        value = json.loads(config.read_text())
        value = change_json(value, rng) if rng.random() < 0.5 else value
        (folder / config.name).write_text(json.dumps(value))
    return folder


def check(count: int, seed: int, root: Path) -> None:
    rng = random.Random(seed)
    for number in range(count):
        folder = mutate(root / str(number), rng)
        try:
            read(folder, format=rng.choice(FORMATS))
        except sr.ShareRegistryError as error:
            message, hint = error.message, error.hint
        else:
            continue
        assert message
        assert hint


def test_an_odd_file_is_read_or_refused_by_name(tmp_path: Path) -> None:
    check(150, 0, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_odd_files_are_read_or_refused_by_name(seed: int, tmp_path: Path) -> None:
    check(2000, seed, tmp_path)
