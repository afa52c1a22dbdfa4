"""The lint: every server's known refusals and silent losses, silent about a portable adapter."""

from collections.abc import Callable
from pathlib import Path

import pytest

from share_registry.exchange.export_files import CardFacts, Profile, files_of
from share_registry.exchange.peft_directory import adapter_of, read_directory
from share_registry.exchange.servers import lint, llama_cpp, lorax, sglang, vllm
from share_registry.outside.files import Outside
from tests.exchange.zoo import CASES

Original = Callable[[str], Path]

EXPECTED: dict[str, tuple[str, ...]] = {
    "plain": (),
    "gaussian": (),
    "bert": (),
    "rslora": ("SGLang: ignores use_rslora", "llama.cpp: ignores use_rslora"),
    "rank_pattern": (
        "SGLang: fails on different ranks",
        "LoRAX, TGI: ignore rank_pattern",
        "LoRAX, TGI: cannot stack mlp.up_proj",
    ),
    "alpha_pattern": (
        "SGLang: ignores alpha_pattern",
        "LoRAX, TGI: ignore alpha_pattern",
        "llama.cpp: ignores alpha_pattern",
    ),
    "regex": ("SGLang: refuses target_modules given as a regular expression",),
    "layers": ("LoRAX, TGI: drop every module type that some layer of the model lacks",),
    "exclude": (
        "SGLang: does not place k_proj or v_proj without q_proj",
        "LoRAX, TGI: drop self_attn.q_proj",
    ),
    "dora": (
        "vLLM: refuses use_dora",
        "vLLM: refuses 4 tensors",
        "SGLang: refuses use_dora",
        "LoRAX, TGI: ignore 4 tensors",
        "llama.cpp: refuses 4 tensors",
    ),
    "lora_bias": (
        "vLLM: refuses lora_bias",
        "SGLang: ignores or fails late on 4 tensors",
        "LoRAX, TGI: ignore 4",
        "llama.cpp: refuses 4",
    ),
    "bias_all": ("vLLM: refuses bias='all'", "llama.cpp: refuses 18 tensors"),
    "modules_to_save": (
        "vLLM: refuses modules_to_save lm_head",
        "SGLang: ignores",
        "LoRAX, TGI: ignore 1",
        "llama.cpp: refuses 1",
    ),
    "classifier": ("SGLang: ignores", "LoRAX, TGI: ignore 1", "llama.cpp: refuses 1"),
    "trainable_tokens": (
        "vLLM: refuses trainable_token_indices",
        "vLLM: refuses 1 tensor,",
        "llama.cpp: refuses 1",
    ),
    "alora": ("vLLM: refuses alora_invocation_tokens",),
    "replicated": ("vLLM: refuses layer_replication",),
    "gpt2_embedding": ("LoRAX, TGI: do not find embedding factors",),
    "experts": ("SGLang: does not map expert parameters", "SGLang: fails on q_proj without v_proj"),
    "velora": ("vLLM: refuses velora_config", "vLLM: refuses 4 tensors"),
    "monteclora": ("vLLM: refuses monteclora_config", "vLLM: refuses 16 tensors"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_servers_limits_are_named(name: str, original: Original) -> None:
    adapter = read_directory(original(name), outside=Outside())
    notes = lint(adapter.config, adapter.layout)
    for part in EXPECTED[name]:
        assert any(part in note for note in notes), notes
    if not EXPECTED[name]:
        assert notes == ()


def test_vllm_accepts_a_classifier_head(original: Original) -> None:
    adapter = read_directory(original("classifier"), outside=Outside())
    assert vllm(adapter.config, adapter.layout) == []


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
    adapter = read_directory(original(name), outside=Outside())
    profile: Profile = "portable"
    _, notes = files_of(adapter, profile=profile, card=CardFacts.of(adapter))
    assert all(note.startswith("portable: ") for note in notes), notes


def test_ranks_beyond_vllms_default_and_largest_are_named() -> None:
    import torch

    for rank, part in (
        (16, None),
        (17, "start it with --max-lora-rank 32 or more"),
        (513, "refuses rank 513, the largest is 512"),
    ):
        tensors = {
            "base_model.model.x.lora_A.weight": torch.ones(rank, 2),
            "base_model.model.x.lora_B.weight": torch.ones(2, rank),
        }
        adapter = adapter_of(tensors, {"peft_type": "LORA", "r": rank, "lora_alpha": 0})
        assert vllm(adapter.config, adapter.layout) == ([part] if part else [])
        assert llama_cpp(adapter.config, adapter.layout) == ["reads lora_alpha 0 as no scaling"]
        assert sglang(adapter.config, adapter.layout) == lorax(adapter.config, adapter.layout) == []
