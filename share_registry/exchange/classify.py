"""The lanes of an adapter file.

Which tensors are factor pairs, which ride along verbatim, and which make the adapter unusable.

Nothing is skipped: a key is half of a pair, a passenger of a known kind, a tensor outside every
LoRA layer, or a reason to refuse.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.exchange.config import Settings
from share_registry.exchange.scales import PREFIX, ambiguous, parameters_of, plain_path, rank_of
from share_registry.format.layout import DType, Entry, FactorSpec, Form, Layout, TensorSpec
from share_registry.names import Side

FACTOR_MARK: Final = ".lora_"
"""Stands in every key of a LoRA layer's own tensors."""
_FACTOR: Final = re.compile(
    r"(?P<module>.+)\.lora_(?:(?P<side>[AB])\.weight|embedding_(?P<table>[AB]))"
)
_NAMED: Final = re.compile(r".+\.lora_(?:[AB]\.[^.]+\.weight|embedding_[AB]\.[^.]+)")
_INSIDE: Final = re.compile(
    r"lora_magnitude_vector(\.weight)?|lora_B\.bias|base_layer\.(.+[._])?(weight|bias)|(base_layer\.)?token_adapter\.trainable_tokens_delta"
    r"|lora_monteclora_sampler\..+|lora_velora_embed"
)
_FOREIGN: Final = re.compile(
    r"(^|[._])(lora_(down|up|unet|te\d?|E)|hada_[wt]\d?|lokr_[wt]\d?|ia3_l|oft_(r|R|blocks)|boft_[RS]|vera_lambda|dora_scale|ranknum)([._]|$)|\.lora\.(down|up)\."
)
_FLOATS: Final = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})
_MAGNITUDE: Final = "lora_magnitude_vector"
_HEAD: Final = "lm_head"
_SHARDS: Final = "Gather the shards before saving (DeepSpeed GatheredParameters, FSDP summon_full_params), then commit again."
_SAVE_AGAIN: Final = "Save the adapter with PeftModel.save_pretrained and commit that directory."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Half:
    position: int
    spec: TensorSpec
    table: bool


def layout_of(
    metadata: Sequence[tuple[str, str]],
    tensors: Sequence[TensorSpec],
    settings: Settings,
    *,
    keep: frozenset[str] = frozenset(),
) -> tuple[Layout, list[str]]:
    """Sort the tensors of a file into lanes.

    Args:
        metadata: The file's metadata entries.
        tensors: Its tensors in file order.
        settings: What the config says.
        keep: Modules whose pairs are kept verbatim.

    Returns:
        The layout, and remarks.

    Raises:
        InvalidInputError: half a pair, DoRA without magnitudes, a factor of the wrong shape or type, a
            pair that is there twice, or none at all.
        RefusedError: tensors of another method.
    """
    halves = _halves(tensors)
    for tensor in tensors:
        _check_other(tensor.key, halves)
    _check_magnitudes(tensors, halves, settings)
    factors = [
        factor
        for module in sorted(halves)
        if module not in keep and (factor := _factor(module, halves[module], settings)) is not None
    ]
    layout = Layout(
        metadata=[Entry(name=name, value=value) for name, value in metadata],
        tensors=list(tensors),
        factors=factors,
    )
    layout.check()
    return layout, _remarks(layout, settings, len(halves) - len(factors) - len(keep))


def _halves(tensors: Sequence[TensorSpec]) -> dict[str, dict[Side, _Half]]:
    halves: dict[str, dict[Side, _Half]] = {}
    for position, spec in enumerate(tensors):
        if (match := _FACTOR.fullmatch(spec.key)) is None:
            continue
        module = match["module"].removeprefix(PREFIX)
        side = Side.A if (match["side"] or match["table"]) == "A" else Side.B
        half = _Half(position=position, spec=spec, table=match["table"] is not None)
        if (other := halves.setdefault(module, {}).setdefault(side, half)) is not half:
            raise InvalidInputError(
                f"{spec.key!r} and {other.spec.key!r} are the same factor of {module!r}, expected one.",
                hint=_SAVE_AGAIN,
            )
    if not halves:
        _check_foreign(tensors)
        raise InvalidInputError(
            f"none of the {len(tensors)} tensors is a LoRA factor, expected keys like '{PREFIX}<module>.lora_A.weight'.",
            hint=_SAVE_AGAIN,
        )
    return halves


def _check_foreign(tensors: Sequence[TensorSpec]) -> None:
    for tensor in tensors:
        _check_other(tensor.key, {})


def _check_other(key: str, halves: Mapping[str, object]) -> None:
    """Check a key that may not be a factor.

    Inside a LoRA layer only known kinds, outside nothing that belongs to a method.
    """
    if _FACTOR.fullmatch(key):
        return
    if _NAMED.fullmatch(key):
        raise InvalidInputError(
            f"{key!r} holds an adapter name, expected '.lora_A.weight': this is a raw dump of a training state.",
            hint=_SAVE_AGAIN,
        )
    path = key.removeprefix(PREFIX)
    owner = _owner(path, halves)
    if owner is not None and _INSIDE.fullmatch(path[len(owner) + 1 :]):
        return
    if owner is not None or _FOREIGN.search(path) or FACTOR_MARK in path:
        place = (
            f"inside the LoRA layer {owner!r}" if owner is not None else "outside every LoRA layer"
        )
        raise RefusedError(
            f"{key!r} stands {place}, expected lora_A and lora_B pairs and their known companions: a tensor of an unknown method.",
            hint="Convert the adapter to plain PEFT LoRA first.",
        )


def _check_magnitudes(
    tensors: Sequence[TensorSpec], halves: Mapping[str, object], settings: Settings
) -> None:
    """Check that every layer of DoRA has its magnitudes.

    Without them it would be read as another function.
    """
    there = (
        {tensor.key.removeprefix(PREFIX).removesuffix(".weight") for tensor in tensors}
        if settings.dora
        else set()
    )
    bare = [module for module in halves if settings.dora and f"{module}.{_MAGNITUDE}" not in there]
    if bare:
        raise InvalidInputError(
            f"use_dora is set and {len(bare)} of {len(halves)} modules, such as {bare[0]!r}, have no {_MAGNITUDE}, expected one for each.",
            hint=_SAVE_AGAIN,
        )


def _owner(path: str, halves: Mapping[str, object]) -> str | None:
    """Return the innermost LoRA layer a path lies in."""
    end = path.rfind(".")
    while end > 0:
        if path[:end] in halves:
            return path[:end]
        end = path.rfind(".", 0, end)
    return None


def _factor(module: str, halves: Mapping[Side, _Half], settings: Settings) -> FactorSpec | None:
    """Return the pair of one module, None for a grouped convolution, whose pair is no product."""
    if len(halves) != 2:
        half = next(iter(halves.values()))
        raise InvalidInputError(
            f"{half.spec.key!r} {half.spec.shape} has no counterpart, expected both lora_A and lora_B of {module!r}.",
            hint=_SAVE_AGAIN,
        )
    a, b = halves[Side.A], halves[Side.B]
    if a.table != b.table:
        raise InvalidInputError(
            f"{a.spec.key!r} and {b.spec.key!r} are factors of different kinds, expected a pair.",
            hint=_SAVE_AGAIN,
        )
    _check_halves(a.spec, b.spec)
    experts = _experts(module, a.spec, settings)
    if a.spec.shape[0] != b.spec.shape[1]:
        _check_grouped(a.spec, b.spec)
        return None
    return FactorSpec(
        module=module, form=_form(a, experts), a=a.position, b=b.position, experts=experts
    )


def _form(a: _Half, experts: int) -> Form:
    if a.table:
        return Form.EMBEDDING
    if experts > 1:
        return Form.EXPERTS
    return Form.CONV if len(a.spec.shape) > 2 else Form.LINEAR


def _check_halves(a: TensorSpec, b: TensorSpec) -> None:
    for spec in (a, b):
        if len(spec.shape) < 2 or 0 in spec.shape:
            raise InvalidInputError(
                f"{spec.key!r} has shape {spec.shape}, expected at least two dimensions and no empty one: an ungathered shard.",
                hint=_SHARDS,
            )
        if spec.dtype not in _FLOATS:
            raise InvalidInputError(
                f"{spec.key!r} has element type {spec.dtype}, expected one of {', '.join(sorted(_FLOATS))}.",
                hint=_SAVE_AGAIN,
            )
    if len(a.shape) != len(b.shape) or any(size != 1 for size in b.shape[2:]):
        raise InvalidInputError(
            f"{a.key!r} {a.shape} and {b.key!r} {b.shape} do not multiply, expected (r, in, ...) and (out, r, 1 ...).",
            hint=_SAVE_AGAIN,
        )


def _experts(module: str, a: TensorSpec, settings: Settings) -> int:
    """Return how many experts a pair holds, 1 for an ordinary one.

    Checks the rank that the config gives.
    """
    rank, rows = rank_of(settings, module), a.shape[0]
    if rows == rank:
        return 1
    if parameters_of(settings, module) and rows % rank == 0 and len(a.shape) == 2:
        return rows // rank
    overlap = (
        " (several rank patterns match: PEFT's saved order is not the trained one)"
        if ambiguous(settings, [module])
        else ""
    )
    raise InvalidInputError(
        f"{a.key!r} has {rows} rows (shape {a.shape}), expected the rank {rank} of the config{overlap}.",
        hint="Correct r or rank_pattern in the config.",
    )


def _check_grouped(a: TensorSpec, b: TensorSpec) -> None:
    if len(a.shape) == 2 or a.shape[0] % b.shape[1]:
        raise InvalidInputError(
            f"{a.key!r} {a.shape} and {b.key!r} {b.shape} do not multiply, expected equal ranks, found {a.shape[0]} and {b.shape[1]}.",
            hint=_SAVE_AGAIN,
        )


def _remarks(layout: Layout, settings: Settings, grouped: int) -> list[str]:
    remarks = []
    unclear = ambiguous(settings, [factor.module for factor in layout.factors])
    if unclear:
        remarks.append(
            f"several patterns match {_some(unclear)}: the first in file order counts, as in PEFT, which sorts them on saving; the trained scale may have been another."
        )
    if grouped:
        remarks.append(f"{grouped} grouped convolutions are kept verbatim.")
    bare = [tensor.key for tensor in layout.tensors if not tensor.key.startswith(PREFIX)]
    if bare:
        remarks.append(
            f"{_some(bare)}: without the prefix '{PREFIX}' PeftModel.from_pretrained does not load it (a model's own load_adapter may)."
        )
    return remarks


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def tied_modules(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs (embedding, output head) of module paths as in the keys, which weight tying may have made copies of one another."""
    matches = [match for key in keys if (match := _FACTOR.fullmatch(key))]
    tables = sorted({match["module"] for match in matches if match["table"]})
    heads = sorted(
        {
            match["module"]
            for match in matches
            if match["side"] and plain_path(match["module"]).endswith(_HEAD)
        }
    )
    return [(table, head) for table in tables for head in heads]
