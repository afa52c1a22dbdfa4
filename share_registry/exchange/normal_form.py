"""The function of an adapter in the form in which PEFT reads it today.

Files are kept as they are. What computes with an adapter elsewhere (portable exports, merges,
models, comparisons) takes this form, which differs from the files in four cases:

- Keys of wrapped models, and without PEFT's prefix, become those that PEFT looks for.
- Factors that the config does not select are no part of the function.
- PEFT up to 0.18 takes an experts' parameter (E, m, n) for in = m and out = n, since 0.19 for
  in = n and out = m, but where the module says `is_transposed`. Only `peft_version` tells files of
  the two apart, and PEFT does not read it: A and B of older files change places.
- Unsloth groups the columns of lora_B by expert, PEFT has the expert fastest.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from share_registry.algebra.error import FactorPair
from share_registry.errors import RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import CONFIG_FILE, PREFIX, is_on_transformers
from share_registry.exchange.plain_keys import path_in_model, plain_config, plain_key
from share_registry.exchange.selection import EXPERTS, Role, layout_roles
from share_registry.format.layout import FactorSpec, Form, Layout

# The first release that has the orientation of today.
SWAPPED_SINCE: Final = "0.19.0"
_OLD_VERSION: Final = re.compile(r"0\.(\d|1[0-8])(\.|$)")
_MARK: Final = "lora_B_layout"
# Unsloth's mark of the order that PEFT has; it takes its own adapters without a mark for grouped.
_LAID_AS_PEFT: Final = {_MARK: "rank_major"}
_DETAIL: Final = "unsloth_fused_expert_lora"
_GROUPED: Final = "grouped_by_expert"
_UNKNOWN: Final = (
    f"Unsloth trained it on fused experts and does not say {_MARK}: before 2026.9.6 it grouped the"
    " columns of lora_B by expert, which PEFT reads as another function"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How one factor pair is to be read.

    Attributes:
        role: What PEFT makes of it.
        is_swapped: Whether A is what today's PEFT calls B.
        is_grouped: Whether the columns of B are grouped by expert; None where that is not known.
    """

    role: Role
    is_swapped: bool = False
    is_grouped: bool | None = False

    @property
    def is_plain(self) -> bool:
        """Whether the files say what PEFT reads."""
        return self.role.is_selected and not self.is_swapped and self.is_grouped is False


def readings_of(config: Mapping[str, object], layout: Layout) -> list[Reading]:
    """Return how every factor pair of a layout is to be read, in its order.

    Raises InvalidInputError, RefusedError.
    """
    roles = layout_roles(config, layout)
    if not _has_experts(layout):
        return [Reading(role=role) for role in roles]
    factors = list(zip(layout.factors, roles, strict=True))
    is_old = bool(_OLD_VERSION.match(str(config.get("peft_version") or "")))
    unswapped = _stored_by_input(layout, factors)
    return [
        Reading(
            role=role,
            is_swapped=is_old and role.path not in unswapped,
            is_grouped=_is_grouped(config, role),
        )
        if factor.form is Form.EXPERTS
        else Reading(role=role)
        for factor, role in factors
    ]


def _has_experts(layout: Layout) -> bool:
    return any(factor.form is Form.EXPERTS for factor in layout.factors)


def reading_remarks(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return what is assumed of the experts of an adapter."""
    if not _has_experts(layout):
        return []
    readings = readings_of(config, layout)
    version = config.get("peft_version")
    old = _OLD_VERSION.match(str(version or ""))
    swapped = any(reading.is_swapped for reading in readings)
    remarks = {
        f"PEFT {version} wrote the experts' factors transposed to PEFT since {SWAPPED_SINCE}, which"
        " computes another function with these files; portable exports and merges are as trained"
        " (assumed: a module without is_transposed).": swapped,
        f"peft_version is {version}, but by their shapes the experts' factors lie as in PEFT since"
        f" {SWAPPED_SINCE} (a module with is_transposed, or converted by a later release): assumed"
        " to be so.": (old and not swapped),
        f"{CONFIG_FILE} has no peft_version: its experts' factors are assumed to lie as in PEFT"
        f" since {SWAPPED_SINCE}.": not version,
        "the columns of the experts' lora_B are grouped by expert (Unsloth), which PEFT reads as"
        " another function; portable exports and merges are reordered.": (
            any(reading.is_grouped for reading in readings)
        ),
        f"{_UNKNOWN}.": any(reading.is_grouped is None for reading in readings),
    }
    return [remark for remark, applies in remarks.items() if applies]


def normal_form(adapter: Adapter) -> tuple[Adapter, tuple[str, ...]]:
    """Return an adapter as PEFT reads it today, and notes on what that changed.

    Raises RefusedError where the files do not say what the function is.
    """
    adapter, notes = _with_plain_keys(adapter)
    readings = readings_of(adapter.config, adapter.layout)
    if all(reading.is_plain for reading in readings):
        return adapter, notes
    if any(reading.is_grouped is None for reading in readings):
        raise RefusedError(
            f"{_UNKNOWN}.",
            hint=f'Add "{_MARK}": "{_GROUPED}" (or "rank_major" where it was trained with a later'
            f" release) to {CONFIG_FILE} and commit it again.",
        )
    factors = list(zip(adapter.layout.factors, readings, strict=True))
    idle = [factor.module for factor, reading in factors if not reading.role.is_selected]
    layout, tensors = adapter.layout, dict(adapter.tensors)
    for factor, reading in factors:
        if reading.role.is_selected and not reading.is_plain:
            layout, tensors = _rewrite(layout, tensors, factor, reading)
    layout = _without(layout, idle)
    config = {name: value for name, value in adapter.config.items() if name != _DETAIL}
    if any(reading.is_grouped for reading in readings):
        config |= _LAID_AS_PEFT
    if any(reading.is_swapped for reading in readings):
        config["peft_version"] = SWAPPED_SINCE
    form = replace(
        adapter,
        tensors={spec.key: tensors[spec.key] for spec in layout.tensors},
        layout=layout,
        config=config,
    )
    return form, (*notes, *_notes(readings, idle))


def marks_of(config: Mapping[str, object]) -> dict[str, object]:
    """Return the fields that say how the experts' factors of a normal form lie."""
    mapping = config.get("auto_mapping")
    is_unsloth = _MARK in config or (isinstance(mapping, dict) and mapping.get("unsloth_fixed"))
    version = config.get("peft_version") or SWAPPED_SINCE
    return {"peft_version": version} | (_LAID_AS_PEFT if is_unsloth else {})


def function_pairs(
    config: Mapping[str, object], layout: Layout, pairs: Sequence[FactorPair]
) -> list[FactorPair]:
    """Return pairs in the order of `layout.modules()` as those of the function.

    Raises InvalidInputError, RefusedError.
    """
    if not _has_experts(layout):
        return list(pairs)
    readings = readings_of(config, layout)
    result: list[FactorPair] = []
    for factor, reading in zip(layout.factors, readings, strict=True):
        own = list(pairs[len(result) : len(result) + factor.experts])
        if reading.is_grouped:
            own = _regroup(own)
        if reading.is_swapped:
            own = [replace(pair, a=pair.b, b=pair.a) for pair in own]
        result += own
    return result


def pairs_of_function(adapter: Adapter) -> list[FactorPair]:
    """Return the pairs of `adapter.factor_pairs()` as PEFT reads them today.

    So pairs of any two adapters compare, whatever wrote them. Raises InvalidInputError,
    RefusedError.
    """
    return function_pairs(adapter.config, adapter.layout, adapter.factor_pairs())


def is_certain(config: Mapping[str, object], layout: Layout) -> bool:
    """Tell whether every pair of modules is one factorization, so that it can be rounded as one."""
    return not _has_experts(layout) or all(
        reading.is_grouped is False for reading in readings_of(config, layout)
    )


def _with_plain_keys(adapter: Adapter) -> tuple[Adapter, tuple[str, ...]]:
    """Return an adapter under the keys by which PEFT finds it, and notes on what that changed.

    Raises RefusedError where two tensors would have one key.
    """
    strip_front = bool(is_on_transformers(adapter.config))
    plain = {
        spec.key: plain_key(spec.key, strip_front=strip_front) for spec in adapter.layout.tensors
    }
    changed = [key for key in plain if plain[key] != key]
    if not changed:
        return adapter, ()
    ensure(
        len({*plain.values()}) == len(plain),
        RefusedError(
            f"of the keys of wrapped models, such as {changed[0]!r}, two are of one tensor.",
            hint="Save the adapter with PeftModel.save_pretrained and commit that directory.",
        ),
    )
    layout = Layout(
        metadata=adapter.layout.metadata,
        tensors=[
            spec.model_copy(update={"key": plain[spec.key]}) for spec in adapter.layout.tensors
        ],
        factors=sorted(
            (
                factor.model_copy(
                    update={
                        "module": path_in_model(
                            factor.module,
                            key=adapter.layout.tensors[factor.a].key,
                            strip_front=strip_front,
                        )
                    }
                )
                for factor in adapter.layout.factors
            ),
            key=lambda factor: factor.module,
        ),
    )
    form: dict[str, Any] = {plain[key]: tensor for key, tensor in adapter.tensors.items()}
    note = f"{len(changed)} keys are as PEFT gives them, without wrappers and with one prefix."
    config = plain_config(adapter.config)
    return replace(adapter, tensors=form, layout=layout, config=config), (note,)


def _is_grouped(config: Mapping[str, object], role: Role) -> bool | None:
    """Read Unsloth's marks: by parameter, then for all, in the config or in auto_mapping."""
    mapping = config.get("auto_mapping")
    sources: list[Mapping[str, Any]] = [config, mapping if isinstance(mapping, dict) else {}]
    for source in sources:
        detail = source.get(_DETAIL)
        parameters = detail.get("parameters") if isinstance(detail, dict) else None
        if isinstance(parameters, dict) and isinstance(parameters.get(role.parameter), dict):
            return bool(parameters[role.parameter].get(_MARK) == _GROUPED)
        if isinstance(source.get(_MARK), str):
            return bool(source[_MARK] == _GROUPED)
    return None if sources[1].get("unsloth_fixed") else False


def _stored_by_input(layout: Layout, factors: Sequence[tuple[FactorSpec, Role]]) -> set[str]:
    """Return the modules whose experts' parameters are (E, in, out), as an older PEFT saw them.

    gate_up_proj leads from the width that down_proj leads back to, to twice that it comes from.
    """
    shapes: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for factor, role in factors:
        a, b = layout.tensors[factor.a], layout.tensors[factor.b]
        shapes[role.path][role.parameter] = (a.shape[1], b.shape[0])
    return {
        path
        for path, own in shapes.items()
        if {*EXPERTS} <= own.keys()
        and own[EXPERTS[0]] == (own[EXPERTS[1]][1], 2 * own[EXPERTS[1]][0])
    }


def _rewrite(
    layout: Layout, tensors: dict[str, Any], factor: FactorSpec, reading: Reading
) -> tuple[Layout, dict[str, Any]]:
    """Return a layout and tensors with one pair as PEFT reads it."""
    key_a, key_b = layout.tensors[factor.a].key, layout.tensors[factor.b].key
    a, b = tensors[key_a], tensors[key_b]
    rank = a.shape[0] // factor.experts
    if reading.is_grouped:
        b = b.reshape(-1, factor.experts, rank).transpose(1, 2).reshape(b.shape).contiguous()
    if reading.is_swapped:
        a, b = (
            b.reshape(-1, rank, factor.experts).permute(2, 1, 0).reshape(a.shape[0], -1),
            a.reshape(factor.experts, rank, -1).permute(2, 1, 0).reshape(-1, a.shape[0]),
        )
    specs = list(layout.tensors)
    for place, tensor in ((factor.a, a), (factor.b, b)):
        specs[place] = specs[place].model_copy(update={"shape": list(tensor.shape)})
    dtypes = (layout.tensors[factor.a].dtype, layout.tensors[factor.b].dtype)
    if reading.is_swapped and dtypes[0] != dtypes[1]:
        specs[factor.a], specs[factor.b] = (
            specs[place].model_copy(update={"dtype": dtype})
            for place, dtype in ((factor.a, dtypes[1]), (factor.b, dtypes[0]))
        )
    changed = {key_a: a.contiguous(), key_b: b.contiguous()}
    return layout.model_copy(update={"tensors": specs}), tensors | changed


def _without(layout: Layout, idle: Collection[str]) -> Layout:
    """Return a layout without some modules' pairs and what belongs to them."""
    if not idle:
        return layout
    marks = tuple(f"{module}.{part}" for module in idle for part in ("lora_", "base_layer."))
    idle = frozenset(idle)
    active = [factor for factor in layout.factors if factor.module not in idle]
    used = {place for factor in active for place in (factor.a, factor.b)}
    kept = [
        place
        for place, spec in enumerate(layout.tensors)
        if place in used or not spec.key.removeprefix(PREFIX).startswith(marks)
    ]
    places = {old: new for new, old in enumerate(kept)}
    return Layout(
        metadata=layout.metadata,
        tensors=[layout.tensors[place] for place in kept],
        factors=[
            factor.model_copy(update={"a": places[factor.a], "b": places[factor.b]})
            for factor in active
        ],
    )


def _regroup(pairs: Sequence[FactorPair]) -> list[FactorPair]:
    """Give each expert its columns of B, which were dealt out as if the expert were fastest."""
    import torch

    dealt = torch.stack([pair.b for pair in pairs])
    grouped = dealt.transpose(0, 1).reshape(dealt.shape)
    return [replace(pair, b=b) for pair, b in zip(pairs, grouped, strict=True)]


def _notes(readings: Sequence[Reading], idle: Sequence[str]) -> tuple[str, ...]:
    notes = {
        f"{len(idle)} factor pairs that the config does not select, such as"
        f" {next(iter(idle), '')}, are left out.": bool(idle),
        f"the experts' factors are turned to how PEFT reads them since {SWAPPED_SINCE}.": any(
            reading.is_swapped for reading in readings
        ),
        "the columns of the experts' lora_B are put into PEFT's order.": any(
            reading.is_grouped for reading in readings
        ),
    }
    return tuple(note for note, applies in notes.items() if applies)
