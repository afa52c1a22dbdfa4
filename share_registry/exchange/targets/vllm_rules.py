"""What vLLM 0.33 refuses or drops."""

import re
from collections.abc import Mapping
from typing import Final

from share_registry.exchange.base_model import Family
from share_registry.exchange.config import names_in
from share_registry.exchange.targets.subject import (
    ServerNote,
    Subject,
    applying,
    misread,
    refused,
    refused_keys,
    setting,
)
from share_registry.format.layout import Form

# The values its max_lora_rank may have; the default is 16.
VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_DEFAULT_RANK: Final = 16
_FIELDS: Final = (
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "trainable_token_indices",
    "velora_config",
    "monteclora_config",
)
_KEYS: Final = re.compile(
    r".*(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.(embed_tokens|lm_head)\.base_layer\.weight"
    r"|(^|\.)(score|classifier)\.(weight|bias))"
)
_FLAGS: Final = "--enable-mixed-moe-lora-format and is_3d_lora_weight in the load request"
# What it does with fused experts, by the family of the base model.
_FUSED: Final[Mapping[Family | None, ServerNote]] = {
    Family.MIXTRAL: misread("drops fused experts without a word"),
    Family.QWEN3_MOE: refused(f"refuses fused experts without {_FLAGS}"),
    None: misread(
        "drops fused experts of Mixtral without a word, and refuses those of most other models"
        f" without {_FLAGS}"
    ),
}


def vllm(subject: Subject) -> list[ServerNote]:
    """Return what vLLM makes of an adapter."""
    config, layout = subject.config, subject.layout
    bias = config.get("bias", "none")
    heads = sorted({*names_in(config, "modules_to_save")} - {"classifier", "score"})
    rules = {
        **{refused(f"refuses {field}"): config.get(field) for field in _FIELDS},
        refused(f"refuses bias={bias!r}"): bias != "none",
        refused(f"refuses modules_to_save {', '.join(heads)}"): heads,
        refused(f"refuses a config without {subject.missing_fields}"): subject.missing_fields,
        refused("takes no LoRA of models with Conv1D modules (fan_in_fan_out), such as GPT-2"): (
            config.get("fan_in_fan_out")
        ),
    }
    of_modules = {
        _FUSED.get(subject.family, _FUSED[None]): subject.has(Form.EXPERTS),
        refused("fails on experts that lack one of gate, up and down"): subject.has_partial_experts,
        refused(
            "refuses embedding factors but for some models (Llama, Mistral, Qwen3, Granite; not"
            " Qwen2, Gemma, Phi-3)"
        ): subject.has(Form.EMBEDDING),
    }
    return [
        *applying(rules),
        *refused_keys(layout, _KEYS),
        *applying(of_modules),
        *_rank(subject),
    ]


def _rank(subject: Subject) -> list[ServerNote]:
    """Return a note on a rank beyond its default."""
    largest = max((shape.rank for shape in subject.layout.modules()), default=0)
    slot = next((rank for rank in VLLM_RANKS if rank >= largest), None)
    if slot is None:
        return [refused(f"refuses rank {largest}, the largest is {VLLM_RANKS[-1]}")]
    if slot > _DEFAULT_RANK:
        return [setting(f"start it with --max-lora-rank {slot} or more")]
    return []
