"""LoRA in one file: of diffusers, of kohya-ss' trainers and of LyCORIS."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.exchange.importers.module_paths import paths_of
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

DIFFUSERS, KOHYA, LYCORIS = SAMPLES / "diffusers", SAMPLES / "kohya", SAMPLES / "lycoris"
SDXL = DIFFUSERS / "expected_dW.safetensors"
FORWARD = 3e-5
"""What LyCORIS's dW is measured to: outputs in float32 of order 1, dW of order .01."""


@pytest.mark.parametrize(
    "path", [DIFFUSERS / "sdxl-metadata", KOHYA / "kohya-alpha.safetensors"], ids=str
)
def test_what_is_exported_has_the_update_of_the_program(path: Path, tmp_path: Path) -> None:
    for adapter in through_registry(path, tmp_path).values():
        deltas = updates(adapter)
        expected = expected_of(SDXL)
        assert deltas.keys() == expected.keys()
        assert farthest(deltas, expected) < SAME


def test_a_model_that_saved_its_own_layers_has_no_part_in_its_paths() -> None:
    deltas = updates(read(DIFFUSERS / "unet-save_lora_adapter"))
    expected = expected_of(SDXL)
    assert {f"unet.{module}" for module in deltas} == {
        module for module in expected if module.startswith("unet.")
    }
    assert (
        farthest(
            {f"unet.{m}": d for m, d in deltas.items()},
            {f"unet.{m}": expected[f"unet.{m}"] for m in deltas},
        )
        < SAME
    )


def test_one_part_of_a_pipeline_is_read_alone() -> None:
    adapter = read(DIFFUSERS / "sdxl-metadata", part="text_encoder")
    assert sorted(updates(adapter)) == [
        "encoder.layers.0.self_attn.q_proj",
        "encoder.layers.0.self_attn.v_proj",
    ]
    with pytest.raises(sr.InvalidInputError, match="it has those of text_encoder, unet") as caught:
        read(DIFFUSERS / "sdxl-metadata", part="transformer")
    assert "adapter_name" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["flux-plain", "sdxl-plain"])
def test_a_scale_that_the_file_does_not_say_is_1_with_a_remark(name: str) -> None:
    path = DIFFUSERS / name
    adapter = read(path)
    tensors = load_file(path / "pytorch_lora_weights.safetensors")
    down = next(key for key in tensors if "_q." in key and ("lora_A" in key or "down" in key))
    up = down.replace("lora_A", "lora_B").replace(".down.", ".up.")
    module = down.partition(".lora")[0]
    assert distance(updates(adapter)[module], tensors[up].double() @ tensors[down].double()) < SAME
    assert any("have no alpha: their scale is taken for 1" in remark for remark in adapter.remarks)


def test_rank_stabilization_and_patterns_of_the_header_count(tmp_path: Path) -> None:
    a, b = torch.randn(4, 8), torch.randn(6, 4)
    modules = ("x.attn.to_q", "y.attn.to_q")
    tensors = {f"transformer.{module}.lora_A.weight": a for module in modules}
    tensors |= {f"transformer.{module}.lora_B.weight": b for module in modules}
    config = {"r": 4, "lora_alpha": 6, "use_rslora": True, "alpha_pattern": {"y.attn.to_q": 10}}
    header = json.dumps({f"transformer.{name}": value for name, value in config.items()})
    path = tmp_path / "mine.safetensors"
    save_file(
        {key: tensor.clone() for key, tensor in tensors.items()},
        path,
        metadata={"lora_adapter_metadata": header},
    )
    deltas = updates(read(path))
    expected = {"transformer.x.attn.to_q": 3 * b @ a, "transformer.y.attn.to_q": 5 * b @ a}
    assert farthest(deltas, expected) < SAME


def test_processors_of_older_files_are_named_by_their_modules(tmp_path: Path) -> None:
    written = {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora": "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora": "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    }
    tensors = {f"{module}.down.weight": torch.randn(2, 8) for module in written}
    tensors |= {f"{module}.up.weight": torch.randn(6, 2) for module in written}
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    assert set(updates(read(tmp_path))) == set(written.values())


@pytest.mark.parametrize("name", ["locon", "locon-rs", "locon-scalar", "locon-tucker"])
def test_lycoris_files_have_the_update_of_its_layers(name: str, tmp_path: Path) -> None:
    for adapter in through_registry(LYCORIS / f"{name}.safetensors", tmp_path).values():
        expected = expected_of(LYCORIS / f"{name}.expected_dW.safetensors")
        assert farthest(updates(adapter), expected) < FORWARD


def test_a_core_between_the_factors_of_a_convolution_is_multiplied_in() -> None:
    path = LYCORIS / "locon-tucker.safetensors"
    tensors = {key: tensor.double() for key, tensor in load_file(path).items()}
    up, core, down = (tensors[f"lycoris_conv.lora_{name}.weight"] for name in ("up", "mid", "down"))
    expected = torch.einsum("om,mnhw,ni->oihw", up[..., 0, 0], core, down[..., 0, 0])
    scale = float(tensors["lycoris_conv.alpha"]) / 4
    assert distance(updates(read(path))["conv"], scale * expected.reshape(6, -1)) < SAME


@pytest.mark.parametrize(
    ("core", "part"),
    [((1, 1, 20_000, 1), "400000000 elements"), ((1, 2, 3, 3), "expected"), ((1, 1), "expected")],
)
def test_a_core_that_does_not_fit_or_grows_without_measure_is_refused(
    core: tuple[int, ...], part: str, tmp_path: Path
) -> None:
    tensors = {
        "lora_unet_conv_in.lora_down.weight": torch.ones(1, 20_000, 1, 1),
        "lora_unet_conv_in.lora_up.weight": torch.ones(4, 1, 1, 1),
        "lora_unet_conv_in.lora_mid.weight": torch.ones(core),
    }
    save_file(tensors, tmp_path / "conv.safetensors")
    with pytest.raises(sr.InvalidInputError, match=part):
        read(tmp_path / "conv.safetensors")


def test_weight_decomposition_by_outputs_is_peft_s_dora() -> None:
    path = LYCORIS / "dora.safetensors"
    adapter, base = read(path), load_file(LYCORIS / "base.safetensors")
    assert adapter.config["use_dora"] is True
    expected = expected_of(LYCORIS / "dora.expected_dW.safetensors")
    for module, delta in updates(adapter).items():
        if module in expected:
            weight = base[f"{module}.weight"].double()
            magnitude = adapter.tensors[f"base_model.model.{module}.lora_magnitude_vector"].double()
            merged = weight + delta
            rescaled = magnitude[:, None] * merged / merged.norm(dim=1, keepdim=True)
            assert distance(rescaled - weight, expected[module]) < FORWARD


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((f"{name}", "LoHa") for name in ("loha",)),
        *((name, "LoKr") for name in ("lokr", "lokr-both", "lokr-full", "lokr-full-rs")),
        *((name, "GLoRA") for name in ("glora", "glora-rs")),
        *((name, "IA3") for name in ("ia3", "ia3-in")),
        ("full-norm", "full weights"),
        ("dora-in", "magnitudes of the inputs"),
    ],
)
def test_what_is_no_product_of_two_factors_is_refused_by_name(name: str, method: str) -> None:
    with pytest.raises(sr.RefusedError, match=method) as caught:
        read(LYCORIS / f"{name}.safetensors")
    assert "truncated SVD" in str(caught.value.hint)


def kohya_file(
    folder: Path, alpha: torch.Tensor | None, *, module: str = "lora_unet_conv_in"
) -> Path:
    tensors = {
        f"{module}.lora_down.weight": torch.randn(4, 8),
        f"{module}.lora_up.weight": torch.randn(6, 4),
    }
    path = folder / "a.safetensors"
    save_file(tensors if alpha is None else tensors | {f"{module}.alpha": alpha}, path)
    return path


@pytest.mark.parametrize(
    ("alpha", "scale"),
    [
        (torch.tensor(6), 1.5),
        (torch.tensor([6.0]), 1.5),
        (torch.tensor(6.0, dtype=torch.bfloat16), 1.5),
        (torch.tensor(1.0, dtype=torch.float16), 0.25),
        (torch.tensor(0.0), 1.0),
        (None, 1.0),
    ],
)
def test_alpha_is_divided_by_the_rank_and_0_or_none_is_the_rank(
    alpha: torch.Tensor | None, scale: float, tmp_path: Path
) -> None:
    path = kohya_file(tmp_path, alpha)
    tensors = load_file(path)
    product = (
        tensors["lora_unet_conv_in.lora_up.weight"] @ tensors["lora_unet_conv_in.lora_down.weight"]
    )
    assert distance(updates(read(path))["unet.conv_in"], scale * product) < SAME


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    path = kohya_file(tmp_path, None)
    tensors = load_file(path)
    tensors["lora_unet_conv_out.lora_up.weight"] = torch.randn(6, 4)
    save_file(tensors, path)
    with pytest.raises(sr.InvalidInputError, match=r"unet.conv_out: expected two factors"):
        read(path)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_ff_net_0_proj", "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj"),
        ("lora_unet_up_blocks_2_resnets_0_time_emb_proj", "unet.up_blocks.2.resnets.0.time_emb_proj"),
        ("lora_te_text_model_encoder_layers_11_mlp_fc1", "text_encoder.text_model.encoder.layers.11.mlp.fc1"),
        ("lora_te2_text_projection", "text_encoder_2.text_projection"),
        ("lora_te3_encoder_block_0_layer_1_DenseReluDense_wi_0", "text_encoder_3.encoder.block.0.layer.1.DenseReluDense.wi_0"),
        ("lora_unet_double_blocks_3_img_attn_qkv", "unet.double_blocks.3.img_attn.qkv"),
        ("lora_transformer_single_transformer_blocks_3_attn_to_q", "transformer.single_transformer_blocks.3.attn.to_q"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
        ("lora_unet_input_blocks_3_0_op", "unet.down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_middle_block_1_proj_in", "unet.mid_block.attentions.0.proj_in"),
        ("lora_unet_output_blocks_5_2_conv", "unet.up_blocks.1.upsamplers.0.conv"),
        ("lora_unet_output_blocks_4_0_skip_connection", "unet.up_blocks.1.resnets.1.conv_shortcut"),
        ("lora_unet_input_blocks_0_0", "unet.conv_in"),
        ("lora_unet_label_emb_0_2", "unet.add_embedding.linear_2"),
        ("lycoris_model_layers_0_self_attn_q_proj", "model.layers.0.self_attn.q_proj"),
    ],
)  # fmt: skip
def test_underscores_become_points_where_the_module_has_them(written: str, path: str) -> None:
    assert paths_of([written]) == ({written: path}, [])


def test_a_name_that_no_model_is_known_to_have_is_kept(tmp_path: Path) -> None:
    adapter = read(kohya_file(tmp_path, None, module="lora_unet_my_own_block_to_q"))
    assert list(updates(adapter)) == ["unet.my_own_block_to_q"]
    assert any("which underscores part its path is not known" in text for text in adapter.remarks)


def test_a_format_that_is_named_is_not_told_by_content(tmp_path: Path) -> None:
    tensors = {
        "strange.lora_A.weight": torch.randn(2, 8),
        "strange.lora_B.weight": torch.randn(6, 2),
    }
    path = tmp_path / "strange.safetensors"
    save_file(tensors, path)
    with pytest.raises(sr.RefusedError, match="is the tensors of a LoRA alone") as alone:
        read(path)
    assert "format='diffusers'" in str(alone.value.hint)
    assert list(updates(read(path, format="diffusers"))) == ["strange"]
    with pytest.raises(sr.InvalidInputError, match="format 'difusers' is unknown") as caught:
        read(path, format="difusers")
    assert caught.value.hint == "Did you mean diffusers?"


def test_of_several_files_one_has_to_be_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        kohya_file(tmp_path, None).rename(tmp_path / f"{name}.safetensors")
    with pytest.raises(
        sr.InvalidInputError, match=r"2 files that are a LoRA of kohya-ss or LyCORIS"
    ):
        read(tmp_path)
    assert list(updates(read(tmp_path / "two.safetensors"))) == ["unet.conv_in"]


def test_the_task_has_the_name_of_the_file(tmp_path: Path) -> None:
    kohya_file(tmp_path, None).rename(tmp_path / "Pixel-Art_v2.safetensors")
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.create_space("sdxl")
        commit = registry.commit(tmp_path / "Pixel-Art_v2.safetensors", space="sdxl")
        report = commit.reports["pixel-art_v2"]
        again = registry.commit(tmp_path / "Pixel-Art_v2.safetensors", space="sdxl")
    assert "read as a LoRA of kohya-ss or LyCORIS." in report.notes
    assert not again.created


def test_a_text_encoder_under_two_names_is_said_and_merges_as_one(tmp_path: Path) -> None:
    """CLIP's modules begin with text_model in transformers 4, and do not in 5."""
    layer = "encoder_layers_0_self_attn_q_proj"
    old = kohya_file(tmp_path, torch.tensor(4.0), module=f"lora_te1_text_model_{layer}")
    old = old.rename(tmp_path / "old.safetensors")
    new = kohya_file(tmp_path, torch.tensor(4.0), module=f"lora_te1_{layer}")
    new = new.rename(tmp_path / "new.safetensors")
    module = "text_encoder.encoder.layers.0.self_attn.q_proj"
    with sr.Registry.open("memory://") as registry:
        space = registry.create_space("s")
        space.commit(new, budget=0)
        report = space.commit(old, budget=0).reports["old"]
        assert any(
            "1 modules have another name in the space" in text and module in text
            for text in report.notes
        )
        space.merge({"old": 0.5, "new": 0.5}, task="both", budget=0)
        merged = updates(space.checkout("both"))
    assert list(merged) == [module]
    expected = 0.5 * (
        updates(read(old))[module.replace("encoder.l", "text_model.encoder.l")]
        + updates(read(new))[module]
    )
    assert distance(merged[module], expected) < SAME


def test_a_link_that_is_named_is_the_file_it_leads_to(tmp_path: Path) -> None:
    file = LYCORIS / "locon.safetensors"
    (tmp_path / "linked.safetensors").symlink_to(file.absolute())
    linked, plain = updates(read(tmp_path / "linked.safetensors")), updates(read(file))
    assert linked.keys() == plain.keys()
    assert all(torch.equal(linked[module], plain[module]) for module in plain)
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(sr.NotFoundError):
        read(tmp_path / "nowhere.safetensors")
