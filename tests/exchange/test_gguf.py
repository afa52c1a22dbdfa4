"""LoRA in GGUF, written by the gguf package as llama.cpp's converter uses it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import share_registry as sr
from tests.exchange.foreign import SAME, distance, read, through_registry, updates

HEADS, KV_HEADS, WIDTH = 4, 2, 8
"""Of a model with 32 rows of q and 16 of k."""
QUANTIZED = 1e-2
"""Eight bits of a block of 32 values."""
Q4 = gguf.GGMLQuantizationType.Q4_0


def write(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    arch: str = "qwen2",
    alpha: float = 6.0,
    kind: str = "adapter",
    raw: Any = None,
) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type(kind)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_string("general.base_model.0.repo_url", "https://huggingface.co/acme/base")
    for key, tensor in tensors.items():
        data = tensor.numpy()
        if raw is not None:
            writer.add_tensor(key, gguf.quants.quantize(data, raw), raw_dtype=raw)
        else:
            writer.add_tensor(key, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows as llama.cpp's converter puts them (LlamaModel.permute)."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def pair(rows: int, width: int = 32, rank: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rank, width), torch.randn(rows, rank)


def test_one_alpha_is_divided_by_the_rank_of_each_pair(tmp_path: Path) -> None:
    (q_a, q_b), (d_a, d_b) = pair(32), pair(32, 64, 2)
    path = write(
        tmp_path / "mine.gguf",
        {
            "blk.1.attn_q.weight.lora_a": q_a,
            "blk.1.attn_q.weight.lora_b": q_b,
            "blk.0.ffn_down.weight.lora_a": d_a,
            "blk.0.ffn_down.weight.lora_b": d_b,
        },
    )
    for adapter in through_registry(path, tmp_path).values():
        deltas = updates(adapter)
        assert distance(deltas["model.layers.1.self_attn.q_proj"], 1.5 * q_b @ q_a) < SAME
        assert distance(deltas["model.layers.0.mlp.down_proj"], 3.0 * d_b @ d_a) < SAME
    assert read(path).config["base_model_name_or_path"] == "acme/base"


def test_an_alpha_of_0_is_a_scale_of_1(tmp_path: Path) -> None:
    a, b = pair(32)
    tensors = {"output.weight.lora_a": a, "output.weight.lora_b": b}
    path = write(tmp_path / "mine.gguf", tensors, alpha=0.0)
    assert distance(updates(read(path))["lm_head"], b @ a) < SAME


def test_the_embedding_s_lora_a_is_turned_back(tmp_path: Path) -> None:
    a, b = torch.randn(4, 50), torch.randn(16, 4)
    tensors = {
        "token_embd.weight.lora_a": a.T.contiguous(),
        "token_embd.weight.lora_b": b,
    }
    path = write(tmp_path / "mine.gguf", tensors)
    assert distance(updates(read(path))["model.embed_tokens"], 1.5 * (b @ a).T) < SAME


def test_experts_are_one_pair_each(tmp_path: Path) -> None:
    a, b = torch.randn(3, 4, 32), torch.randn(3, 16, 4)
    tensors = {"blk.0.ffn_up_exps.weight.lora_a": a, "blk.0.ffn_up_exps.weight.lora_b": b}
    deltas = updates(read(write(tmp_path / "mine.gguf", tensors, arch="qwen3moe")))
    for expert in range(3):
        module = f"model.layers.0.mlp.experts.{expert}.up_proj"
        assert distance(deltas[module], 1.5 * b[expert] @ a[expert]) < SAME


def test_rows_of_llama_are_put_back_with_the_heads_of_its_config(tmp_path: Path) -> None:
    (q_a, q_b), (k_a, k_b) = pair(HEADS * WIDTH), pair(KV_HEADS * WIDTH)
    tensors = {
        "blk.0.attn_q.weight.lora_a": q_a,
        "blk.0.attn_q.weight.lora_b": permute(q_b, HEADS),
        "blk.0.attn_k.weight.lora_a": k_a,
        "blk.0.attn_k.weight.lora_b": permute(k_b, KV_HEADS),
    }
    path = write(tmp_path / "mine.gguf", tensors, arch="llama")
    with pytest.raises(sr.RefusedError, match="in an order of its own") as caught:
        read(path)
    assert "config.json" in str(caught.value.hint)
    config = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for adapter in (read(path), read(tmp_path)):
        deltas = updates(adapter)
        assert distance(deltas["model.layers.0.self_attn.q_proj"], 1.5 * q_b @ q_a) < SAME
        assert distance(deltas["model.layers.0.self_attn.k_proj"], 1.5 * k_b @ k_a) < SAME


@pytest.mark.parametrize("element", [np.float16, np.float32])
def test_elements_keep_their_type(element: Any, tmp_path: Path) -> None:
    a, b = pair(32)
    kind = torch.from_numpy(np.zeros(1, element)).dtype
    tensors = {
        "blk.0.attn_v.weight.lora_a": a.to(kind),
        "blk.0.attn_v.weight.lora_b": b.to(kind),
    }
    adapter = read(write(tmp_path / "mine.gguf", tensors))
    assert {tensor.dtype for tensor in adapter.tensors.values()} == {kind}
    assert any(torch.equal(tensor, a.to(kind)) for tensor in adapter.tensors.values())


def test_blocks_of_eight_bits_are_spread_out(tmp_path: Path) -> None:
    a, b = torch.randn(32, 64), torch.randn(64, 32)
    tensors = {"blk.0.attn_v.weight.lora_a": a, "blk.0.attn_v.weight.lora_b": b}
    path = write(tmp_path / "mine.gguf", tensors, raw=gguf.GGMLQuantizationType.Q8_0)
    kept = read(path).tensors["base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"]
    reader = gguf.GGUFReader(path)
    expected = gguf.quants.dequantize(reader.tensors[0].data, reader.tensors[0].tensor_type)
    assert torch.equal(kept, torch.from_numpy(expected.copy()))
    assert distance(kept.double(), a) < QUANTIZED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "model"}, "expected an adapter of type lora"),
        ({"kind": "model", "raw": Q4}, "expected an adapter of type lora"),
        ({"arch": "gpt2", "raw": Q4}, "for the architecture 'gpt2'"),
        ({"raw": Q4}, "elements of type 2"),
    ],
)
def test_what_is_not_known_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tensors = {
        "blk.0.attn_v.weight.lora_a": torch.randn(32, 64),
        "blk.0.attn_v.weight.lora_b": torch.randn(64, 32),
    }
    with pytest.raises(sr.RefusedError, match=message) as caught:
        read(write(tmp_path / "mine.gguf", tensors, **changes))
    assert caught.value.hint


def test_a_damaged_file_is_an_error_of_ours(tmp_path: Path) -> None:
    a, b = pair(32)
    tensors = {"blk.0.attn_v.weight.lora_a": a, "blk.0.attn_v.weight.lora_b": b}
    content = write(tmp_path / "mine.gguf", tensors).read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / "damaged.gguf"
    for end in [*range(4, 200, 7), len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(sr.ShareRegistryError):
            read(path)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[int(generator.integers(4, 400))] = int(generator.integers(256))
        path.write_bytes(damaged)
        with suppress(sr.ShareRegistryError):
            read(path)
