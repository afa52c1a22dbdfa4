"""Bring an adapter into the portable form, which means the same function in every server.

One rank R for all modules (rows of zeros fill up), lora_alpha = R, the scale folded into B in
float64 before the one rounding, no patterns, no rsLoRA, a minimal config. Tensors outside the
factor pairs have no such form: with them the export is refused, except those that act in training
alone.

R is the smallest of vLLM's slots that holds every module's rank, since a smaller one saves nothing
there. An adapter of a smaller pseudo-rank p than its own rank, of which every module has rows that
multiply to exactly nothing, is exported at rank p, without them: every server takes any rank up to
its slot (vLLM and LoRAX fill up as they load).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from share_registry.algebra.error import FactorPair
from share_registry.errors import RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import base_of, is_local
from share_registry.exchange.config import plain_path
from share_registry.exchange.serving_lint import VLLM_RANKS, lint
from share_registry.exchange.tensors import Rows, pad_rows, tensors_of
from share_registry.format.layout import Form, Layout, TensorSpec

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


def portable(adapter: Adapter, *, base_model: str) -> tuple[Adapter, tuple[str, ...]]:
    """Return the portable form and notes on what it changed.

    Args:
        adapter: The adapter.
        base_model: Label that replaces a local path in the config.

    Raises:
        RefusedError: the adapter has parts that some server would ignore or refuse.
    """
    dropped = _check(adapter)
    pairs = adapter.factor_pairs()
    largest = max(pair.a.shape[0] for pair in pairs)
    rows = [_fold_scale(pair) for pair in pairs]
    rank = max([1, *(a.shape[0] for a, _ in rows)])
    if rank == largest:
        rank = next((slot for slot in VLLM_RANKS if slot >= max(largest, _MIN_RANK)), largest)
    layout = _layout(adapter.layout, rank)
    tensors = tensors_of(layout, [pad_rows(pair, rank) for pair in rows])
    config = _config(adapter, rank, base_model)
    notes = [f"portable: the scale is folded into B and every rank is {rank}."]
    if dropped:
        notes.append(f"portable: {len(dropped)} tensors used in training alone are left out.")
    form = replace(
        adapter,
        tensors={spec.key: tensors[spec.key] for spec in layout.tensors},
        layout=layout,
        config=config,
        config_bytes=json.dumps(config, indent=2).encode(),
    )
    return form, tuple(notes)


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


def _fold_scale(pair: FactorPair) -> Rows:
    """Return rows with the scale in B, without those whose product is exactly zero."""
    used = (pair.a != 0).any(1) & (pair.b != 0).any(1)
    return pair.a[used], pair.b[used] * pair.scale


def _layout(layout: Layout, rank: int) -> Layout:
    """Return the layout of the factor pairs alone, at one rank."""
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
    return dict(sorted(config.items()))


def targets_of(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return the config's own module names where they select these modules, else every path."""
    parameters = config.get("target_parameters")
    listed_parameters = parameters if isinstance(parameters, list) else []
    owners = {str(target).rpartition(".")[0] for target in listed_parameters}
    paths = sorted(
        {
            plain_path(factor.module)
            for factor in layout.factors
            if factor.form is not Form.EXPERTS and not _ends(factor.module, owners)
        }
    )
    listed = config.get("target_modules")
    narrowed = config.get("exclude_modules") or config.get("layers_to_transform") is not None
    if not isinstance(listed, list) or narrowed:
        return paths
    used = sorted({str(name) for name in listed if any(_ends(path, {str(name)}) for path in paths)})
    return used if all(_ends(path, set(used)) for path in paths) else paths


def _ends(module: str, names: set[str]) -> bool:
    path = plain_path(module)
    return any(path == name or path.endswith(f".{name}") for name in names)
