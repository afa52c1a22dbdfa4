"""Adapters of trainers of language models: mlx-lm, Tinker, torchtune, AdapterHub; and pickles."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from tests.exchange.foreign import (
    SAME,
    SAMPLES,
    distance,
    expected_of,
    farthest,
    read,
    through_registry,
    updates,
)

MLX, TINKER, HUB = SAMPLES / "mlx-lm", SAMPLES / "tinker", SAMPLES / "adapterhub"
REFUSED = SAMPLES / "refused"
OF_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
PREFIX = "base_model.model."


def copy_of(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / source.name))


def change(path: Path, **members: object) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | members))


@pytest.mark.parametrize(
    "path",
    [MLX / "lora", MLX / "emb", SAMPLES / "torchtune" / "llama" / "epoch_0", HUB / "bert-lora", HUB / "bert-all"],
    ids=lambda path: f"{path.parent.name}-{path.name}",
)  # fmt: skip
def test_what_is_exported_has_the_update_of_the_program(path: Path, tmp_path: Path) -> None:
    file = next(
        folder / "expected_dW.safetensors"
        for folder in (path, path.parent)
        if (folder / "expected_dW.safetensors").exists()
    )
    expected = expected_of(file)
    for adapter in through_registry(path, tmp_path).values():
        deltas = updates(adapter)
        assert deltas.keys() >= expected.keys()
        assert farthest(deltas, expected) < SAME


def test_experts_that_mlx_stacks_become_modules_of_transformers(tmp_path: Path) -> None:
    expected = expected_of(MLX / "moe" / "expected_dW.safetensors")
    for adapter in through_registry(MLX / "moe", tmp_path).values():
        deltas = updates(adapter)
        for module, delta in deltas.items():
            match = re.fullmatch(r"(.*)\.experts\.(\d)\.(w\d)", module)
            stacked = (
                expected[f"{match[1]}.switch_mlp.{OF_MIXTRAL[match[3]]}"][int(match[2])]
                if match
                else expected[module]
            )
            assert distance(delta, stacked) < SAME
        assert len(deltas) == 5 + 3 * 4


@pytest.mark.parametrize(
    ("model", "module", "path"),
    [
        ("q", "model.layers.0.mlp.switch_mlp.up_proj", "model.layers.0.mlp.experts.1.up_proj"),
        ("dots", "model.layers.0.mlp.experts.gate_proj", "model.layers.0.mlp.experts.1.gate_proj"),
        ("acme/granite-moe", "model.layers.0.block_sparse_moe.switch_mlp.up_proj", "model.layers.0.block_sparse_moe.experts.1.up_proj"),
        ("acme/LFM2-8B-A1B", "model.layers.0.feed_forward.switch_mlp.down_proj", "model.layers.0.feed_forward.experts.1.w2"),
    ],
)  # fmt: skip
def test_an_expert_has_the_name_that_its_model_gives_it(
    model: str, module: str, path: str, tmp_path: Path
) -> None:
    save_file(
        {f"{module}.lora_a": torch.randn(2, 4, 8), f"{module}.lora_b": torch.randn(2, 6, 4)},
        tmp_path / "adapters.safetensors",
    )
    config = {"model": model, "lora_parameters": {"rank": 4, "scale": 2.5}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    adapter = read(tmp_path)
    tensors = load_file(tmp_path / "adapters.safetensors")
    expected = 2.5 * tensors[f"{module}.lora_b"][1] @ tensors[f"{module}.lora_a"][1]
    assert distance(updates(adapter)[path], expected) < SAME
    assert adapter.config["base_model_name_or_path"] == model


def test_magnitudes_of_mlx_are_those_of_peft() -> None:
    adapter = read(MLX / "dora")
    tensors = load_file(MLX / "dora" / "adapters.safetensors")
    module = "model.layers.0.self_attn.q_proj"
    kept = adapter.tensors[f"{PREFIX}{module}.lora_magnitude_vector"]
    assert torch.equal(kept, tensors[f"{module}.m"])
    assert adapter.config["use_dora"] is True


def test_a_checkpoint_beside_the_config_is_read(tmp_path: Path) -> None:
    folder = copy_of(MLX / "lora", tmp_path)
    shutil.copy(folder / "adapters.safetensors", folder / "0000100_adapters.safetensors")
    assert (
        read(folder / "0000100_adapters.safetensors").source_digest
        == read(folder / "adapters.safetensors").source_digest
    )
    assert "adapter_config.mlx-lm.json" in read(folder).attachments


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"fine_tune_type": "full"}, "fine_tune_type is 'full'"),
        ({"lora_parameters": {"rank": 8}}, "says no lora_parameters.scale"),
    ],
)
def test_what_mlx_does_not_say_is_not_guessed(
    members: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = copy_of(MLX / "lora", tmp_path)
    change(folder / "adapter_config.json", **members)
    with pytest.raises(sr.ShareRegistryError, match=message) as caught:
        read(folder)
    assert caught.value.hint


def test_experts_of_tinker_that_share_a_factor_have_a_pair_each(tmp_path: Path) -> None:
    tensors = load_file(TINKER / "experts" / "adapter_model.safetensors")
    owner = "model.layers.0.mlp.experts"
    names = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    for adapter in through_registry(TINKER / "experts", tmp_path).values():
        deltas = updates(adapter)
        for old, new in names.items():
            a, b = (tensors[f"{PREFIX}{owner}.{old}.lora_{side}.weight"] for side in "AB")
            product = 8 * b.double() @ a.double()
            for expert in range(4):
                assert distance(deltas[f"{owner}.{expert}.{new}"], product[expert]) < SAME
        head = (
            tensors[f"{PREFIX}model.unembed_tokens.lora_B.weight"]
            @ tensors[f"{PREFIX}model.unembed_tokens.lora_A.weight"]
        )
        assert distance(deltas["lm_head"], 8 * head) < SAME


def tinker(folder: Path, tensors: dict[str, torch.Tensor], **members: object) -> Path:
    folder.mkdir()
    save_file(
        {f"{PREFIX}{key}.weight": value for key, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 32, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config | members))
    return folder


def test_parts_of_a_fused_projection_of_tinker_are_one_pair(tmp_path: Path) -> None:
    owner = "model.layers.0.linear_attn"
    tensors = {
        "model.unembed_tokens.lora_A": torch.randn(2, 8),
        "model.unembed_tokens.lora_B": torch.randn(9, 2),
    }
    heights = {"q": 4, "k": 4, "v": 6}
    for name, height in heights.items():
        tensors[f"{owner}.in_proj_{name}.lora_A"] = torch.randn(2, 8)
        tensors[f"{owner}.in_proj_{name}.lora_B"] = torch.randn(height, 2)
    products = [
        tensors[f"{owner}.in_proj_{name}.lora_B"] @ tensors[f"{owner}.in_proj_{name}.lora_A"]
        for name in heights
    ]
    folder = tinker(tmp_path / "qwen", tensors, base_model_name_or_path="Qwen/Qwen3.5-4B")
    adapter = read(folder)
    deltas = updates(adapter)
    fused = "model.language_model.layers.0.linear_attn.in_proj_qkv"
    assert distance(deltas[fused], 16 * torch.cat(products)) < SAME
    assert adapter.config["rank_pattern"] == {fused: 6}
    del tensors[f"{owner}.in_proj_k.lora_A"], tensors[f"{owner}.in_proj_k.lora_B"]
    with pytest.raises(sr.RefusedError, match="some are missing") as caught:
        read(tinker(tmp_path / "part", tensors))
    assert "build_lora_adapter" in str(caught.value.hint)


def test_a_fused_projection_of_adapterhub_is_one_pair_of_its_blocks(tmp_path: Path) -> None:
    expected = expected_of(HUB / "gpt2-merged" / "expected_dW.safetensors")[
        "transformer.h.0.attn.c_attn"
    ]
    for adapter in through_registry(HUB / "gpt2-merged", tmp_path).values():
        # a Conv1D holds the transpose
        assert (
            distance(updates(adapter)["transformer.h.0.attn.c_attn"], expected.T.contiguous())
            < SAME
        )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bert-ia3", "IA3"),
        ("bert-gated", "use_gating"),
        ("bert-doraconfig", "use_dora"),
        ("bert-veraconfig", "VeRA"),
    ],
)
def test_what_adapterhub_calls_lora_and_is_none_is_refused(name: str, reason: str) -> None:
    with pytest.raises(sr.RefusedError, match=reason) as caught:
        read(HUB / name)
    assert caught.value.hint


def test_a_pickle_of_adapterhub_is_not_opened(tmp_path: Path) -> None:
    folder = copy_of(HUB / "bert-lora", tmp_path)
    (folder / "adapter.safetensors").unlink()
    shutil.copy(HUB / "bert-gated" / "pytorch_adapter.bin", folder)
    with pytest.raises(sr.InvalidInputError, match=r"has pytorch_adapter\.bin") as caught:
        read(folder)
    assert "use_safetensors=True" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("bert.lora.h5", "a LoRA of Keras"),
        ("a.onnx_adapter", "an adapter of ONNX Runtime"),
        ("olive.safetensors", "an adapter that Olive wrote"),
        ("litgpt.safetensors", "a LoRA of LitGPT"),
        ("lit_model.pth.lora", "a LoRA of LitGPT"),
        ("loralib.safetensors", "a LoRA of loralib"),
        ("lora.pt", "a pickle"),
    ],
)
def test_formats_that_are_not_read_are_refused_by_name(name: str, label: str) -> None:
    with pytest.raises(sr.RefusedError, match=label) as caught:
        read(REFUSED / name)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["bert.lora.h5", "a.onnx_adapter", "olive.safetensors"])
def test_a_format_is_told_by_content_under_another_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(sr.RefusedError) as plain:
        read(REFUSED / name)
    with pytest.raises(sr.RefusedError) as disguised:
        read(Path(shutil.copy(REFUSED / name, tmp_path / "adapter.safetensors")))
    assert disguised.value.hint == plain.value.hint


def test_a_file_of_megatron_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(
        {"decoder.layers.0.self_attention.linear_qkv.adapter.linear_in.weight": torch.ones(2, 4)},
        path,
    )
    with pytest.raises(sr.RefusedError, match="Megatron"):
        read(path)


def pickled(folder: Path, value: object, source: Path) -> Path:
    folder.mkdir()
    shutil.copy(source / "adapter_config.json", folder)
    torch.save(value, folder / "adapter_model.bin")
    return folder


def test_a_pickle_of_peft_is_read_where_that_is_asked_for(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    plain = read(copied("plain"))
    folder = pickled(tmp_path / "pickled", plain.state_dict(), tmp_path / "plain")
    with pytest.raises(
        sr.InvalidInputError, match="pickles are opened where that is asked for alone"
    ):
        read(folder)
    adapter = read(folder, format="peft-bin")
    assert adapter.config_bytes == plain.config_bytes
    assert all(torch.equal(adapter.tensors[key], plain.tensors[key]) for key in plain.tensors)


class Planted:
    """What a pickle calls where it is opened without care."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("planted"),))


@pytest.mark.parametrize("value", [{"a": Planted()}, [1, 2], {"a": 1}, {1: torch.ones(1)}])
def test_a_pickle_with_more_than_tensors_is_refused(
    value: object, copied: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = pickled(tmp_path / "pickled", value, copied("plain"))
    with pytest.raises(sr.ShareRegistryError) as caught:
        read(folder, format="peft-bin")
    assert caught.value.hint
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        (torch.eye(4).to_sparse(), "expected dense tensors"),
        (torch.ones(4, device="meta"), "expected dense tensors"),
        (torch.zeros(1).expand(1 << 20, 1 << 20), "1099511627776 elements"),
    ],
    ids=["sparse", "meta", "repeated"],
)
def test_a_pickle_of_tensors_that_take_no_place_is_refused(
    tensor: torch.Tensor, part: str, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = pickled(tmp_path / "pickled", {"a": tensor}, copied("plain"))
    with pytest.raises(sr.ShareRegistryError, match=part):
        read(folder, format="peft-bin")


def test_parts_of_a_fused_projection_that_take_other_inputs_are_refused(tmp_path: Path) -> None:
    names = {"q": 8, "k": 8, "v": 6}
    module = "model.layers.0.linear_attn.in_proj"
    tensors = {f"{module}_{name}.lora_A": torch.ones(2, n) for name, n in names.items()}
    tensors |= {f"{module}_{name}.lora_B": torch.ones(4, 2) for name in names}
    with pytest.raises(sr.InvalidInputError, match=r"\[8, 8, 6\] inputs"):
        read(tinker(tmp_path / "part", tensors), format="tinker")
