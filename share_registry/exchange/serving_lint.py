"""What the common servers would make of an exported adapter.

Their documented and read rules as pure functions over config and layout.

Each rule is one server's behaviour: refuses, reads wrongly, or ignores. vLLM 0.33, SGLang 0.5.23,
LoRAX and TGI of 2026, llama.cpp's convert_lora_to_gguf.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from share_registry.exchange.scales import PREFIX
from share_registry.format.layout import FactorSpec, Form, Layout

VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values vLLM's max_lora_rank may have; the default is 16."""
_VLLM_DEFAULT_RANK: Final = 16
_VLLM_FIELDS: Final = (
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "trainable_token_indices",
    "velora_config",
    "monteclora_config",
)
_VLLM_HEADS: Final = {"classifier", "score"}
_VLLM_KEYS: Final = re.compile(
    r".*(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.(embed_tokens|lm_head)\.base_layer\.weight|(^|\.)(score|classifier)\.(weight|bias))"
)
_LLAMA_KEYS: Final = re.compile(
    r".*(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.base_layer\.weight|norm[^.]*\.weight)"
)
_LAYER: Final = re.compile(r"(.*?\.)(\d+)\.(.+)")


def lint(config: Mapping[str, object], layout: Layout) -> tuple[str, ...]:
    """Return what to know before serving, one sentence each, the server first."""
    return (
        *(f"vLLM: {note}." for note in vllm(config, layout)),
        *(f"SGLang: {note}." for note in sglang(config, layout)),
        *(f"LoRAX, TGI: {note}." for note in lorax(config, layout)),
        *(f"llama.cpp: {note}." for note in llama_cpp(config, layout)),
    )


def vllm(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return what vLLM refuses."""
    notes = [f"refuses {field}" for field in _VLLM_FIELDS if config.get(field)]
    if config.get("bias", "none") != "none":
        notes.append(f"refuses bias={config['bias']!r}")
    heads = sorted(set(_names(config, "modules_to_save")) - _VLLM_HEADS)
    if heads:
        notes.append(f"refuses modules_to_save {', '.join(heads)}")
    other = [key for key in _keys(layout) if not _VLLM_KEYS.fullmatch(key)]
    if other:
        notes.append(f"refuses {_tensors(other)}")
    largest = max((shape.rank for shape in layout.modules()), default=0)
    slot = next((rank for rank in VLLM_RANKS if rank >= largest), None)
    if slot is None:
        notes.append(f"refuses rank {largest}, the largest is {VLLM_RANKS[-1]}")
    elif slot > _VLLM_DEFAULT_RANK:
        notes.append(f"start it with --max-lora-rank {slot} or more")
    return notes


def sglang(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return what SGLang refuses or reads wrongly."""
    notes = []
    if config.get("use_rslora"):
        notes.append("ignores use_rslora, so the scale is wrong")
    if config.get("alpha_pattern"):
        notes.append("ignores alpha_pattern, so scales are wrong")
    if len({shape.rank for shape in layout.modules()}) > 1:
        notes.append("fails on different ranks")
    if isinstance(config.get("target_modules"), str) and config["target_modules"] != "all-linear":
        notes.append("refuses target_modules given as a regular expression")
    if config.get("use_dora"):
        notes.append("refuses use_dora")
    if any(factor.form is Form.EXPERTS for factor in layout.factors):
        notes.append("does not map expert parameters")
    notes += _passengers(layout, "ignores or fails late on")
    return notes + _unfused(layout)


def lorax(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return what LoRAX and TGI read wrongly without an error."""
    notes = [
        f"ignore {field}, so scales are wrong"
        for field in ("rank_pattern", "alpha_pattern")
        if config.get(field)
    ]
    types = _types(layout)
    layers = {(prefix, layer) for found in types.values() for prefix, layer, _ in found}
    for name, found in sorted(types.items()):
        prefixes = {prefix for prefix, _, _ in found}
        if len(found) < sum(prefix in prefixes for prefix, _ in layers):
            notes.append(f"drop {name}: not every adapted layer has it")
        if len({rank for _, _, rank in found}) > 1:
            notes.append(f"cannot stack {name}: its ranks differ")
    if config.get("layers_to_transform") is not None:
        notes.append(
            "drop every module type that some layer of the model lacks (layers_to_transform)"
        )
    if any(factor.form is Form.EMBEDDING for factor in layout.factors):
        notes.append("do not find embedding factors")
    return notes + _passengers(layout, "ignore")


def llama_cpp(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return what llama.cpp's converter refuses or reads wrongly."""
    notes = [
        f"ignores {field}, so scales are wrong"
        for field in ("use_rslora", "alpha_pattern")
        if config.get(field)
    ]
    if config.get("lora_alpha") == 0:
        notes.append("reads lora_alpha 0 as no scaling")
    other = [key for key in _keys(layout) if not _LLAMA_KEYS.fullmatch(key)]
    if other:
        notes.append(f"refuses {_tensors(other)}")
    return notes


def _keys(layout: Layout) -> list[str]:
    return [tensor.key for tensor in layout.tensors]


def _names(config: Mapping[str, object], field: str) -> list[str]:
    value = config.get(field)
    return [str(name) for name in value] if isinstance(value, list) else []


def _passengers(layout: Layout, verb: str) -> list[str]:
    keys = [layout.tensors[position].key for position in layout.passengers]
    return [f"{verb} {_tensors(keys, ' outside the factor pairs')}"] if keys else []


def _tensors(keys: Sequence[str], where: str = "") -> str:
    return (
        f"{len(keys)} tensors{where}, such as {keys[0]}"
        if len(keys) > 1
        else f"1 tensor{where}, {keys[0]}"
    )


def _types(layout: Layout) -> dict[str, list[tuple[str, int, int]]]:
    """Return module type -> (path before the layer number, layer number, rank), for modules in numbered layers."""
    types: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for factor in layout.factors:
        if match := _LAYER.fullmatch(factor.module.removeprefix(PREFIX)):
            types[match[3]].append((match[1], int(match[2]), _rank(layout, factor)))
    return types


def _rank(layout: Layout, factor: FactorSpec) -> int:
    return layout.tensors[factor.a].shape[0] // factor.experts


def _unfused(layout: Layout) -> list[str]:
    """SGLang fuses q, k, v and gate, up, and needs v for q, and gate for up."""
    layers: dict[str, set[str]] = defaultdict(set)
    for factor in layout.factors:
        owner, _, name = factor.module.rpartition(".")
        layers[owner].add(name)
    notes = set()
    for names in layers.values():
        if "q_proj" in names and "v_proj" not in names:
            notes.add("fails on q_proj without v_proj")
        if names & {"k_proj", "v_proj"} and "q_proj" not in names:
            notes.add("does not place k_proj or v_proj without q_proj")
        if "up_proj" in names and "gate_proj" not in names:
            notes.add("does not place up_proj without gate_proj")
    return sorted(notes)
