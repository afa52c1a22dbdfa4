"""What llama.cpp b11549, with its convert_lora_to_gguf, refuses or reads wrongly."""

import re
from typing import Final

from share_registry.exchange.targets.llama_cpp_classes import CONVERTED
from share_registry.exchange.targets.subject import (
    NORMS,
    ServerNote,
    Subject,
    applying,
    count_tensors,
    misread,
    refused,
    refused_keys,
    setting,
)
from share_registry.format.layout import Form

_KEYS: Final = re.compile(
    rf".*(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.base_layer\.weight.*)|{NORMS.pattern}"
)
_GPT2: Final = "GPT2LMHeadModel"
# What configs say of models that tie the two: fan_in_fan_out is of Conv1D, as in GPT-2
_TYING: Final = ("ensure_weight_tying", "fan_in_fan_out")
_TIED: Final = "factors of the embedding or the output of models that tie the two"


def llama_cpp(subject: Subject) -> list[ServerNote]:
    """Return what llama.cpp makes of an adapter that its converter was given."""
    config, name = subject.config, subject.base_class
    norms = [key for key in subject.passengers if NORMS.fullmatch(key)]
    rules = {
        refused(f"its converter knows no {name}"): name and name not in CONVERTED,
        misread("ignores use_rslora, so scales are wrong"): config.get("use_rslora"),
        misread("ignores alpha_pattern, so scales are wrong"): config.get("alpha_pattern"),
        misread("reads lora_alpha 0 as no scaling"): config.get("lora_alpha") == 0,
        refused("its converter fails on a config without lora_alpha"): "lora_alpha" not in config,
        refused("its converter fails on layer_replication"): config.get("layer_replication"),
        refused("its converter fails on fused experts"): subject.has(Form.EXPERTS),
        refused("its converter fails on experts that lack one of gate, up and down"): (
            subject.has_partial_experts
        ),
        setting("activates it in llama-server alone: its other programs read plain LoRA"): (
            config.get("alora_invocation_tokens")
        ),
        misread(f"ignores {count_tensors(norms, ' of norms')}"): norms,
    }
    return [
        *applying(rules),
        *_transposed(subject),
        *_outer(subject),
        *refused_keys(subject.layout, _KEYS),
    ]


def _transposed(subject: Subject) -> list[ServerNote]:
    """Return a note on Conv1D modules, whose factors its converter turns as it does weights."""
    if not subject.config.get("fan_in_fan_out"):
        return []
    tensors, pairs = subject.layout.tensors, subject.layout.factors
    shapes = [
        (tensors[pair.a].shape[1], tensors[pair.b].shape[0])
        for pair in pairs
        if pair.form is Form.LINEAR
    ]
    if all(width == rows for width, rows in shapes):
        clause = (
            "reads Conv1D modules (fan_in_fan_out) transposed without a word where they are square"
        )
        return [misread(clause)] if shapes else []
    return [refused("its converter transposes Conv1D modules (fan_in_fan_out), which fail to load")]


def _outer(subject: Subject) -> list[ServerNote]:
    """Return a note on factors of the embedding and the output."""
    keys = [tensor.key for tensor in subject.layout.tensors]
    if not any(".lora_embedding_" in key or "lm_head.lora_" in key for key in keys):
        return []
    # paths do not tell: models that are named as GPT-2 is, such as QWen, need not tie the two
    is_tied = subject.base_class == _GPT2 or any(map(subject.config.get, _TYING))
    return [refused(f"does not serve {_TIED}") if is_tied else setting(f"serves no {_TIED}")]
