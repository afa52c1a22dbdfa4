"""What SGLang 0.5.23 refuses, reads wrongly, or ends with.

It fuses q, k and v, and gate and up, and fills buffers of one rank for each layer when the first
request for an adapter comes: what it cannot place then ends the server.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from share_registry.exchange.config import DEFAULT_RANK, names_in
from share_registry.exchange.targets.subject import (
    ACTIVATED,
    COPY,
    ServerNote,
    Subject,
    applying,
    count_tensors,
    misread,
    refused,
)
from share_registry.format.layout import Form, Layout

# Modules that are fused, the one that they need -> how that is said
SGLANG_FUSED: Final[Mapping[tuple[frozenset[str], str], str]] = {
    (frozenset({"k_proj", "v_proj"}), "q_proj"): "k_proj or v_proj without q_proj",
    (frozenset({"up_proj"}), "gate_proj"): "up_proj without gate_proj",
    # the one that it refuses when it loads the adapter
    (frozenset({"q_proj"}), "v_proj"): "q_proj without v_proj",
}
# The modules that some model's buffers are made for, as adapters name them.
_PLACED: Final = re.compile(
    r"(q|k|v|qkv|o|out|gate|up|gate_up|down|q_a|q_b|kv_b|in|x|fc1_latent|fc2_latent|weights)_proj"
    r"|kv_a_proj_with_mqa|fused_qkv_a_proj_with_mqa|in_proj_qkvz|qkvr|wo_ud|wq_b|wk"
    r"|embed_tokens|vocab_emb|embeddings|word_embeddings|lm_head|unembed_tokens|output"
)
_NUMBERED: Final = re.compile(r"(^|.*\.)layers\.\d+\..*")


def sglang(subject: Subject) -> list[ServerNote]:
    """Return what SGLang makes of an adapter."""
    config, layout = subject.config, subject.layout
    targets, unfused = config.get("target_modules"), _unfused(layout)
    *fatal, unplaced = SGLANG_FUSED.values()
    named = {name.rpartition(".")[2] for name in names_in(config, "target_modules")}
    strange = sorted(name for name in named if not _PLACED.fullmatch(name))
    rules = {
        misread("ignores use_rslora, so the scale is wrong"): config.get("use_rslora"),
        misread("ignores alpha_pattern, so scales are wrong"): config.get("alpha_pattern"),
        misread(ACTIVATED): config.get("alora_invocation_tokens"),
        refused("refuses target_modules given as a regular expression"): (
            isinstance(targets, str) and targets != "all-linear"
        ),
        refused(f"refuses target_modules {', '.join(strange)}"): strange,
        refused("refuses use_dora"): config.get("use_dora"),
        refused("fails on layer_replication"): config.get("layer_replication"),
        refused(f"refuses {unplaced}"): unplaced in unfused,
        refused(f"fails on a config without {subject.missing_fields}"): subject.missing_fields,
        refused("refuses added_tokens.json where its ids go beyond the base model's vocabulary"): (
            "added_tokens.json" in subject.attachments
        ),
    }
    inner, lost = _split_passengers(subject.passengers)
    reasons = {
        "ranks other than r": any(
            shape.rank != config.get("r", DEFAULT_RANK) for shape in layout.modules()
        ),
        "fused experts": subject.has(Form.EXPERTS),
        **{reason: reason in unfused for reason in fatal},
        count_tensors(inner, " of layers"): inner and not config.get("use_dora"),
    }
    notes = applying(rules)
    if ends := [reason for reason, applies in reasons.items() if applies]:
        notes.append(refused(f"the first request for it ends the server: {', '.join(ends)}"))
    if lost:
        notes.append(misread(f"ignores {count_tensors(lost, ' outside the factor pairs')}"))
    unplaced_pairs = [] if strange else _unnumbered(layout)
    return [*notes, *unplaced_pairs, *_side_files(subject.attachments)]


def _split_passengers(keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the keys of tensors that it does not place, and of those that it ignores."""
    keys = [key for key in keys if not COPY.fullmatch(key)]
    inner = [key for key in keys if _NUMBERED.fullmatch(key) and not key.endswith(".bias")]
    return inner, [key for key in keys if key not in inner]


def _unnumbered(layout: Layout) -> list[ServerNote]:
    """Return what it makes of pairs outside numbered layers; of embeddings it reads them."""
    modules = [
        factor.module
        for factor in layout.factors
        if not _NUMBERED.fullmatch(factor.module)
        and factor.module.rpartition(".")[2] not in ("embed_tokens", "lm_head")
    ]
    if not modules:
        return []
    return [
        misread(
            f"drops factor pairs outside layers.N ({len(modules)}, such as {modules[0]})"
            " without a word"
        )
    ]


def _side_files(attachments: Collection[str]) -> list[ServerNote]:
    files = sorted(name for name in attachments if name.endswith(".safetensors"))
    return [misread(f"reads {', '.join(files)} as LoRA weights as well")] if files else []


def _unfused(layout: Layout) -> set[str]:
    """Return what it fuses and does not find together."""
    owners: dict[str, set[str]] = defaultdict(set)
    for factor in layout.factors:
        owner, _, name = factor.module.rpartition(".")
        owners[owner].add(name)
    return {
        reason
        for (fused, needed), reason in SGLANG_FUSED.items()
        if any(names & fused and needed not in names for names in owners.values())
    }
