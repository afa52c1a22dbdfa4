"""Adapters that are one file of another program, where directories of PEFT are looked at too."""

from pathlib import Path

import torch

import share_registry as sr
from share_registry.exchange.peft_directory import adapter_of
from tests.exchange.test_gguf_export import base, of, pairs, write

MODULES = ("model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.v_proj")


def _file(path: Path, *, shift: float) -> Path:
    """Write an adapter for llama.cpp, which those of another shift are near to."""
    adapter = of(pairs(MODULES[0], 16, 16) | pairs(MODULES[1], 16, 16))
    shifted = {key: tensor + shift * torch.ones(1) for key, tensor in adapter.tensors.items()}
    write(adapter_of(shifted, adapter.config_bytes), base("Qwen2ForCausalLM"), path)
    return path


def test_lone_files_are_analyzed_alone_and_together(tmp_path: Path) -> None:
    files = [
        _file(tmp_path / f"{name}.gguf", shift=shift) for name, shift in (("a", 0), ("b", 0.1))
    ]
    for subject, names in ((str(files[0]), ["a.gguf"]), (files, ["a.gguf", "b.gguf"])):
        assert [each.name for each in sr.analyze(subject).adapters] == names


def test_what_is_similar_to_a_lone_file_is_found(registry: sr.Registry, tmp_path: Path) -> None:
    registry.create_space("s", base_model="acme/base")
    registry.commit(_file(tmp_path / "a.gguf", shift=0), task="words")
    asked = _file(tmp_path / "b.gguf", shift=0.1)
    for place in (asked, str(asked)):
        (nearest,) = registry.similar(place).neighbours
        assert nearest.ref == "s/words@v1"
