"""LoRA for diffusers: what its models and pipelines compute from exports, and what its lint says."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import share_registry as sr
from share_registry.exchange.diffusers_adapter import diffusers_adapter
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.pipeline_parts import PIPELINE_FILE
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.consumers import MISREAD, REFUSED, RIGHT, verdict
from tests.exchange.foreign import SAME, distance, read, updates
from tests.exchange.test_servers import notes_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    from diffusers import FluxTransformer2DModel, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.loaders import FluxLoraLoaderMixin
    from transformers import CLIPTextConfig, CLIPTextModel

CLOSE = 1e-5
"""Between outputs of order one, of factors with the same bytes and scales off by one rounding."""
FAR = 1e-3
ATTENTION = ["to_q", "to_v"]
ALL = ["to_q", "to_k", "to_v", "conv1"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ALL},
    "scale_1": {"target_modules": ALL, "lora_alpha": 4},
    "rslora": {"target_modules": ATTENTION, "use_rslora": True},
    "rank_pattern": {"target_modules": ALL, "rank_pattern": {"to_q": 2, "conv1": 9}},
    "alpha_pattern": {"target_modules": ALL, "alpha_pattern": {"to_q": 32, "conv1": 1.5}},
    "all_patterns": {
        "target_modules": ALL,
        "use_rslora": True,
        "rank_pattern": {"to_v": 3},
        "alpha_pattern": {".*up_blocks.*conv1": 5},
    },
    "regex": {"target_modules": r".*up_blocks.*to_(q|v)"},
    "exclude": {"target_modules": ATTENTION, "exclude_modules": r".*mid_block.*to_q"},
    "gaussian": {"target_modules": ATTENTION, "init_lora_weights": "gaussian"},
    "dora": {"target_modules": ATTENTION, "use_dora": True},
    "dora_convolution": {"target_modules": ["conv1"], "use_dora": True},
    "lora_bias": {"target_modules": ["to_out.0", "conv1"], "lora_bias": True},
    "bias_lora_only": {"target_modules": ["to_out.0"], "bias": "lora_only"},
    "modules_to_save": {"target_modules": ATTENTION, "modules_to_save": ["conv_in"]},
    "velora": {
        "target_modules": ATTENTION,
        "velora_config": zoo.peft.VeloraConfig(num_groups=2),
    },
    "monteclora": {"target_modules": ATTENTION, "monteclora_config": zoo.peft.MontecloraConfig()},
}
NOT_IN_A_FILE = {"bias_lora_only": r"base_layer\.bias", "modules_to_save": r"conv_in\.weight"}


def unet() -> Any:
    """Return a tiny UNet with attention, skips and convolutions."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
    ).eval()


def denoise(model: Any) -> torch.Tensor:
    seed = torch.Generator().manual_seed(3)
    noise, text = torch.randn(1, 4, 8, 8, generator=seed), torch.randn(1, 3, 8, generator=seed)
    with torch.no_grad():
        return torch.as_tensor(model(noise, 5, text).sample)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, torch.Tensor]]:
    """Return an adapter of a kind as PEFT writes it, and what the UNet computes with it."""
    root, made = tmp_path_factory.mktemp("unets"), dict[str, torch.Tensor]()

    def train(name: str) -> tuple[Path, torch.Tensor]:
        if name not in made:
            config = zoo.peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **KINDS[name]})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = zoo.peft.get_peft_model(unet(), config, autocast_adapter_dtype=False).eval()
            zoo.scatter(model)
            zoo.save(model, root / name)
            made[name] = denoise(model)
        return root / name, made[name]

    return train


def load(model: Any, folder: Path, prefix: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_lora_adapter(str(folder), prefix=prefix, use_safetensors=True)
    return model


@pytest.mark.parametrize("name", sorted(KINDS))
def test_diffusers_0_42_does_with_a_directory_of_peft_what_its_verdict_says(
    name: str, trained: Callable[[str], tuple[Path, torch.Tensor]]
) -> None:
    assert diffusers.__version__.startswith("0.42.")
    folder, expected = trained(name)
    away = float((denoise(load(unet(), folder, "base_model.model")) - expected).abs().max())
    assert away < CLOSE or away > FAR
    assert verdict(folder, "diffusers") == (RIGHT if away < CLOSE else MISREAD)


def test_a_pipeline_loads_nothing_of_a_directory_of_peft_as_is_said(
    trained: Callable[[str], tuple[Path, torch.Tensor]],
) -> None:
    folder, expected = trained("scale_1")
    (note,) = notes_of(read_place(folder, outside=Outside()), "diffusers")
    assert "prefix='base_model.model', " in note
    assert "load_lora_weights of its pipeline loads nothing of it" in note
    pipeline = pipeline_of(unet())
    pipeline.load_lora_weights(str(folder))
    plain = denoise(unet())
    assert torch.equal(denoise(pipeline.unet), plain)
    assert float((expected - plain).abs().max()) > FAR


@pytest.mark.parametrize("name", sorted(zoo.CASES))
def test_diffusers_0_42_refuses_adapters_of_other_models_as_its_verdict_says(
    name: str, original: Callable[[str], Path]
) -> None:
    assert verdict(original(name), "diffusers") == REFUSED
    with pytest.raises(ValueError, match="not found in the base model"):
        load(unet(), original(name), "base_model.model")


@pytest.mark.parametrize("name", sorted({*KINDS} - {*NOT_IN_A_FILE}))
def test_an_export_is_the_function_of_the_adapter_in_a_pipeline_and_in_a_model(
    name: str, trained: Callable[[str], tuple[Path, torch.Tensor]], tmp_path: Path
) -> None:
    folder, expected = trained(name)
    adapter = read_place(folder, outside=Outside())
    (tmp_path / PIPELINE_FILE).write_bytes(diffusers_adapter(adapter).content)
    pipeline = pipeline_of(unet())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(str(tmp_path))
    for model in (pipeline.unet, load(unet(), tmp_path, "unet")):
        assert float((denoise(model) - expected).abs().max()) < CLOSE
    # its own bytes, and read back by our importer
    with safe_open(tmp_path / PIPELINE_FILE, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            committed = adapter.tensors[f"base_model.model.{key.removeprefix('unet.')}"]
            assert torch.equal(file.get_tensor(key), committed)
    if not {"use_dora", "lora_bias"} & {*KINDS[name]}:
        again = updates(read(tmp_path / PIPELINE_FILE, part="unet"))
        for module, delta in updates(adapter).items():
            assert distance(again[module], delta) < SAME


@pytest.mark.parametrize("name", sorted(NOT_IN_A_FILE))
def test_what_a_file_for_a_pipeline_does_not_hold_is_refused_by_name(
    name: str, trained: Callable[[str], tuple[Path, torch.Tensor]]
) -> None:
    adapter = read_place(trained(name)[0], outside=Outside())
    with pytest.raises(sr.RefusedError, match=NOT_IN_A_FILE[name]):
        diffusers_adapter(adapter)


def pipeline_of(model: Any, text_encoder: Any = None) -> Any:
    """Return a pipeline that has nothing but what LoRA is loaded into."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return StableDiffusionPipeline(
            vae=None,
            text_encoder=text_encoder,
            tokenizer=None,
            unet=model,
            scheduler=None,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def text_encoder() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
    config = CLIPTextConfig(vocab_size=40, num_attention_heads=2, projection_dim=8, **sizes)
    return CLIPTextModel(config).eval()


def test_a_file_of_a_pipeline_goes_through_a_registry_and_back(tmp_path: Path) -> None:
    pipeline = pipeline_of(unet(), text_encoder())
    for model, modules, alpha in (
        (pipeline.unet, ALL, 6),
        (pipeline.text_encoder, ["q_proj", "v_proj"], 3),
    ):
        model.add_adapter(
            zoo.peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=modules), "default"
        )
        zoo.scatter(model)
    layers = {
        "unet_lora_layers": zoo.peft.get_peft_model_state_dict(pipeline.unet),
        "text_encoder_lora_layers": zoo.peft.get_peft_model_state_dict(pipeline.text_encoder),
        "unet_lora_adapter_metadata": pipeline.unet.peft_config["default"].to_dict(),
        "text_encoder_lora_adapter_metadata": pipeline.text_encoder.peft_config[
            "default"
        ].to_dict(),
    }
    StableDiffusionPipeline.save_lora_weights(tmp_path / "in", **layers)
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.create_space("sd", base_model="acme/sd")
        registry.commit(tmp_path / "in", space="sd", task="style", budget=0)
        export = registry.export("style", tmp_path / "out", target="diffusers")
        again = registry.export("style", tmp_path / "out", target="diffusers")
        verdicts = registry.lint("style", target="diffusers").verdicts
    assert (export.profile, export.target, again.digest) == (
        "diffusers",
        "diffusers",
        export.digest,
    )
    assert sorted(path.name for path in export.path.iterdir()) == ["README.md", PIPELINE_FILE]
    assert "library_name: diffusers" in (export.path / "README.md").read_text()
    assert "target='diffusers'" in verdicts[0].hint
    assert "prefix='base_model.model.text_encoder'" in verdicts[1].note
    tokens = torch.arange(6)[None]
    fresh = pipeline_of(unet(), text_encoder())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        fresh.load_lora_weights(str(export.path))
        written, said = fresh.text_encoder(tokens)[0], pipeline.text_encoder(tokens)[0]
    assert float((denoise(fresh.unet) - denoise(pipeline.unet)).abs().max()) < CLOSE
    assert float((written - said).abs().max()) < CLOSE


def test_a_diffusion_transformer_is_a_part_of_its_own_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8, "in_channels": 4}

    def transformer() -> Any:
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            **sizes,
            num_attention_heads=2,
            joint_attention_dim=8,
            pooled_projection_dim=8,
            axes_dims_rope=(2, 2, 4),
        ).eval()

    config = zoo.peft.LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "add_k_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = zoo.peft.get_peft_model(transformer(), config, autocast_adapter_dtype=False).eval()
    zoo.scatter(model)
    adapter = read_place(zoo.save(model, tmp_path / "in"), outside=Outside())
    (tmp_path / PIPELINE_FILE).write_bytes(diffusers_adapter(adapter).content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state, alphas, metadata = FluxLoraLoaderMixin.lora_state_dict(
            str(tmp_path), return_alphas=True, return_lora_metadata=True
        )
        loaded = transformer()
        FluxLoraLoaderMixin.load_lora_into_transformer(
            state, network_alphas=alphas, transformer=loaded, metadata=metadata
        )
    expected = updates(adapter)
    modules = dict(loaded.named_modules())
    for module, delta in expected.items():
        own = modules[module].get_delta_weight("default_0").detach().double()
        assert distance(own, delta) < SAME


def test_servers_of_language_models_take_no_adapter_of_a_pipeline(
    trained: Callable[[str], tuple[Path, torch.Tensor]], original: Callable[[str], Path]
) -> None:
    folder, _ = trained("plain")
    adapter = read_place(folder, outside=Outside())
    for target in ("vllm", "sglang", "lorax", "llama.cpp", "openvino", "onnxruntime"):
        assert verdict(folder, target) == REFUSED
    # nobody asked about them
    assert notes_of(adapter, "vLLM") == []
    words = read_place(original("plain"), outside=Outside())
    assert notes_of(words, "diffusers") == []
