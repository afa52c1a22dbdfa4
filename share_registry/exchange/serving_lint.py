"""What the common servers would make of an exported adapter.

Their documented and read rules as pure functions over config and layout; each rule is one server's
behaviour: refuses, reads wrongly, or ignores. vLLM 0.33, SGLang 0.5.23, LoRAX and TGI of 2026,
llama.cpp's convert_lora_to_gguf.

To add a server, write its rules as one function and enter it in `SERVERS`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from share_registry.exchange.config import PREFIX
from share_registry.format.layout import Form, Layout

# The values vLLM's max_lora_rank may have; the default is 16.
VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
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
    r".*(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.(embed_tokens|lm_head)\.base_layer\.weight"
    r"|(^|\.)(score|classifier)\.(weight|bias))"
)
_LLAMA_KEYS: Final = re.compile(
    r".*(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.base_layer\.weight|norm[^.]*\.weight)"
)
# SGLang fuses q, k, v and gate, up: what it says -> the modules, and the one they need
_FUSED: Final = {
    "fails on q_proj without v_proj": ({"q_proj"}, "v_proj"),
    "does not place k_proj or v_proj without q_proj": ({"k_proj", "v_proj"}, "q_proj"),
    "does not place up_proj without gate_proj": ({"up_proj"}, "gate_proj"),
}
_LAYER: Final = re.compile(r"(.*?\.)(\d+)\.(.+)")


def vllm(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return what vLLM refuses."""
    notes = [f"refuses {field}" for field in _VLLM_FIELDS if config.get(field)]
    if config.get("bias", "none") != "none":
        notes.append(f"refuses bias={config['bias']!r}")
    heads = sorted(set(_names(config, "modules_to_save")) - _VLLM_HEADS)
    if heads:
        notes.append(f"refuses modules_to_save {', '.join(heads)}")
    notes += _strange_keys(layout, _VLLM_KEYS)
    largest = max((shape.rank for shape in layout.modules()), default=0)
    slot = next((rank for rank in VLLM_RANKS if rank >= largest), None)
    if slot is None:
        notes.append(f"refuses rank {largest}, the largest is {VLLM_RANKS[-1]}")
    elif slot > _VLLM_DEFAULT_RANK:
        notes.append(f"start it with --max-lora-rank {slot} or more")
    return notes


def sglang(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return what SGLang refuses or reads wrongly."""
    targets = config.get("target_modules")
    rules = {
        "ignores use_rslora, so the scale is wrong": config.get("use_rslora"),
        "ignores alpha_pattern, so scales are wrong": config.get("alpha_pattern"),
        "fails on different ranks": len({shape.rank for shape in layout.modules()}) > 1,
        "refuses target_modules given as a regular expression": (
            isinstance(targets, str) and targets != "all-linear"
        ),
        "refuses use_dora": config.get("use_dora"),
        "does not map expert parameters": _has_form(layout, Form.EXPERTS),
    }
    return [
        *(note for note, applies in rules.items() if applies),
        *_passengers(layout, "ignores or fails late on"),
        *_unfused(layout),
    ]


def lorax(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return what LoRAX and TGI read wrongly without an error."""
    notes = [
        f"ignore {field}, so scales are wrong"
        for field in ("rank_pattern", "alpha_pattern")
        if config.get(field)
    ]
    types = _types(layout)
    layers = {(prefix, layer) for modules in types.values() for prefix, layer, _ in modules}
    for name, modules in sorted(types.items()):
        prefixes = {prefix for prefix, _, _ in modules}
        if len(modules) < sum(prefix in prefixes for prefix, _ in layers):
            notes.append(f"drop {name}: not every adapted layer has it")
        if len({rank for _, _, rank in modules}) > 1:
            notes.append(f"cannot stack {name}: its ranks differ")
    if config.get("layers_to_transform") is not None:
        notes.append(
            "drop every module type that some layer of the model lacks (layers_to_transform)"
        )
    if _has_form(layout, Form.EMBEDDING):
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
    return notes + _strange_keys(layout, _LLAMA_KEYS)


# Returns what one server refuses, ignores or reads wrongly, as clauses without a full stop.
Rules = Callable[[Mapping[str, object], Layout], list[str]]
# Server, as the notes name it -> its rules.
SERVERS: Final[Mapping[str, Rules]] = {
    "vLLM": vllm,
    "SGLang": sglang,
    "LoRAX, TGI": lorax,
    "llama.cpp": llama_cpp,
}


def lint(config: Mapping[str, object], layout: Layout) -> tuple[str, ...]:
    """Return what to know before serving, one sentence each, the server first."""
    return tuple(
        f"{server}: {note}." for server, rules in SERVERS.items() for note in rules(config, layout)
    )


def _strange_keys(layout: Layout, expected: re.Pattern[str]) -> list[str]:
    strange = [tensor.key for tensor in layout.tensors if not expected.fullmatch(tensor.key)]
    return [f"refuses {_count_tensors(strange)}"] if strange else []


def _has_form(layout: Layout, form: Form) -> bool:
    return any(factor.form is form for factor in layout.factors)


def _names(config: Mapping[str, object], field: str) -> list[str]:
    value = config.get(field)
    return [str(name) for name in value] if isinstance(value, list) else []


def _passengers(layout: Layout, verb: str) -> list[str]:
    keys = [layout.tensors[position].key for position in layout.passengers]
    return [f"{verb} {_count_tensors(keys, ' outside the factor pairs')}"] if keys else []


def _count_tensors(keys: Sequence[str], where: str = "") -> str:
    if len(keys) == 1:
        return f"1 tensor{where}, {keys[0]}"
    return f"{len(keys)} tensors{where}, such as {keys[0]}"


def _types(layout: Layout) -> dict[str, list[tuple[str, int, int]]]:
    """Return the modules in numbered layers: type -> (path before the number, number, rank)."""
    types: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for factor in layout.factors:
        if match := _LAYER.fullmatch(factor.module.removeprefix(PREFIX)):
            rank = layout.tensors[factor.a].shape[0] // factor.experts
            types[match[3]].append((match[1], int(match[2]), rank))
    return types


def _unfused(layout: Layout) -> list[str]:
    layers: dict[str, set[str]] = defaultdict(set)
    for factor in layout.factors:
        owner, _, name = factor.module.rpartition(".")
        layers[owner].add(name)
    return sorted(
        note
        for note, (fused, needed) in _FUSED.items()
        if any(names & fused and needed not in names for names in layers.values())
    )
