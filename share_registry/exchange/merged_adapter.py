"""Merge adapters into one.

The result has the merged dW at one rank and scale 1, and of the rest what all of them agree in. A
merge of one adapter with weight 1 is that adapter, whatever it is made of. Several are only merged
where dW is linear in what the factors say; else the merge is refused by name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final

import torch

from share_registry.algebra.merge_methods import MergeRule, merge_rows
from share_registry.errors import RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import CONFIG_FILE, names_in, parse_config
from share_registry.exchange.export_files import tensor_file
from share_registry.exchange.grown_vocabulary import align, pad_vocabularies
from share_registry.exchange.key_layouts import rename_modules, renamed_modules
from share_registry.exchange.normal_form import normal_form
from share_registry.exchange.peft_directory import source_digest
from share_registry.exchange.portable import name_targets
from share_registry.exchange.selection import layout_roles
from share_registry.exchange.targets.subject import TRAINING_ONLY
from share_registry.exchange.tensors import DTYPES, TORCH, item_of, pad_rows, tensors_of
from share_registry.format.layout import FactorSpec, Form, Layout, TensorSpec
from share_registry.format.notes import Source

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


def merge_adapters(parts: Sequence[WeightedAdapter], rule: MergeRule) -> Adapter:
    """Merge adapters by a rule; one part with weight 1 is returned as it is.

    Every module has one rank, the largest that a merged module needs, and scale 1. A module that
    only some parts have counts as zero in the others. Element types are the widest of the parts'.
    The config is the first part's with that rank; tensors beside the factors are kept where the
    parts that have them agree; other floats are summed where that means something: linear weights
    that sum to 1, over tensors that every part has.

    Raises:
        RefusedError: parts are of different shapes, or have what no merge of factors can express.
    """
    if len(parts) == 1 and parts[0].weight == 1:
        return parts[0].adapter
    parts = [replace(part, adapter=normal_form(part.adapter)[0]) for part in parts]
    modules_in_any = {factor.module for part in parts for factor in part.adapter.layout.factors}
    names = [
        renamed_modules({factor.module for factor in part.adapter.layout.factors}, modules_in_any)
        for part in parts
    ]
    # each by the names that its own config selects and scales
    modules = [
        {pair.module: pair for pair in pairs}
        for pairs in align([(part.adapter.layout, part.adapter.factor_pairs()) for part in parts])
    ]
    parts, assumed = _in_one_layout(parts, names)
    parts, grown = _in_one_vocabulary(parts)
    _check(parts)
    weights = [part.weight for part in parts]
    rows = {
        name: merge_rows([pairs.get(name) for pairs in modules], weights, module=name, rule=rule)
        for name in sorted(set().union(*modules))
    }
    rank = max([1, *(a.shape[0] for a, _ in rows.values())])
    passengers = _passengers(parts, rule)
    layout = _layout(parts, rank, passengers)
    padded = [pad_rows(rows[shape.module], rank) for shape in layout.modules()]
    merged = passengers | tensors_of(layout, padded)
    tensors = {spec.key: merged[spec.key] for spec in layout.tensors}
    adapter = _assemble(parts, layout, tensors, rank)
    return replace(
        adapter, remarks=(*assumed, *grown, *_alone(parts, passengers), *adapter.remarks)
    )


def _in_one_layout(
    parts: Sequence[WeightedAdapter], names: Sequence[Mapping[str, str]]
) -> tuple[list[WeightedAdapter], list[str]]:
    """Return the parts with the modules of one model under one name, and what that assumes."""
    named, remarks = [], []
    for part, own in zip(parts, names, strict=True):
        named.append(replace(part, adapter=rename_modules(part.adapter, own)) if own else part)
        remarks += [
            f"{part.ref}: {len(own)} modules, such as {old}, are taken for those of the later"
            f" key layout, {new}, as PEFT does when it loads them."
            for old, new in [*own.items()][:1]
        ]
    return named, remarks


def _in_one_vocabulary(
    parts: Sequence[WeightedAdapter],
) -> tuple[list[WeightedAdapter], list[str]]:
    """Return the parts with the largest vocabulary among them, and what that assumes."""
    padded = pad_vocabularies([part.adapter for part in parts])
    remarks = [
        f"{part.ref} has a smaller vocabulary than others: tokens with the same number are taken"
        " for the same, and those that it does not know for unchanged."
        for part, adapter in zip(parts, padded, strict=True)
        if adapter is not part.adapter
    ]
    return [
        replace(part, adapter=adapter) for part, adapter in zip(parts, padded, strict=True)
    ], remarks


def _alone(parts: Sequence[WeightedAdapter], passengers: Mapping[str, torch.Tensor]) -> list[str]:
    """Say which tensors beside the factors come from some parts alone."""
    holders = {
        key: [part.ref for part in parts if key in part.adapter.tensors] for key in passengers
    }
    alone = {key: refs for key, refs in holders.items() if len(refs) < len(parts)}
    return [
        f"{len(alone)} tensors beside the factors, such as {key}, are taken from"
        f" {', '.join(refs)} alone, whole: the others leave the base model's own."
        for key, refs in [*alone.items()][:1]
    ]


def _check(parts: Sequence[WeightedAdapter]) -> None:
    """Check that the factors of every part say all of its dW, and in the same way.

    What base model they name is not looked at: a space may know one by several labels.

    Raises RefusedError.
    """
    first = parts[0]
    for part in parts:
        obstacles = [field for field in _NONLINEAR if part.adapter.config.get(field)]
        obstacles += [key for key in _acting_passengers(part) if "lora_" in key]
        ensure(
            not obstacles and part.adapter.layout.factors,
            RefusedError(
                f"{part.ref} cannot be merged: it has"
                f" {', '.join(obstacles[:3]) or 'no factor pairs'},"
                " and dW is not linear in factors alone.",
                hint=_HINT,
            ),
        )
        for field in _SAME_FIELDS:
            values = [
                adapter.config.get(field) or None for adapter in (first.adapter, part.adapter)
            ]
            ensure(
                values[0] == values[1],
                RefusedError(
                    f"{first.ref} and {part.ref} differ in {field},"
                    " expected one value for what is merged.",
                    hint=_HINT,
                ),
            )
    ensure(
        len({part.adapter.config.get("bias", "none") for part in parts} - {"none"}) <= 1,
        RefusedError(
            "the adapters differ in bias, expected one value for what is merged.", hint=_HINT
        ),
    )


def _acting_passengers(part: WeightedAdapter) -> dict[str, torch.Tensor]:
    return {
        key: tensor
        for key, tensor in part.adapter.passengers.items()
        if not TRAINING_ONLY.fullmatch(key)
    }


def _passengers(parts: Sequence[WeightedAdapter], rule: MergeRule) -> dict[str, torch.Tensor]:
    """Merge the tensors beside the factors.

    Raises RefusedError where they differ and have no weighted mean.
    """
    of_parts = [_acting_passengers(part) for part in parts]
    passengers: dict[str, torch.Tensor] = {}
    for key in dict.fromkeys(key for tensors in of_parts for key in tensors):
        tensors = [own[key] for own in of_parts if key in own]
        longest = max(tensors, key=lambda tensor: tensor.shape[:1])
        items = [item_of(key, tensor) for tensor in tensors]
        begins = [
            item_of(key, longest[: len(tensor)] if tensor.ndim else longest) for tensor in tensors
        ]
        # the rows of a smaller vocabulary are the first ones of a larger
        passengers[key] = longest if items == begins else _mean(key, tensors, parts, rule)
    return passengers


def _mean(
    key: str, tensors: Sequence[torch.Tensor], parts: Sequence[WeightedAdapter], rule: MergeRule
) -> torch.Tensor:
    total = sum(part.weight for part in parts)
    alike = len({tensor.shape for tensor in tensors}) == 1 and all(
        tensor.is_floating_point() for tensor in tensors
    )
    reasons = {
        f"{rule.method} has no meaning for tensors that replace those of the base model": (
            rule.method != "linear"
        ),
        f"the weights sum to {total:g}, not to 1": abs(total - 1) > 1e-9,
        "not every one has it": len(tensors) != len(parts),
        "their shapes or element types have no mean": not alike,
    }
    for reason, holds in reasons.items():
        ensure(
            not holds,
            RefusedError(
                f"tensor {key!r} is beside the factors and differs between the adapters: {reason}.",
                hint="Merge linearly, with weights that sum to 1.",
            ),
        )
    values = sum(part.weight * tensor.double() for part, tensor in zip(parts, tensors, strict=True))
    widest = reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    return torch.as_tensor(values, device="cpu").to(widest)


def _layout(
    parts: Sequence[WeightedAdapter], rank: int, passengers: Mapping[str, torch.Tensor]
) -> Layout:
    """Return the layout of all modules at one rank.

    Tensors stand in the first part's order, then those that others add.
    """
    specs: dict[str, TensorSpec] = {}
    pairs: dict[str, tuple[Form, int, str, str]] = {}
    for part in parts:
        layout = part.adapter.layout
        experts = {at: factor.experts for factor in layout.factors for at in (factor.a, factor.b)}
        sides_b = {factor.b for factor in layout.factors}
        for at, spec in enumerate(layout.tensors):
            if at in experts:
                shape = list(spec.shape)
                shape[1 if at in sides_b else 0] = rank * experts[at]
                resized = TensorSpec(key=spec.key, dtype=spec.dtype, shape=shape)
                specs[spec.key] = _widen(specs.get(spec.key, resized), resized, part.ref)
            elif spec.key in passengers:
                item = item_of(spec.key, passengers[spec.key])
                specs[spec.key] = TensorSpec(key=spec.key, dtype=item.dtype, shape=list(item.shape))
        for factor in layout.factors:
            a, b = layout.tensors[factor.a], layout.tensors[factor.b]
            pair = (factor.form, factor.experts, a.key, b.key)
            if pairs.setdefault(factor.module, pair) != pair:
                raise RefusedError(
                    f"{part.ref}: module {factor.module!r} lies in other tensors"
                    " than in the adapters before it.",
                    hint="Merge adapters saved by one release of PEFT.",
                )
    positions = {key: position for position, key in enumerate(specs)}
    return Layout(
        metadata=parts[0].adapter.layout.metadata,
        tensors=list(specs.values()),
        factors=[
            FactorSpec(module=module, form=form, a=positions[a], b=positions[b], experts=experts_in)
            for module, (form, experts_in, a, b) in sorted(pairs.items())
        ],
    )


def _widen(first: TensorSpec, spec: TensorSpec, ref: str) -> TensorSpec:
    ensure(
        first.shape == spec.shape,
        RefusedError(
            f"{ref}: tensor {spec.key!r} is {spec.shape} but for its rank,"
            f" others have {first.shape}.",
            hint="Merge adapters of one base model.",
        ),
    )
    wide = DTYPES[torch.promote_types(TORCH[first.dtype], TORCH[spec.dtype])]
    return TensorSpec(key=spec.key, dtype=wide, shape=spec.shape)


def _assemble(
    parts: Sequence[WeightedAdapter], layout: Layout, tensors: dict[str, torch.Tensor], rank: int
) -> Adapter:
    config = _config(parts, rank)
    text = json.dumps(config, indent=2, sort_keys=True).encode()
    idle = [role.path for role in layout_roles(config, layout) if role.scale != 1]
    ensure(
        not idle,
        RefusedError(
            f"no config selects {', '.join(idle[:3])} of the merged adapter at scale 1.",
            hint=_HINT,
        ),
    )
    # what is committed must be readable: refuse a config larger than any reader accepts
    parse_config(text, name=f"{CONFIG_FILE} of the merged adapter")
    attachments = _common_attachments(parts)
    items = [item_of(spec.key, tensors[spec.key]) for spec in layout.tensors]
    metadata = [(entry.name, entry.value) for entry in layout.metadata]
    differ = {name for part in parts for name in part.adapter.attachments} - set(attachments)
    return replace(
        parts[0].adapter,
        tensors=tensors,
        config=config,
        config_bytes=text,
        layout=layout,
        attachments=attachments,
        source=Source(kind="adapter", location=""),
        source_digest=source_digest(text, metadata, items, attachments),
        raw_bytes=len(tensor_file(layout, tensors)),
        original={},
        remarks=tuple(
            f"{name} is not kept: it differs between the adapters that were merged."
            for name in sorted(differ)
        ),
        ref=None,
        error=None,
        basis=None,
    )


def _common_attachments(parts: Sequence[WeightedAdapter]) -> dict[str, bytes]:
    of_parts = [part.adapter.attachments for part in parts]
    merged = {name: content for own in of_parts for name, content in own.items()}
    return {
        name: content
        for name, content in sorted(merged.items())
        if all(own.get(name, content) == content for own in of_parts)
    }


def _config(parts: Sequence[WeightedAdapter], rank: int) -> dict[str, object]:
    """Return the first part's config at one rank and scale 1, with what the others target."""
    configs = [part.adapter.config for part in parts]
    config = dict(configs[0]) | {
        field: value for field, value in _CLEARED if any(field in own for own in configs)
    }
    is_narrowed = any(
        own.get("exclude_modules") or own.get("layers_to_transform") is not None for own in configs
    )
    is_listed = all(isinstance(own.get("target_modules"), list) for own in configs)
    targets = _names_in_any(configs, "target_modules") if is_listed and not is_narrowed else None
    paths = {
        role.path
        for own in parts
        for role in layout_roles(own.adapter.config, own.adapter.layout)
        if not role.is_parameter
    }
    config["target_modules"] = name_targets(sorted(paths), targets)
    saved = _names_in_any(configs, "modules_to_save")
    if saved:
        config["modules_to_save"] = saved
    biases = [own.get("bias", "none") for own in configs]
    config["bias"] = next((bias for bias in biases if bias != "none"), "none")
    return config | {"r": rank, "lora_alpha": rank}


def _names_in_any(configs: Sequence[Mapping[str, object]], field: str) -> list[str]:
    return sorted({name for config in configs for name in names_in(config, field)})
