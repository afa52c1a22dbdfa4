"""Tiny models of the architectures that llama.cpp's files are written for, each fully adapted."""

from collections.abc import Callable
from typing import Any, Final

import torch
import transformers

from tests.exchange import zoo

_SIZES: Final = {
    "vocab_size": zoo.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    # none of the tokens that are compared, as their embedding would be zero
    "pad_token_id": zoo.VOCABULARY - 1,
}
_MIXTURE: Final = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_HEADS: Final = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64}
_SLIDING: Final = {"layer_types": ["sliding_attention"] * 2}
_SHARED: Final = {"shared_expert_intermediate_size": 32}
# Classes of transformers, and what makes each a model that llama.cpp takes as it is
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "MistralForCausalLM": {"sliding_window": None},
    "Qwen2ForCausalLM": {},
    "Qwen2MoeForCausalLM": {**_MIXTURE, **_SHARED},
    "Qwen3ForCausalLM": {"head_dim": 16},
    "Qwen3MoeForCausalLM": {**_MIXTURE, "head_dim": 16, "norm_topk_prob": True},
    "GemmaForCausalLM": {"head_dim": 16},
    "Gemma2ForCausalLM": _HEADS,
    "Gemma3ForCausalLM": {**_HEADS, **_SLIDING},
    "ApertusForCausalLM": {},
    "ArceeForCausalLM": {},
    "CohereForCausalLM": {"use_qk_norm": False},
    "Ernie4_5ForCausalLM": {"head_dim": 16},
    "Exaone4ForCausalLM": {**_SLIDING, "sliding_window": 64},
    "Glm4ForCausalLM": {"head_dim": 16},
    "HunYuanDenseV1ForCausalLM": {"head_dim": 16},
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "NemotronForCausalLM": {},
    "Olmo2ForCausalLM": {},
    "Olmo3ForCausalLM": {**_SLIDING, "sliding_window": 64},
    "OlmoForCausalLM": {},
    "SeedOssForCausalLM": {"head_dim": 16},
    "StableLmForCausalLM": {},
    "Starcoder2ForCausalLM": {},
    "Phi3ForCausalLM": {"original_max_position_embeddings": 128},
    "GraniteForCausalLM": {"logits_scaling": 2.0, "residual_multiplier": 0.5},
    "SmolLM3ForCausalLM": {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
    "MixtralForCausalLM": {"num_local_experts": 4},
    "RobertaModel": {"num_key_value_heads": 2},
    "XLMRobertaModel": {"num_key_value_heads": 2},
}


def _build(name: str) -> Callable[[], torch.nn.Module]:
    def build() -> torch.nn.Module:
        torch.manual_seed(7)
        kind: Any = getattr(transformers, name)
        model: torch.nn.Module = kind(kind.config_class(**{**_SIZES, **_KINDS[name]}))
        return model.eval()

    return build


def _case(name: str) -> zoo.Case:
    """Return a case whose adapter has factors for all linear layers and experts."""
    model = _build(name)()
    modules = [path for path, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    parameters = [
        path.rpartition("layers.0.")[2]
        for path, part in model.named_parameters()
        if "layers.0." in path and path.endswith(("experts.gate_up_proj", "experts.down_proj"))
    ]
    options = {
        "target_modules": sorted({path.rpartition(".")[2] for path in modules} - {"lm_head"}),
        "target_parameters": parameters or None,
    }
    return zoo.Case(base=_build(name), options=options)


MODELS: Final[dict[str, zoo.Case]] = {
    **{name: _case(name) for name in _KINDS},
    "square Conv1D": zoo.Case(
        base=zoo.gpt2, options={"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}
    ),
    "Conv1D": zoo.Case(
        base=zoo.gpt2,
        options={"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True},
    ),
    "output": zoo.Case(base=zoo.llama, options={"target_modules": ["lm_head"]}, portable=False),
    "words": zoo.Case(
        base=zoo.bert,
        options={"target_modules": ["word_embeddings", "key"]},
        portable=False,
    ),
}
