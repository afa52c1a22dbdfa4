"""What the common servers make of an adapter, and the form that means the same in every one.

Their documented and read rules are pure functions over config and layout; each rule is one server's
behaviour: refuses, reads wrongly, or ignores. vLLM 0.33, SGLang 0.5.23, LoRAX and TGI of 2026,
llama.cpp's convert_lora_to_gguf. To add a server, write its rules as one function and enter it in
`SERVERS`.

The portable form has one rank R for all modules (rows of zeros fill up), lora_alpha = R, the scale
folded into B in float64 before the one rounding, no patterns, no rsLoRA, a minimal config. Tensors
outside the factor pairs have no such form: with them the export is refused, except those that act
in training alone. R is the smallest of vLLM's slots that holds every module's rank, since a smaller
one saves nothing there. An adapter of a smaller pseudo-rank p than its own rank, of which every
module has rows that multiply to exactly nothing, is exported at rank p, without them: every server
takes any rank up to its slot (vLLM and LoRAX fill up as they load).
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from share_registry.algebra.error import FactorPair
from share_registry.errors import RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import base_of, is_local
from share_registry.exchange.config import PREFIX, names_in
from share_registry.exchange.config_checks import is_foreign_library
from share_registry.exchange.normal_form import marks_of, normal_form, readings_of
from share_registry.exchange.selection import ends_with, layout_roles
from share_registry.exchange.tensors import Rows, pad_rows, tensors_of
from share_registry.format.layout import Form, Layout, TensorSpec

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
# Keys of tensors that act in training alone.
TRAINING_ONLY: Final = re.compile(r".*\.(lora_velora_embed|lora_monteclora_sampler\..+)")
_KEPT_FIELDS: Final = ("task_type", "auto_mapping", "fan_in_fan_out", "target_parameters")
_UNPORTABLE: Final = (
    "alora_invocation_tokens",
    "layer_replication",
    "use_dora",
    "lora_bias",
    "trainable_token_indices",
)
_MIN_RANK: Final = 8


def vllm(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return what vLLM refuses."""
    notes = [f"refuses {field}" for field in _VLLM_FIELDS if config.get(field)]
    if config.get("bias", "none") != "none":
        notes.append(f"refuses bias={config['bias']!r}")
    heads = sorted({*names_in(config, "modules_to_save")} - {"classifier", "score"})
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


def portable(adapter: Adapter, *, base_model: str) -> tuple[Adapter, tuple[str, ...]]:
    """Return the portable form and notes on what it changed.

    Args:
        adapter: The adapter.
        base_model: Label that replaces a local path in the config.

    Raises:
        RefusedError: the adapter has parts that some server would ignore or refuse.
    """
    adapter, changes = normal_form(adapter)
    dropped = _check(adapter)
    pairs = adapter.factor_pairs()
    largest = max(pair.a.shape[0] for pair in pairs)
    rows = [_fold_scale(pair) for pair in pairs]
    rank = max([1, *(a.shape[0] for a, _ in rows)])
    if rank == largest:
        rank = next((slot for slot in VLLM_RANKS if slot >= max(largest, _MIN_RANK)), largest)
    layout = _layout_at_rank(adapter.layout, rank)
    tensors = tensors_of(layout, [pad_rows(pair, rank) for pair in rows])
    config = _config(adapter, rank, base_model)
    notes = [f"portable: {change}" for change in changes]
    notes.append(f"portable: the scale is folded into B and every rank is {rank}.")
    if dropped:
        notes.append(f"portable: {len(dropped)} tensors used in training alone are left out.")
    form = replace(
        adapter,
        tensors={spec.key: tensors[spec.key] for spec in layout.tensors},
        layout=layout,
        config=config,
        config_bytes=json.dumps(config, indent=2).encode(),
    )
    _check_form(form)
    return form, tuple(notes)


def targets_of(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return the config's own module names where they select these modules, else every path."""
    paths = {role.path for role in layout_roles(config, layout) if not role.is_parameter}
    narrowed = config.get("exclude_modules") or config.get("layers_to_transform") is not None
    return name_targets(sorted(paths), None if narrowed else config.get("target_modules"))


def name_targets(paths: list[str], listed: object) -> list[str]:
    """Return those of the names listed that select modules, or the paths where some are left."""
    if not isinstance(listed, list):
        return paths
    used = {name for name in map(str, listed) if any(ends_with(path, {name}) for path in paths)}
    return sorted(used) if all(ends_with(path, used) for path in paths) else paths


def _strange_keys(layout: Layout, expected: re.Pattern[str]) -> list[str]:
    strange = [tensor.key for tensor in layout.tensors if not expected.fullmatch(tensor.key)]
    return [f"refuses {_count_tensors(strange)}"] if strange else []


def _has_form(layout: Layout, form: Form) -> bool:
    return any(factor.form is form for factor in layout.factors)


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


def _check(adapter: Adapter) -> list[str]:
    """Return the keys that may be left out.

    Raises RefusedError, with each server's reason, where others stand in the way.
    """
    dropped = [key for key in adapter.passengers if TRAINING_ONLY.fullmatch(key)]
    others = [key for key in adapter.passengers if key not in dropped]
    fields = [field for field in _UNPORTABLE if adapter.config.get(field)]
    if others or fields or not adapter.layout.factors:
        reasons = " ".join(lint(adapter.config, adapter.layout))
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        obstacles = ", ".join([*fields, *others[:3]]) + more
        raise RefusedError(
            f"the adapter has no portable form: it has {obstacles or 'no factor pairs'},"
            f" expected factor pairs alone. {reasons}".rstrip(),
            hint="Export it with profile='native'.",
        )
    return dropped


def _check_form(form: Adapter) -> None:
    """Check that PEFT would select every factor of a portable form, at scale 1.

    Raises RefusedError.
    """
    rank = form.config["r"]
    for factor, reading in zip(
        form.layout.factors, readings_of(form.config, form.layout), strict=True
    ):
        role = reading.role
        ensure(
            reading.is_plain and role.scale == 1 and role.rank == rank,
            RefusedError(
                f"the portable form would give {factor.module!r} the rank {role.rank} and the scale"
                f" {role.scale:g}{'' if role.is_selected else ', and not select it'}, expected"
                f" {rank} and 1.",
                hint="Export it with profile='native'.",
            ),
        )


def _fold_scale(pair: FactorPair) -> Rows:
    """Return rows with the scale in B, without those whose product is exactly zero."""
    used = (pair.a != 0).any(1) & (pair.b != 0).any(1)
    return pair.a[used], pair.b[used] * pair.scale


def _layout_at_rank(layout: Layout, rank: int) -> Layout:
    specs: dict[int, TensorSpec] = {}
    for factor in layout.factors:
        a, b = layout.tensors[factor.a], layout.tensors[factor.b]
        rows = rank * factor.experts
        specs[factor.a] = TensorSpec(key=a.key, dtype=a.dtype, shape=[rows, *a.shape[1:]])
        specs[factor.b] = TensorSpec(
            key=b.key, dtype=b.dtype, shape=[b.shape[0], rows, *b.shape[2:]]
        )
    position = {old: new for new, old in enumerate(sorted(specs))}
    return Layout(
        metadata=layout.metadata,
        tensors=[specs[old] for old in sorted(specs)],
        factors=[
            factor.model_copy(update={"a": position[factor.a], "b": position[factor.b]})
            for factor in layout.factors
        ],
    )


def _config(adapter: Adapter, rank: int, base_model: str) -> dict[str, object]:
    """Return the fields that every PEFT release knows, and others that are not at their default."""
    base = base_of(adapter.config)
    label = base.label if not is_local(base.label) else base_model
    config: dict[str, object] = {
        "base_model_name_or_path": label if label and not is_local(label) else None,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": targets_of(adapter.config, adapter.layout),
        "task_type": None,
    }
    if base.revision and base.label == label:
        config["revision"] = base.revision
    config |= {field: adapter.config[field] for field in _KEPT_FIELDS if adapter.config.get(field)}
    if is_foreign_library(config):
        config["auto_mapping"] = None
    if _has_form(adapter.layout, Form.EXPERTS):
        config |= marks_of(adapter.config)
    return dict(sorted(config.items()))
