"""What llama.cpp b11549, with its convert_lora_to_gguf, refuses or reads wrongly."""

import re
from typing import Final

from share_registry.exchange.targets.subject import (
    NORMS,
    ServerNote,
    Subject,
    applying,
    count_tensors,
    misread,
    refused,
    refused_keys,
)
from share_registry.format.layout import Form

_KEYS: Final = re.compile(
    rf".*(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.base_layer\.weight.*)|{NORMS.pattern}"
)


def llama_cpp(subject: Subject) -> list[ServerNote]:
    """Return what llama.cpp makes of an adapter that its converter was given."""
    config = subject.config
    norms = [key for key in subject.passengers if NORMS.fullmatch(key)]
    rules = {
        misread("ignores use_rslora, so scales are wrong"): config.get("use_rslora"),
        misread("ignores alpha_pattern, so scales are wrong"): config.get("alpha_pattern"),
        misread("reads lora_alpha 0 as no scaling"): config.get("lora_alpha") == 0,
        refused("its converter fails on a config without lora_alpha"): "lora_alpha" not in config,
        refused("its converter fails on fused experts"): subject.has(Form.EXPERTS),
        refused("its converter fails on experts that lack one of gate, up and down"): (
            subject.has_partial_experts
        ),
        misread(
            "reads Conv1D modules (fan_in_fan_out) transposed: without a word where they are"
            " square, else it refuses them"
        ): config.get("fan_in_fan_out"),
        refused("does not serve embedding factors of models with tied embeddings"): (
            subject.has(Form.EMBEDDING)
        ),
        misread(f"ignores {count_tensors(norms, ' of norms')}"): norms,
    }
    return [*applying(rules), *refused_keys(subject.layout, _KEYS)]
