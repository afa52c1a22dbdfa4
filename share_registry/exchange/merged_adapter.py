"""The adapter that a merge of several gives.

Their dW merged, one rank and scale 1, and of the rest what all of them agree in.

A merge of one adapter with weight 1 is that adapter, whatever it is made of. Several are only
merged where dW is linear in what the factors say; else the merge is refused by name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from share_registry.algebra.merge_methods import MergeRule, merge_rows
from share_registry.errors import RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import base_of
from share_registry.exchange.config import CONFIG_FILE, parse_config
from share_registry.exchange.export_files import tensor_file
from share_registry.exchange.factor_pairs import FactorPair, tensors_of
from share_registry.exchange.peft_directory import source_digest
from share_registry.exchange.portable import targets_of
from share_registry.exchange.tensors import TORCH, item_of
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec
from share_registry.format.records import Source

_TRAINING_ONLY: Final = re.compile(r".*\.(lora_velora_embed|lora_monteclora_sampler\..+)")
_NONLINEAR: Final = ("use_dora", "lora_bias", "ensure_weight_tying")
_SAME_FIELDS: Final = (
    "alora_invocation_tokens",
    "layer_replication",
    "fan_in_fan_out",
    "target_parameters",
    "trainable_token_indices",
)
_CLEARED: Final[tuple[tuple[str, object], ...]] = (
    ("alpha_pattern", {}),
    ("rank_pattern", {}),
    ("use_rslora", False),
    ("init_lora_weights", True),
    ("exclude_modules", None),
    ("layers_to_transform", None),
    ("layers_pattern", None),
    ("velora_config", None),
    ("monteclora_config", None),
)
_HINT: Final = "Merge adapters that are plain LoRA there, or merge the models themselves."


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedAdapter:
    """One parent of a merge: what it is called, the adapter, and its weight."""

    ref: str
    adapter: Adapter
    weight: float


def merged(parts: Sequence[WeightedAdapter], rule: MergeRule) -> Adapter:
    """Return the adapter of a merge; of one part with weight 1, that part.

    Every module has one rank, the largest that a merged module needs, and scale 1. A module that
    only some parts have counts as zero in the others. Element types are the widest of the parts'.
    The config is the first part's with that rank; tensors beside the factors are kept where the
    parts that have them agree; other floats are summed where that means something: linear weights
    that sum to 1, over tensors that every part has.

    Raises:
        RefusedError: parts are of different base models or shapes, or have what no merge of factors can
            express.
    """
    if len(parts) == 1 and parts[0].weight == 1:
        return parts[0].adapter
    _check(parts)
    modules = [_pairs(part.adapter) for part in parts]
    names = dict.fromkeys(name for pairs in modules for name in pairs)
    weights = [part.weight for part in parts]
    rows = {
        name: merge_rows([pairs.get(name) for pairs in modules], weights, module=name, rule=rule)
        for name in sorted(names)
    }
    rank = max([1, *(a.shape[0] for a, _ in rows.values())])
    passengers = _passengers(parts, rule)
    layout = _layout(parts, rank, passengers)
    factors = tensors_of(layout, [_padded(rows[shape.module], rank) for shape in layout.modules()])
    return _assembled(
        parts,
        layout,
        {spec.key: {**passengers, **factors}[spec.key] for spec in layout.tensors},
        rank,
    )


def _check(parts: Sequence[WeightedAdapter]) -> None:
    """Check that the factors of every part say all of its dW, and the same base model.

    Raises RefusedError.
    """
    first = parts[0]
    for part in parts:
        found = [field for field in _NONLINEAR if part.adapter.config.get(field)]
        found += [
            key
            for key in part.adapter.passengers
            if "lora_" in key and not _TRAINING_ONLY.fullmatch(key)
        ]
        if found or not part.adapter.layout.factors:
            raise RefusedError(
                f"{part.ref} cannot be merged: it has {', '.join(found[:3]) or 'no factor pairs'}, and dW is not linear in factors alone.",
                hint=_HINT,
            )
        if base_of(part.adapter.config).label != base_of(first.adapter.config).label:
            labels = [base_of(which.adapter.config).label for which in (first, part)]
            raise RefusedError(
                f"{first.ref} was trained on {labels[0]!r}, {part.ref} on {labels[1]!r}.",
                hint="Merge adapters of one base model.",
            )
        for field in _SAME_FIELDS:
            if (part.adapter.config.get(field) or None) != (
                first.adapter.config.get(field) or None
            ):
                raise RefusedError(
                    f"{first.ref} and {part.ref} differ in {field}, expected one value for what is merged.",
                    hint=_HINT,
                )
    if len({part.adapter.config.get("bias", "none") for part in parts} - {"none"}) > 1:
        raise RefusedError(
            "the adapters differ in bias, expected one value for what is merged.", hint=_HINT
        )


def _pairs(adapter: Adapter) -> dict[str, FactorPair]:
    return {pair.module: pair for pair in adapter.factor_pairs()}


def _padded(
    rows: tuple[torch.Tensor, torch.Tensor], rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = (torch.nn.functional.pad(side, (0, 0, 0, rank - side.shape[0])) for side in rows)
    return a, b


def _passengers(parts: Sequence[WeightedAdapter], rule: MergeRule) -> dict[str, torch.Tensor]:
    """Return the tensors beside the factors.

    Raises RefusedError where they differ and have no weighted mean.
    """
    held = [
        {
            key: tensor
            for key, tensor in part.adapter.passengers.items()
            if not _TRAINING_ONLY.fullmatch(key)
        }
        for part in parts
    ]
    found: dict[str, torch.Tensor] = {}
    for key in dict.fromkeys(key for own in held for key in own):
        tensors = [own[key] for own in held if key in own]
        if all(item_of(key, tensor) == item_of(key, tensors[0]) for tensor in tensors):
            found[key] = tensors[0]
            continue
        found[key] = _mean(key, tensors, parts, rule)
    return found


def _mean(
    key: str, tensors: Sequence[torch.Tensor], parts: Sequence[WeightedAdapter], rule: MergeRule
) -> torch.Tensor:
    total = sum(part.weight for part in parts)
    alike = len({tensor.shape for tensor in tensors}) == 1 and all(
        tensor.is_floating_point() for tensor in tensors
    )
    reasons = {
        f"{rule.method} has no meaning for tensors that replace those of the base model": rule.method
        != "linear",
        f"the weights sum to {total:g}, not to 1": abs(total - 1) > 1e-9,
        "not every one has it": len(tensors) != len(parts),
        "their shapes or element types have no mean": not alike,
    }
    for reason, holds in reasons.items():
        if holds:
            raise RefusedError(
                f"tensor {key!r} is beside the factors and differs between the adapters: {reason}.",
                hint="Merge linearly, with weights that sum to 1.",
            )
    values = sum(part.weight * tensor.double() for part, tensor in zip(parts, tensors, strict=True))
    return torch.as_tensor(values, device="cpu").to(_widest([tensor.dtype for tensor in tensors]))


def _widest(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    found = dtypes[0]
    for dtype in dtypes[1:]:
        found = torch.promote_types(found, dtype)
    return found


def _layout(
    parts: Sequence[WeightedAdapter], rank: int, passengers: Mapping[str, torch.Tensor]
) -> Layout:
    """Return the layout of all modules at one rank.

    Tensors in the first part's order, then those that others add.
    """
    specs: dict[str, TensorSpec] = {}
    factors: dict[str, tuple[FactorSpec, str, str]] = {}
    for part in parts:
        layout = part.adapter.layout
        used = {position: factor for factor in layout.factors for position in (factor.a, factor.b)}
        for position, spec in enumerate(layout.tensors):
            if position in used:
                side = 0 if position == used[position].a else 1
                specs[spec.key] = _wider(
                    specs.get(spec.key),
                    _at_rank(spec, side, rank * used[position].experts),
                    part.ref,
                )
            elif spec.key in passengers:
                specs[spec.key] = TensorSpec(
                    key=spec.key,
                    dtype=item_of(spec.key, passengers[spec.key]).dtype,
                    shape=list(passengers[spec.key].shape),
                )
        for factor in layout.factors:
            entry = (factor, layout.tensors[factor.a].key, layout.tensors[factor.b].key)
            _check_factor(factors.setdefault(factor.module, entry), entry, part.ref)
    position_of = {key: number for number, key in enumerate(specs)}
    placed = [
        factor.model_copy(update={"a": position_of[a], "b": position_of[b]})
        for factor, a, b in (factors[module] for module in sorted(factors))
    ]
    return Layout(
        metadata=parts[0].adapter.layout.metadata, tensors=list(specs.values()), factors=placed
    )


def _at_rank(spec: TensorSpec, side: int, rows: int) -> TensorSpec:
    return TensorSpec(
        key=spec.key, dtype=spec.dtype, shape=[*spec.shape[:side], rows, *spec.shape[side + 1 :]]
    )


def _wider(known: TensorSpec | None, spec: TensorSpec, ref: str) -> TensorSpec:
    if known is None:
        return spec
    if known.shape != spec.shape:
        raise RefusedError(
            f"{ref}: tensor {spec.key!r} is {spec.shape} but for its rank, others have {known.shape}.",
            hint="Merge adapters of one base model.",
        )
    names = {dtype: name for name, dtype in TORCH.items()}
    wide: DType = names[torch.promote_types(TORCH[known.dtype], TORCH[spec.dtype])]
    return TensorSpec(key=spec.key, dtype=wide, shape=spec.shape)


def _check_factor(
    known: tuple[FactorSpec, str, str], found: tuple[FactorSpec, str, str], ref: str
) -> None:
    kinds: list[tuple[Form, int, str, str]] = [
        (factor.form, factor.experts, a, b) for factor, a, b in (known, found)
    ]
    if kinds[0] != kinds[1]:
        raise RefusedError(
            f"{ref}: module {found[0].module!r} lies in other tensors than in the adapters before it.",
            hint="Merge adapters saved by one release of PEFT.",
        )


def _assembled(
    parts: Sequence[WeightedAdapter], layout: Layout, tensors: dict[str, torch.Tensor], rank: int
) -> Adapter:
    config = _config(parts, layout, rank)
    text = json.dumps(config, indent=2, sort_keys=True).encode()
    # what is committed must be readable: refuse a config larger than any reader accepts
    parse_config(text, what=f"{CONFIG_FILE} of the merged adapter")
    attachments = _attachments(parts)
    items = [item_of(spec.key, tensors[spec.key]) for spec in layout.tensors]
    left = sorted({name for part in parts for name in part.adapter.attachments} - set(attachments))
    return replace(
        parts[0].adapter,
        tensors=tensors,
        config=config,
        config_bytes=text,
        layout=layout,
        attachments=attachments,
        source=Source(kind="adapter", location=""),
        source_digest=source_digest(
            text, [(entry.name, entry.value) for entry in layout.metadata], items, attachments
        ),
        raw_bytes=len(tensor_file(layout, tensors)),
        original={},
        remarks=tuple(
            f"{name} is not kept: it differs between the adapters that were merged."
            for name in left
        ),
        ref=None,
        error=None,
        basis=None,
    )


def _attachments(parts: Sequence[WeightedAdapter]) -> dict[str, bytes]:
    """Return the files that all parts which have them have alike."""
    held = [part.adapter.attachments for part in parts]
    found = {name: content for own in held for name, content in own.items()}
    return {
        name: content
        for name, content in sorted(found.items())
        if all(own.get(name, content) == content for own in held)
    }


def _config(parts: Sequence[WeightedAdapter], layout: Layout, rank: int) -> dict[str, object]:
    """Return the first part's config at one rank and scale 1, with what the others add to what is targeted."""
    configs = [part.adapter.config for part in parts]
    config = dict(configs[0]) | {
        field: value for field, value in _CLEARED if any(field in own for own in configs)
    }
    listed = [own.get("target_modules") for own in configs]
    narrowed = any(
        own.get("exclude_modules") or own.get("layers_to_transform") is not None for own in configs
    )
    every = sorted({str(name) for names in listed if isinstance(names, list) for name in names})
    exact = all(isinstance(names, list) for names in listed) and not narrowed
    config["target_modules"] = targets_of(
        config | {"target_modules": every if exact else None}, layout
    )
    saved = sorted({str(name) for own in configs for name in _names(own.get("modules_to_save"))})
    if saved:
        config["modules_to_save"] = saved
    config["bias"] = next(
        (own["bias"] for own in configs if own.get("bias", "none") != "none"), "none"
    )
    return config | {"r": rank, "lora_alpha": rank}


def _names(value: object) -> list[object]:
    return value if isinstance(value, list) else []
