"""The portable form: what is taken apart or added so that servers read the same function."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from share_registry.algebra.error import pooled_error
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import Family, family_of
from share_registry.exchange.export_files import CardFacts, files_of, place
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_directory import adapter_of
from share_registry.outside.files import Outside
from tests.exchange.zoo import CASES, TOKENS, peft, scatter

Original = Callable[[str], Path]

# float64 all the way but for the order of sums
SAME = 1e-9
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
MIXTRAL, QWEN3 = "mistralai/Mixtral-8x7B-v0.1", "Qwen/Qwen3-30B-A3B"
PARAMETERS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LAYER = "base_model.model.model.layers"


def mixture(label: str, **options: Any) -> Any:
    """Return a tiny model of float64 whose experts run one after the other."""
    kinds: dict[str, tuple[Any, Any]] = {
        MIXTRAL: (MixtralForCausalLM, MixtralConfig(num_local_experts=4, **SIZES)),
        QWEN3: (
            Qwen3MoeForCausalLM,
            Qwen3MoeConfig(head_dim=8, decoder_sparse_step=1, **EXPERTS, **SIZES, **options),
        ),
    }
    model, config = kinds[label]
    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = model(config).eval().double()
        built.set_experts_implementation("eager")
    return built


def train(label: str, directory: Path, **options: Any) -> torch.Tensor:
    """Save a random adapter of float64 and return the logits with it."""
    settings = {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"], **options}
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_parameters=PARAMETERS, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(mixture(label), config, autocast_adapter_dtype=False)
        scatter(model)
        model.save_pretrained(directory)
    return compute(model)


def compute(model: Any) -> torch.Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.as_tensor(model.eval()(input_ids=TOKENS).logits)


def export(adapter: Adapter, target: Path, label: str) -> tuple[Path, tuple[str, ...]]:
    card = CardFacts(base_model=label)
    files, notes = files_of(adapter, profile="portable", card=card)
    return place(files, target, "", overwrite=False, outside=Outside())[0], notes


def read_export(directory: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    config = json.loads((directory / "adapter_config.json").read_bytes())
    return load_file(directory / "adapter_model.safetensors"), config


def small_adapter(*modules: str, dtype: torch.dtype = torch.float32, **config: Any) -> Adapter:
    """Return an adapter of rank 2 with pairs of 8 to 8, but k and v to 4, up to 12, down back."""
    generator = torch.Generator().manual_seed(3)
    widths = {"k_proj": (8, 4), "v_proj": (8, 4), "up_proj": (8, 12), "down_proj": (12, 8)}
    tensors = {}
    for module in modules:
        width, out = widths.get(module.rpartition(".")[2], (8, 8))
        key = f"base_model.model.{module}"
        a, b = (torch.randn(size, generator=generator) for size in ((2, width), (out, 2)))
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a.to(dtype), b.to(dtype)
    names = sorted({module.rpartition(".")[2] for module in modules})
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": names}
    return adapter_of(tensors, {**settings, **config})


@pytest.mark.parametrize("label", [MIXTRAL, QWEN3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "rank_pattern": {r".*\.gate_up_proj": 4}},
        {"target_modules": ["q_proj"], "alpha_pattern": {"down_proj": 7}},
    ],
)
def test_experts_taken_apart_are_the_same_function_in_peft(
    label: str, options: dict[str, Any], tmp_path: Path
) -> None:
    trained = train(label, tmp_path / "source", **options)
    adapter = read_place(tmp_path / "source", outside=Outside())
    target, notes = export(adapter, tmp_path / "out", label)
    assert any("the experts are one pair each" in note for note in notes), notes
    base = mixture(label)
    plain = compute(base)
    with warnings.catch_warnings():
        # PEFT warns of patterns that it has made itself
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(base, target, autocast_adapter_dtype=False)
    assert float((trained - plain).abs().max()) > 0.01
    assert float((compute(model) - trained).abs().max()) < SAME


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (MIXTRAL, ["block_sparse_moe.experts.3.w1", "w3", "w2"]),
        (QWEN3, ["mlp.experts.3.gate_proj", "up_proj", "down_proj"]),
    ],
)
def test_experts_taken_apart_bear_the_names_that_servers_read(
    label: str, names: list[str], tmp_path: Path
) -> None:
    train(label, tmp_path / "source")
    adapter = read_place(tmp_path / "source", outside=Outside())
    target, notes = export(adapter, tmp_path / "out", label)
    tensors, config = read_export(target)
    owner, _, first = names[0].rpartition(".")
    gate, up, down = (f"{LAYER}.1.{owner}.{name}.lora_" for name in (first, *names[1:]))
    source = load_file(tmp_path / "source" / "adapter_model.safetensors")
    whole = source[f"{LAYER}.1.mlp.experts.base_layer.lora_A.weight"]
    columns = source[f"{LAYER}.1.mlp.experts.base_layer.lora_B.weight"]
    assert torch.equal(tensors[f"{gate}A.weight"][:2], whole[6:])
    assert torch.equal(tensors[f"{gate}A.weight"], tensors[f"{up}A.weight"])
    assert torch.equal(tensors[f"{up}B.weight"][:, :2], columns[24:, 3::4] * 1.5)
    assert tensors[f"{down}A.weight"].shape == (8, 24)
    assert not any("mlp.experts.lora" in key or "base_layer" in key for key in tensors)
    assert "target_parameters" not in config
    assert {first, *names[1:]} < set(config["target_modules"])
    assert not [note for note in notes if note.startswith(("vLLM", "llama.cpp"))], notes


def test_experts_of_an_unknown_base_model_stay_fused(original: Original, tmp_path: Path) -> None:
    adapter = read_place(original("experts"), outside=Outside())
    target, notes = export(adapter, tmp_path / "out", "acme/mixture")
    assert any("neither class nor label tells" in note for note in notes), notes
    assert read_export(target)[1]["target_parameters"]


def test_experts_beside_modules_of_the_same_names_stay_fused(tmp_path: Path) -> None:
    train(QWEN3, tmp_path / "source")
    adapter = read_place(tmp_path / "source", outside=Outside())
    tensors = {
        **adapter.tensors,
        f"{LAYER}.2.mlp.gate_proj.lora_A.weight": torch.ones(2, 16),
        f"{LAYER}.2.mlp.gate_proj.lora_B.weight": torch.ones(24, 2),
    }
    config = {**adapter.config, "target_modules": ["gate_proj", "q_proj", "v_proj"]}
    _, notes = export(adapter_of(tensors, config), tmp_path / "out", QWEN3)
    assert any("PEFT would take gate_proj of other modules" in note for note in notes), notes


def test_one_of_two_fused_parameters_stays_fused(tmp_path: Path) -> None:
    train(MIXTRAL, tmp_path / "source")
    adapter = read_place(tmp_path / "source", outside=Outside())
    tensors = {key: value for key, value in adapter.tensors.items() if "base_layer" not in key}
    config = {**adapter.config, "target_parameters": PARAMETERS[1:]}
    _, notes = export(adapter_of(tensors, config), tmp_path / "out", MIXTRAL)
    assert any("has only one of gate_up_proj and down_proj" in note for note in notes), notes
    assert any("vLLM: drops fused experts" in note for note in notes), notes


@pytest.mark.parametrize(
    ("config", "label", "family"),
    [
        ({}, MIXTRAL, Family.MIXTRAL),
        ({}, "me/dolphin-mixtral-8x7b", Family.MIXTRAL),
        ({}, "phixtral-2x2", None),
        ({}, QWEN3, Family.QWEN3_MOE),
        ({}, "unsloth/Qwen3-Coder-30B-A3B-Instruct-bnb-4bit", Family.QWEN3_MOE),
        ({}, "Qwen/Qwen3-VL-30B-A3B", Family.LLAMA),
        ({}, "Qwen/Qwen3-Next-80B-A3B", None),
        ({}, "Qwen/Qwen3.5-35B-A3B", None),
        ({}, "Qwen/Qwen1.5-MoE-A2.7B", Family.QWEN2_MOE),
        ({}, "Qwen/Qwen2-57B-A14B-Instruct", Family.QWEN2_MOE),
        ({}, "Qwen/Qwen2-7B", Family.LLAMA),
        ({}, "meta-llama/Llama-3.1-8B", Family.LLAMA),
        ({}, "/models/Mixtral-8x7B/", Family.MIXTRAL),
        ({"base_model_name_or_path": "/tmp/base"}, MIXTRAL, Family.MIXTRAL),
        ({"base_model_name_or_path": "acme/base"}, MIXTRAL, None),
        ({"auto_mapping": {"base_model_class": "Qwen3MoeForCausalLM"}}, "x", Family.QWEN3_MOE),
        ({"auto_mapping": {"base_model_class": "Qwen2MoeForCausalLM"}}, QWEN3, Family.QWEN2_MOE),
        ({}, "", None),
    ],
)
def test_a_family_is_known_by_class_or_label(
    config: dict[str, object], label: str, family: Family | None
) -> None:
    assert family_of(config, label) == family


def test_a_module_that_some_layer_lacks_is_added_as_zeros(
    original: Original, tmp_path: Path
) -> None:
    adapter = read_place(original("exclude"), outside=Outside())
    target, notes = export(adapter, tmp_path / "out", "acme/base")
    tensors, _ = read_export(target)
    added = f"{LAYER}.0.self_attn.q_proj.lora_B.weight"
    assert not tensors[added].any()
    assert tensors[added].shape == tensors[added.replace(".0.", ".1.")].shape
    assert any("pairs of zeros are added for SGLang (1, such as" in note for note in notes)
    assert not any(note.startswith("SGLang") for note in notes), notes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        peft.PeftModel.from_pretrained(CASES["exclude"].base(), target)


@pytest.mark.parametrize(
    ("present", "added"),
    [
        (["mlp.up_proj", "mlp.down_proj"], {"mlp.gate_proj": (8, 12)}),
        (["self_attn.q_proj", "self_attn.k_proj"], {"self_attn.v_proj": (8, 4)}),
        (
            ["self_attn.k_proj", "self_attn.o_proj"],
            {"self_attn.q_proj": (8, 8), "self_attn.v_proj": (8, 4)},
        ),
    ],
)
def test_shapes_that_follow_in_a_known_family_are_added_as_zeros(
    present: list[str], added: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    adapter = small_adapter(*(f"model.layers.0.{name}" for name in present))
    target, notes = export(adapter, tmp_path / "known", "meta-llama/Llama-3.1-8B")
    tensors, config = read_export(target)
    for name, (width, out) in added.items():
        key = f"{LAYER}.0.{name}.lora_"
        assert (tensors[f"{key}A.weight"].shape[1], tensors[f"{key}B.weight"].shape[0]) == (
            width,
            out,
        )
    assert len(tensors) == 2 * (len(present) + len(added))
    assert any(name in target for name in added for target in config["target_modules"])
    assert not any(note.startswith("SGLang") for note in notes), notes
    _, notes = export(adapter, tmp_path / "unknown", "acme/base")
    assert any(note.startswith("SGLang") for note in notes), notes


@pytest.mark.parametrize("names", [["q_proj"], ["k_proj", "v_proj"], ["q_proj", "o_proj"]])
def test_a_shape_that_no_file_tells_is_not_guessed(names: list[str], tmp_path: Path) -> None:
    adapter = small_adapter(*(f"model.layers.0.self_attn.{name}" for name in names))
    target, notes = export(adapter, tmp_path / "out", "meta-llama/Llama-3.1-8B")
    assert len(read_export(target)[0]) == 2 * len(names)
    assert any(note.startswith("SGLang: ") for note in notes), notes


@pytest.mark.parametrize(("alpha", "is_exact"), [(3, False), (4, True)])
def test_what_rounding_a_folded_scale_adds_is_said(
    alpha: float, is_exact: bool, tmp_path: Path
) -> None:
    modules = [f"model.layers.0.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")]
    adapter = small_adapter(*modules, dtype=torch.bfloat16, lora_alpha=alpha)
    target, notes = export(adapter, tmp_path / "out", "")
    again = read_place(target, outside=Outside())
    error = pooled_error(again.factor_pairs(), adapter.factor_pairs())
    said = [note for note in notes if "adds a relative error" in note]
    assert said == ([] if is_exact else [said[0]])
    assert (error < SAME) is is_exact
    assert is_exact or f"{error:.2g}," in said[0]
