"""The lint: every server's known refusals and silent losses, silent about a portable adapter."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import class_of
from share_registry.exchange.export_files import CardFacts, files_of
from share_registry.exchange.export_form import Profile
from share_registry.exchange.gguf_names import way_to_gguf
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_directory import adapter_of
from share_registry.exchange.targets.servers import lint
from share_registry.outside.files import Outside
from tests.exchange.zoo import CASES

Original = Callable[[str], Path]

EVERY_LAYER = ("layers.0.o_proj", "layers.1.o_proj")
SCALE = "OpenVINO GenAI: reads the tensor file alone: without a word it leaves out the scale,"

EXPECTED: dict[str, tuple[str, ...]] = {
    "plain": (f"{SCALE} which has to be given as alpha=1.5.",),
    "gaussian": (f"{SCALE} which has to be given as alpha=1.5.",),
    "bert": (
        "SGLang: refuses target_modules dense, query, value",
        "LoRAX, TGI: take no adapters of encoders such as BERT",
        "OpenVINO GenAI: takes adapters in pipelines that generate alone",
        "ONNX Runtime GenAI: builds models that generate alone",
    ),
    "rslora": ("SGLang: ignores use_rslora", "llama.cpp: ignores use_rslora"),
    "rank_pattern": (
        f"{SCALE} which differs from module to module",
        "SGLang: the first request for it ends the server: ranks other than r",
        "LoRAX, TGI: ignore rank_pattern",
        "LoRAX, TGI: cannot stack mlp.up_proj",
    ),
    "alpha_pattern": (
        "SGLang: ignores alpha_pattern",
        "LoRAX, TGI: ignore alpha_pattern",
        "llama.cpp: ignores alpha_pattern",
    ),
    "regex": (
        "SGLang: refuses target_modules given as a regular expression",
        "LoRAX, TGI: drop every module type: not every layer of the model is adapted",
    ),
    "layers": ("LoRAX, TGI: drop every module type: not every layer of the model is adapted",),
    "exclude": (
        "SGLang: the first request for it ends the server: k_proj or v_proj without q_proj",
        "LoRAX, TGI: drop self_attn.q_proj",
    ),
    "dora": (
        "PEFT: load it with PeftModel.from_pretrained",
        "vLLM: refuses use_dora",
        "vLLM: refuses 4 tensors",
        "SGLang: refuses use_dora",
        "LoRAX, TGI: ignore 4 tensors",
        "llama.cpp: refuses 4 tensors",
        "OpenVINO GenAI: ignores 4 tensors",
        "ONNX Runtime GenAI: leaves out the magnitudes of DoRA",
    ),
    "lora_bias": (
        "vLLM: refuses lora_bias",
        "SGLang: ignores 4 tensors",
        "LoRAX, TGI: ignore 4",
        "llama.cpp: refuses 4",
        "OpenVINO GenAI: ignores 4",
        "ONNX Runtime GenAI: leaves out lora_bias",
    ),
    "bias_all": (
        "vLLM: refuses bias='all'",
        "SGLang: refuses target_modules query, value",
        "LoRAX, TGI: take no adapters of encoders such as BERT",
        "llama.cpp: refuses 18 tensors",
    ),
    "modules_to_save": (
        "vLLM: refuses modules_to_save lm_head",
        "SGLang: ignores",
        "LoRAX, TGI: ignore 1",
        "llama.cpp: refuses 1",
    ),
    "classifier": (
        "SGLang: ignores",
        "LoRAX, TGI: ignore 1",
        "llama.cpp: refuses 1",
        "OpenVINO GenAI: takes adapters in pipelines that generate alone",
    ),
    "trainable_tokens": (
        "vLLM: refuses trainable_token_indices",
        "vLLM: refuses 1 tensor,",
        "llama.cpp: refuses 1",
        "OpenVINO GenAI: ignores 1",
        "ONNX Runtime GenAI: leaves out trainable_token_indices",
    ),
    "alora": (
        "vLLM: refuses alora_invocation_tokens",
        "SGLang: reads activated LoRA as plain LoRA",
        "LoRAX, TGI: read activated LoRA as plain LoRA",
        "llama.cpp: activates it in llama-server alone: its other programs read plain LoRA",
        "OpenVINO GenAI: reads activated LoRA as plain LoRA",
        "ONNX Runtime GenAI: reads activated LoRA as plain LoRA",
    ),
    "replicated": (
        "vLLM: refuses layer_replication",
        "SGLang: fails on layer_replication",
        "LoRAX, TGI: ignore layer_replication",
        "llama.cpp: its converter fails on layer_replication",
        "OpenVINO GenAI: ignores layer_replication",
        "ONNX Runtime GenAI: leaves out layer_replication",
    ),
    "embedding": (
        "llama.cpp: serves no factors of the embedding or the output of models that tie the two",
    ),
    "tied": (
        "llama.cpp: does not serve factors of the embedding or the output",
        "ONNX Runtime GenAI: fails on factors of lm_head",
        "OpenVINO GenAI: ignores 4",
    ),
    "gpt2": (
        "vLLM: takes no LoRA of models with Conv1D modules (fan_in_fan_out), such as GPT-2",
        "SGLang: refuses target_modules c_attn, c_proj",
        "LoRAX, TGI: TGI drops modules in transformer.h",
        "llama.cpp: its converter transposes Conv1D modules (fan_in_fan_out), which fail to load",
        "ONNX Runtime GenAI: builds no models with layers in transformer.h, such as GPT-2",
    ),
    "gpt2_embedding": (
        "vLLM: refuses embedding factors but for some models",
        "SGLang: refuses target_modules c_attn, wte",
        "LoRAX, TGI: leave out embedding factors",
        "llama.cpp: does not serve factors of the embedding or the output of models that tie the two",
        "OpenVINO GenAI: leaves out embedding factors",
        "ONNX Runtime GenAI: leaves out embedding factors",
    ),
    "convolution": ("servers of language models: take no convolutions",),
    "experts": (
        "vLLM: drops fused experts of Mixtral without a word",
        "SGLang: refuses q_proj without v_proj",
        "SGLang: the first request for it ends the server: fused experts",
        "LoRAX, TGI: leave out experts",
        "llama.cpp: its converter fails on fused experts",
        "OpenVINO GenAI: fails on fused experts",
        "ONNX Runtime GenAI: takes no factors of experts",
    ),
    "velora": ("vLLM: refuses velora_config", "vLLM: refuses 4 tensors"),
    "monteclora": ("vLLM: refuses monteclora_config", "vLLM: refuses 16 tensors"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_servers_limits_are_named(name: str, original: Original) -> None:
    adapter = read_place(original(name), outside=Outside())
    notes = lint(adapter)
    for part in EXPECTED[name]:
        assert any(part in note for note in notes), notes
    if name in ("plain", "gaussian"):
        assert len(notes) == 1


def test_vllm_accepts_a_classifier_head(original: Original) -> None:
    assert notes_of(read_place(original("classifier"), outside=Outside()), "vLLM") == []


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "rslora",
        "rank_pattern",
        "alpha_pattern",
        "all_patterns",
        "gaussian",
        "bf16",
        "velora",
        "monteclora",
    ],
)
def test_nothing_is_left_to_say_of_a_portable_adapter(name: str, original: Original) -> None:
    assert CASES[name].portable
    adapter = read_place(original(name), outside=Outside())
    profile: Profile = "portable"
    _, notes = files_of(adapter, profile=profile, card=CardFacts.of(adapter))
    assert all(note.startswith("portable: ") for note in notes), notes


def notes_of(adapter: Adapter, server: str, base_model: str = "") -> list[str]:
    """Return what is said of one server, without its name."""
    notes = (note.partition(": ") for note in lint(adapter, base_model=base_model))
    return [text.removesuffix(".") for name, _, text in notes if name == server]


def small_adapter(*modules: str, rank: int = 2, **config: Any) -> Adapter:
    """Return an adapter of ones; a config field that is None is left out."""
    shapes = {"A": (rank, 4), "B": (4, rank)}
    tensors = {
        f"base_model.model.{module}.lora_{side}.weight": torch.ones(shape)
        for module in modules
        for side, shape in shapes.items()
    }
    names = sorted({module.rpartition(".")[2] for module in modules})
    defaults = {"peft_type": "LORA", "r": rank, "lora_alpha": 1, "target_modules": names}
    fields = {**defaults, **config}
    return adapter_of(tensors, {name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (16, []),
        (17, ["start it with --max-lora-rank 32 or more"]),
        (513, ["refuses rank 513, the largest is 512"]),
    ],
)
def test_ranks_beyond_vllms_default_and_largest_are_named(rank: int, expected: list[str]) -> None:
    adapter = small_adapter(*EVERY_LAYER, rank=rank, lora_alpha=rank, r=rank)
    assert notes_of(adapter, "vLLM") == expected
    assert lint(adapter) == tuple(f"vLLM: {note}." for note in expected)


def test_llama_cpp_reads_alpha_0_as_no_scaling() -> None:
    adapter = small_adapter(*EVERY_LAYER, lora_alpha=0)
    assert lint(adapter) == ("llama.cpp: reads lora_alpha 0 as no scaling.",)


def test_a_config_without_lora_alpha_fails_in_three_servers() -> None:
    assert lint(small_adapter(*EVERY_LAYER, lora_alpha=None)) == (
        "vLLM: refuses a config without lora_alpha.",
        "SGLang: fails on a config without lora_alpha.",
        "llama.cpp: its converter fails on a config without lora_alpha.",
        f"{SCALE} which has to be given as alpha=4.",
    )


@pytest.mark.parametrize(
    ("layers", "drops"), [((0, 1), False), ((0, 1, 2), False), ((1, 2), True), ((0, 2), True)]
)
def test_layers_that_are_certainly_not_adapted_are_an_alarm_for_lorax(
    layers: tuple[int, ...], drops: bool
) -> None:
    notes = notes_of(small_adapter(*(f"layers.{layer}.o_proj" for layer in layers)), "LoRAX, TGI")
    expected = ["drop every module type: not every layer of the model is adapted"]
    assert notes == (expected if drops else [])


def test_one_rank_other_than_r_ends_sglang() -> None:
    adapter = small_adapter("layers.0.o_proj", r=8, rank_pattern={".*_proj": 2})
    assert notes_of(adapter, "SGLang") == [
        "the first request for it ends the server: ranks other than r"
    ]


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["up_proj", "down_proj"], "the first request for it ends the server: up_proj without"),
        (["k_proj"], "the first request for it ends the server: k_proj or v_proj without q_proj"),
        (["q_proj", "k_proj"], "refuses q_proj without v_proj"),
        (["q_proj", "v_proj", "gate_proj"], None),
    ],
)
def test_what_sglang_fuses_is_named_where_a_part_lacks(
    modules: list[str], expected: str | None
) -> None:
    notes = notes_of(small_adapter(*(f"layers.0.{name}" for name in modules)), "SGLang")
    assert [note[: len(expected or "")] for note in notes] == ([expected] if expected else [])


def with_passenger(key: str) -> Adapter:
    adapter = small_adapter("layers.0.o_proj")
    return adapter_of({**adapter.tensors, key: torch.ones(4)}, adapter.config)


def test_norms_end_sglang_and_are_ignored_by_llama_cpp() -> None:
    key = "base_model.model.layers.0.input_layernorm.weight"
    adapter = with_passenger(key)
    assert notes_of(adapter, "SGLang") == [
        f"the first request for it ends the server: 1 tensor of layers, {key}"
    ]
    assert notes_of(adapter, "llama.cpp") == [f"ignores 1 tensor of norms, {key}"]
    other = "base_model.model.layers.0.self_attn.q_norm.weight"
    assert notes_of(with_passenger(other), "llama.cpp") == [f"refuses 1 tensor, {other}"]


def test_copies_of_embeddings_are_no_alarm_for_sglang() -> None:
    assert notes_of(with_passenger("base_model.model.lm_head.base_layer.weight"), "SGLang") == []


def test_all_linear_is_no_expression_and_a_head_no_stranger_for_sglang() -> None:
    adapter = small_adapter("layers.0.o_proj", target_modules="all-linear")
    assert notes_of(adapter, "SGLang") == []
    assert notes_of(small_adapter("lm_head"), "SGLang") == []
    assert notes_of(small_adapter("score", target_modules="all-linear"), "SGLang") == [
        "drops factor pairs outside layers.N (1, such as score) without a word"
    ]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["self_attn.o_proj", "q_a_proj", "indexer.wq_b", "in_proj_qkvz", "word_embeddings"], []),
        (["o_proj", "h.0.c_attn", "score"], ["refuses target_modules c_attn, score"]),
    ],
)
def test_modules_that_sglang_has_no_buffers_for_are_refused(
    targets: list[str], expected: list[str]
) -> None:
    assert notes_of(small_adapter("layers.0.o_proj", target_modules=targets), "SGLang") == expected


ENCODERS = (
    "take no adapters of encoders such as BERT (of XLM-RoBERTa, paths have to begin with roberta.)"
)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("encoder.layer", [ENCODERS]),
        ("bert.encoder.layer", [ENCODERS]),
        ("distilbert.transformer.layer", [ENCODERS]),
        ("roberta.encoder.layer", []),
        ("vision_model.encoder.layers", []),
        ("transformer.h", ["TGI drops modules in transformer.h without a word"]),
    ],
)
def test_lorax_and_tgi_read_adapters_of_some_models_alone(place: str, expected: list[str]) -> None:
    adapter = small_adapter(*(f"{place}.{layer}.query" for layer in (0, 1)))
    assert notes_of(adapter, "LoRAX, TGI") == expected


def test_side_files_that_sglang_reads_are_named() -> None:
    adapter = replace(
        small_adapter("layers.0.o_proj"),
        attachments={"head.safetensors": b"", "added_tokens.json": b"{}", "vocab.json": b"{}"},
    )
    assert notes_of(adapter, "SGLang") == [
        "refuses added_tokens.json where its ids go beyond the base model's vocabulary",
        "reads head.safetensors as LoRA weights as well",
    ]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", "drops fused experts without a word"),
        ("Qwen/Qwen3-30B-A3B", "refuses fused experts without --enable-mixed-moe-lora-format"),
        ("meta-llama/Llama-4-Scout", "drops fused experts of Mixtral without a word, and refuses"),
    ],
)
def test_what_vllm_does_with_fused_experts_depends_on_the_base_model(
    label: str, expected: str, original: Original
) -> None:
    adapter = read_place(original("experts"), outside=Outside())
    (note,) = notes_of(adapter, "vLLM", label)
    assert note.startswith(expected)


LEFT_OUT_BY_LORAX = "LoRAX, TGI: leave out experts without a word."
NOT_BUILT = (
    "ONNX Runtime GenAI: takes no factors of experts: it fails on those of LFM2 and GPT-OSS."
)
LEFT_OUT = (
    "OpenVINO GenAI: leaves out experts that have a pair each without a word.",
    NOT_BUILT,
)


def experts(*names: str, **config: Any) -> Adapter:
    """Return an adapter of experts with pairs of their own, of scale 1."""
    owners = [f"layers.{layer}.mlp.experts.{number}" for layer in (0, 1) for number in (0, 1)]
    modules = [f"{owner}.{name}" for owner in owners for name in names]
    return small_adapter(*modules, **{"lora_alpha": 2, **config})


def test_experts_that_lack_gate_up_or_down_are_named() -> None:
    assert lint(experts("gate_proj", "down_proj")) == (
        "PEFT: with transformers 5, refuses experts that lack one of gate and up.",
        "vLLM: fails on experts that lack one of gate, up and down.",
        LEFT_OUT_BY_LORAX,
        "llama.cpp: its converter fails on experts that lack one of gate, up and down.",
        *LEFT_OUT,
    )
    complete = lint(experts("gate_proj", "up_proj", "down_proj"))
    assert complete == (LEFT_OUT_BY_LORAX, *LEFT_OUT)
    assert lint(experts("w1", "w2", "w3")) == (
        "SGLang: refuses target_modules w1, w2, w3.",
        LEFT_OUT_BY_LORAX,
        *LEFT_OUT,
    )


def test_peft_leaves_out_the_experts_of_one_family() -> None:
    adapter = experts("gate_proj", "up_proj", "down_proj")
    note = "with transformers 5, leaves out the experts of Qwen2-MoE without a word"
    assert notes_of(adapter, "PEFT", "Qwen/Qwen2-57B-A14B-Instruct") == [note]
    assert notes_of(adapter, "PEFT", "Qwen/Qwen3-30B-A3B") == []
    assert notes_of(small_adapter("layers.0.o_proj"), "PEFT", "Qwen/Qwen1.5-MoE-A2.7B") == []


def test_rslora_of_single_experts_is_misread_by_peft_itself() -> None:
    adapter = experts("gate_proj", "up_proj", "down_proj", use_rslora=True)
    assert notes_of(adapter, "PEFT") == [
        "with transformers 5, use_rslora makes the experts' gate and up root 2 too large"
    ]


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({}, "serves no"),
        ({"auto_mapping": {"base_model_class": "QWenLMHeadModel"}}, "serves no"),
        ({"auto_mapping": {"base_model_class": "GPT2LMHeadModel"}}, "does not serve"),
        ({"ensure_weight_tying": True}, "does not serve"),
    ],
)
def test_layers_in_transformer_h_do_not_tell_that_the_output_is_tied(
    config: dict[str, Any], note: str
) -> None:
    adapter = small_adapter("transformer.h.0.attn.c_attn", "lm_head", lora_alpha=2, **config)
    (said,) = notes_of(adapter, "llama.cpp")
    assert said.startswith(f"{note} factors of the embedding or the output of models that tie")


@pytest.mark.parametrize(
    "name", ["Ev\x1b[31mil\n" + "A" * 3000, "A" * 129, "Classü", "a.b", "9a", "Name\n", 3, ["Name"]]
)
def test_a_name_that_no_class_can_have_is_in_no_note(name: object) -> None:
    config = {"auto_mapping": {"base_model_class": name}}
    assert class_of(config) == ""
    adapter = small_adapter("layers.0.o_proj", lora_alpha=2)
    assert lint(adapter_of(adapter.tensors, {**adapter.config, **config})) == lint(adapter)
    assert class_of({"auto_mapping": {"base_model_class": "_" + "A9" * 63}})


LAYER = "model.layers.1.self_attn.v_proj"


@pytest.mark.parametrize(
    ("kind", "modules", "is_way"),
    [
        ("", [LAYER], True),
        ("", ["layers.1.self_attn.v_proj"], True),
        ("", [LAYER, "model.vision_tower.layers.1.self_attn.v_proj"], False),
        ("BertForMaskedLM", ["bert.encoder.layer.0.output.dense"], True),
        ("BertForMaskedLM", ["cls.predictions.transform.dense"], False),
        ("BertModel", ["encoder.layer.0.output.dense", "pooler.dense"], True),
        ("BertModel", ["pooler.dense"], False),
        ("GPT2LMHeadModel", ["transformer.h.0.attn.c_attn"], True),
        ("Gemma3ForConditionalGeneration", ["model.language_model.layers.0.mlp.up_proj"], True),
        ("Gemma3ForConditionalGeneration", ["language_model.model.layers.0.mlp.up_proj"], True),
        (
            "Gemma3ForConditionalGeneration",
            ["model.vision_tower.vision_model.encoder.layers.1.self_attn.v_proj"],
            False,
        ),
        ("LlamaForCausalLM", [LAYER, "lm_head"], False),
        ("FalconForCausalLM", ["transformer.h.0.mlp.dense_h_to_4h"], False),
    ],
)
def test_gguf_is_a_way_for_the_layers_of_a_language_model_alone(
    kind: str, modules: list[str], is_way: bool
) -> None:
    named: dict[str, Any] = {"auto_mapping": {"base_model_class": kind}} if kind else {}
    assert ("base_config=" in way_to_gguf(small_adapter(*modules, **named))) is is_way


@pytest.mark.parametrize(
    ("kind", "is_way"), [("MixtralForCausalLM", True), ("GraniteForCausalLM", False)]
)
def test_gguf_is_a_way_for_fused_experts_that_it_can_take_apart(
    kind: str, is_way: bool, original: Original
) -> None:
    fused = read_place(original("experts"), outside=Outside())
    named = {"auto_mapping": {"base_model_class": kind}}
    assert bool(way_to_gguf(adapter_of(fused.tensors, {**fused.config, **named}))) is is_way
