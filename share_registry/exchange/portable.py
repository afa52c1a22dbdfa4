"""The portable form: an adapter that means the same in PEFT and in the common servers.

It has one rank R for all modules (rows of zeros fill up), lora_alpha = R, the scale folded into B
in float64 before the one rounding, no patterns, no rsLoRA, a minimal config. Tensors outside the
factor pairs have no such form: with them the export is refused, except those that act in training
alone. R is the smallest of vLLM's slots that holds every module's rank, since a smaller one saves
nothing there. An adapter of a smaller pseudo-rank p than its own rank, of which every module has
rows that multiply to exactly nothing, is exported at rank p, without them: every server takes any
rank up to its slot (vLLM and LoRAX fill up as they load).

Experts that transformers 5 fuses into two parameters become one pair per expert and matrix, under
the names of transformers 4: what vLLM and SGLang read, and PEFT turns back as it loads them. The
two halves of gate_up_proj share its A. How a model called its experts stands in no file, so this
is done for families of base models that are known. Where SGLang needs a module that a layer lacks,
a pair of zeros is added if the shape of the module is certain.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import torch

from share_registry.algebra.error import FactorPair, pooled_error
from share_registry.errors import RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import Family, base_of, family_of, is_local
from share_registry.exchange.config import names_in
from share_registry.exchange.config_checks import is_foreign_library
from share_registry.exchange.normal_form import marks_of, normal_form, readings_of
from share_registry.exchange.selection import EXPERTS, endings_of, ends_with, layout_roles
from share_registry.exchange.targets.sglang_rules import SGLANG_FUSED
from share_registry.exchange.targets.subject import EXPERT, TRAINING_ONLY
from share_registry.exchange.targets.vllm_rules import VLLM_RANKS
from share_registry.exchange.tensors import Rows, pad_rows, pairs_of, tensors_of
from share_registry.format.layout import (
    MAX_MODULES,
    MAX_TENSORS,
    DType,
    FactorSpec,
    Form,
    Layout,
    TensorSpec,
)
from share_registry.names import first_and_more

_KEPT_FIELDS: Final = ("task_type", "auto_mapping", "fan_in_fan_out")
_UNPORTABLE: Final = (
    "alora_invocation_tokens",
    "layer_replication",
    "use_dora",
    "lora_bias",
    "trainable_token_indices",
)
_MIN_RANK: Final = 8
# Above what rounding to float32 does.
_WORTH_SAYING: Final = 1e-6
_FUSED: Final = "mlp.experts"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Naming:
    """What transformers 4 calls one expert's modules."""

    owner: str
    gate: str
    up: str
    down: str

    @property
    def claimed(self) -> set[str]:
        """Names that PEFT takes for those of experts and their router, wherever a target has it."""
        return {"gate", self.gate, self.up, self.down}


_NAMINGS: Final = {
    Family.MIXTRAL: _Naming(owner="block_sparse_moe.experts", gate="w1", up="w3", down="w2"),
    Family.QWEN3_MOE: _Naming(
        owner="mlp.experts", gate="gate_proj", up="up_proj", down="down_proj"
    ),
}
# The modules of a layer, each with in and out.
_Sizes: TypeAlias = frozenset[tuple[str, tuple[int, int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlacedPair:
    """One factor pair to write.

    Attributes:
        factor: Its module, form and number of experts.
        a: The tensor of A, at the rank of `pairs`.
        b: The tensor of B.
        order: Where its tensors stand in the file: positions of A and B, and a number among equals.
        pairs: The factors of its modules.
    """

    factor: FactorSpec
    a: TensorSpec
    b: TensorSpec
    order: tuple[int, int, int]
    pairs: tuple[FactorPair, ...]


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
    family = family_of(adapter.config, base_model)
    parts, unpacked = _unpack(adapter, _parts_of(adapter), family)
    parts, completed = _complete(parts, family)
    parts = sorted(parts, key=lambda part: part.factor.module)
    pairs = [pair for part in parts for pair in part.pairs]
    largest = max(pair.a.shape[0] for pair in pairs)
    rows = [_fold_scale(pair) for pair in pairs]
    rank = max([1, *(a.shape[0] for a, _ in rows)])
    if rank == largest:
        rank = next((slot for slot in VLLM_RANKS if slot >= max(largest, _MIN_RANK)), largest)
    layout = _layout_at_rank(adapter.layout, parts, rank)
    tensors = tensors_of(layout, [pad_rows(pair, rank) for pair in rows])
    notes = [
        *changes,
        *unpacked,
        f"the scale is folded into B and every rank is {rank}.",
        *completed,
        *_rounding(layout, tensors, pairs),
    ]
    if dropped:
        notes.append(f"{len(dropped)} tensors used in training alone are left out.")
    config = _config(adapter, layout, rank, base_model)
    form = replace(
        adapter,
        tensors={spec.key: tensors[spec.key] for spec in layout.tensors},
        layout=layout,
        config=config,
        config_bytes=json.dumps(config, indent=2).encode(),
    )
    _check_form(form)
    return form, tuple(f"portable: {note}" for note in notes)


def targets_of(config: Mapping[str, object], layout: Layout) -> list[str]:
    """Return the config's own module names where they select these modules, else every path."""
    paths = {role.path for role in layout_roles(config, layout) if not role.is_parameter}
    narrowed = config.get("exclude_modules") or config.get("layers_to_transform") is not None
    return name_targets(sorted(paths), None if narrowed else config.get("target_modules"))


def name_targets(paths: list[str], listed: object) -> list[str]:
    """Return those of the names listed that select modules, or the paths where some are left."""
    if not isinstance(listed, list):
        return paths
    used = {*map(str, listed)} & {ending for path in paths for ending in endings_of(path)}
    return sorted(used) if all(ends_with(path, used) for path in paths) else paths


def _check(adapter: Adapter) -> list[str]:
    """Return the keys that may be left out.

    Raises RefusedError where others stand in the way.
    """
    dropped = [key for key in adapter.passengers if TRAINING_ONLY.fullmatch(key)]
    others = [key for key in adapter.passengers if key not in dropped]
    fields = [field for field in _UNPORTABLE if adapter.config.get(field)]
    if others or fields or not adapter.layout.factors:
        obstacles = ", ".join(filter(None, [*fields, first_and_more(others)]))
        raise RefusedError(
            f"the adapter has no portable form: it has {obstacles or 'no factor pairs'},"
            " expected factor pairs alone.",
            hint="Export it with profile='native' and without a target: its notes say what each"
            " server makes of it.",
        )
    return dropped


def _parts_of(adapter: Adapter) -> list[_PlacedPair]:
    layout, remaining = adapter.layout, iter(adapter.factor_pairs())
    return [
        _PlacedPair(
            factor=factor,
            a=layout.tensors[factor.a],
            b=layout.tensors[factor.b],
            order=(factor.a, factor.b, 0),
            pairs=tuple(next(remaining) for _ in range(factor.experts)),
        )
        for factor in layout.factors
    ]


def _unpack(
    adapter: Adapter, parts: list[_PlacedPair], family: Family | None
) -> tuple[list[_PlacedPair], list[str]]:
    """Return parts with one pair per expert and matrix, and a note; the same where that is not so.

    All experts of the adapter or none: PEFT takes their names for those of every layer.
    """
    nests: dict[str, dict[str, _PlacedPair]] = defaultdict(dict)
    others, beside = [], set()
    for part, role in zip(parts, layout_roles(adapter.config, adapter.layout), strict=True):
        if part.factor.form is Form.EXPERTS:
            nests[role.path][role.parameter] = part
            continue
        others.append(part)
        beside |= set() if role.is_parameter else {role.path.rpartition(".")[2]}
    if not nests:
        return parts, []
    naming = _NAMINGS.get(family) if family else None
    reason = _why_fused(nests, naming, beside, len(others))
    if naming is None or reason:
        return parts, [f"the experts stay fused, which few servers read: {reason}."]
    split = [
        piece
        for path, nest in nests.items()
        for piece in _split(path.removesuffix(_FUSED), nest, naming)
    ]
    return [*others, *split], [
        f"the experts are one pair each, under the names of {family} in transformers 4."
    ]


def _why_fused(
    nests: Mapping[str, Mapping[str, _PlacedPair]],
    naming: _Naming | None,
    beside: set[str],
    others: int,
) -> str:
    """Return why experts cannot be taken apart, "" where they can."""
    if naming is None:
        return "neither class nor label tells how the base model names them"
    if any(not path.endswith(_FUSED) or nest.keys() != {*EXPERTS} for path, nest in nests.items()):
        return "a layer has only one of gate_up_proj and down_proj"
    if any(not _fit(nest[EXPERTS[0]], nest[EXPERTS[1]]) for nest in nests.values()):
        return "gate_up_proj and down_proj are not of the shapes that belong together"
    if stranger := beside & naming.claimed:
        return f"PEFT would take {', '.join(sorted(stranger))} of other modules for theirs"
    modules = others + 3 * sum(nest[EXPERTS[0]].factor.experts for nest in nests.values())
    if 2 * modules > MAX_TENSORS or modules > MAX_MODULES:
        return f"they would be {2 * modules} tensors, at most {MAX_TENSORS} are allowed"
    return ""


def _fit(gate_up: _PlacedPair, down: _PlacedPair) -> bool:
    """Tell whether gate_up_proj leads to twice the width from which down_proj leads back."""
    return gate_up.factor.experts == down.factor.experts and (
        (gate_up.a.shape[1], gate_up.b.shape[0]) == (down.b.shape[0], 2 * down.a.shape[1])
    )


def _split(prefix: str, nest: Mapping[str, _PlacedPair], naming: _Naming) -> list[_PlacedPair]:
    """Return the pairs of each expert's gate, up and down."""
    gate_up, down = (nest[name] for name in EXPERTS)
    half = down.a.shape[1]
    pieces: list[_PlacedPair] = []
    for e, (both, back) in enumerate(zip(gate_up.pairs, down.pairs, strict=True)):
        owner = f"{prefix}{naming.owner}.{e}"
        sides = (
            (naming.gate, gate_up, replace(both, b=both.b[:, :half])),
            (naming.up, gate_up, replace(both, b=both.b[:, half:])),
            (naming.down, down, back),
        )
        pieces += [
            _pair_of(f"{owner}.{name}", whole, pair, len(pieces) + number)
            for number, (name, whole, pair) in enumerate(sides)
        ]
    return pieces


def _pair_of(module: str, near: _PlacedPair, pair: FactorPair, number: int) -> _PlacedPair:
    """Return an ordinary pair that stands in the file where another one stood, or behind it."""
    prefix = near.a.key[: near.a.key.index(near.factor.module)]
    rank = pair.a.shape[0]
    shapes = {"A": [rank, pair.a.shape[1]], "B": [pair.b.shape[1], rank]}
    a, b = (
        TensorSpec(key=f"{prefix}{module}.lora_{side}.weight", dtype=spec.dtype, shape=shapes[side])
        for side, spec in (("A", near.a), ("B", near.b))
    )
    factor = near.factor.model_copy(update={"module": module, "form": Form.LINEAR, "experts": 1})
    order = (*near.order[:2], near.order[2] + number)
    return _PlacedPair(factor=factor, a=a, b=b, order=order, pairs=(replace(pair, module=module),))


def _complete(
    parts: list[_PlacedPair], family: Family | None
) -> tuple[list[_PlacedPair], list[str]]:
    """Add pairs of zeros where SGLang needs a module that a layer lacks, and a note."""
    owners: dict[str, dict[str, _PlacedPair]] = defaultdict(dict)
    for part in parts:
        if part.factor.form is Form.LINEAR:
            owner, _, name = part.factor.module.rpartition(".")
            owners[owner][name] = part
    sizes = {
        owner: frozenset((name, _widths_of(part)) for name, part in names.items())
        for owner, names in owners.items()
    }
    alike: dict[str, set[_Sizes]] = defaultdict(set)
    for owner, own in sizes.items():
        alike[_kind(owner)].add(own)
    zeros: list[_PlacedPair] = []
    for owner, names in owners.items():
        widths = {
            name: _missing(name, sizes[owner], alike[_kind(owner)], family)
            for name in _lacking(names)
        }
        near = next(iter(names.values()))
        zeros += [
            _pair_of(f"{owner}.{name}", near, _zeros(*size, device=near.pairs[0].a.device), number)
            for number, (name, size) in enumerate(widths.items(), start=1)
            if size and all(widths.values())
        ]
    if not zeros:
        return parts, []
    return [*parts, *zeros], [
        f"pairs of zeros are added for SGLang ({len(zeros)}, such as {zeros[0].factor.module})."
    ]


def _lacking(names: Collection[str]) -> list[str]:
    lacking: list[str] = []
    for fused, needed in SGLANG_FUSED:
        if fused & {*names, *lacking} and needed not in names:
            lacking.append(needed)
    return lacking


def _kind(owner: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".N", owner)


def _missing(
    name: str,
    own: _Sizes,
    alike: Iterable[_Sizes],
    family: Family | None,
) -> tuple[int, int] | None:
    """Return in and out of a module that a layer lacks, None where they are not certain.

    They are those of the same module in a layer whose other modules are of the same widths, or
    follow from this layer's in base models of a known family.
    """
    near = dict(own)
    models = {dict(layer).get(name) for layer in alike if own <= layer} - {None}
    if len(models) == 1:
        return models.pop()
    if family is None:
        return None
    twin = {"gate_proj": "up_proj", "v_proj": "k_proj"}.get(name, "")
    if twin or "o_proj" not in near:
        return near.get(twin)
    return near["o_proj"][1], near["o_proj"][0]


def _widths_of(part: _PlacedPair) -> tuple[int, int]:
    return part.a.shape[1], part.b.shape[0]


def _zeros(width: int, out: int, *, device: torch.device) -> FactorPair:
    a, b = (torch.zeros(1, size, dtype=torch.float64, device=device) for size in (width, out))
    return FactorPair(module="", a=a, b=b, scale=1.0)


def _fold_scale(pair: FactorPair) -> Rows:
    """Return rows with the scale in B, without those whose product is exactly zero."""
    used = (pair.a != 0).any(1) & (pair.b != 0).any(1)
    return pair.a[used], pair.b[used] * pair.scale


def _layout_at_rank(layout: Layout, parts: Sequence[_PlacedPair], rank: int) -> Layout:
    """Return the layout of parts, whose order becomes that of the layout's factors."""
    places: list[tuple[tuple[int, int], TensorSpec]] = []
    for part in parts:
        rows, (at_a, at_b, number) = rank * part.factor.experts, part.order
        a = part.a.model_copy(update={"shape": [rows, *part.a.shape[1:]]})
        b = part.b.model_copy(update={"shape": [part.b.shape[0], rows, *part.b.shape[2:]]})
        places += [((at_a, number), a), ((at_b, number), b)]
    specs = [spec for _, spec in sorted(places, key=lambda place: place[0])]
    position = {spec.key: place for place, spec in enumerate(specs)}
    return Layout(
        metadata=layout.metadata,
        tensors=specs,
        factors=[
            part.factor.model_copy(update={"a": position[part.a.key], "b": position[part.b.key]})
            for part in parts
        ],
    )


def _rounding(
    layout: Layout, tensors: Mapping[str, torch.Tensor], pairs: Sequence[FactorPair]
) -> list[str]:
    """Return what rounding the scaled B adds to the error, where it is more than in float32."""
    if not {spec.dtype for spec in layout.tensors} & {DType.BF16, DType.F16}:
        return []
    error = pooled_error(pairs_of(layout, tensors, [1.0] * len(pairs)), pairs)
    if error < _WORTH_SAYING:
        return []
    return [
        f"rounding the scaled B adds a relative error of {error:.2g}, a native export has none."
    ]


def _config(adapter: Adapter, layout: Layout, rank: int, base_model: str) -> dict[str, object]:
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
        "target_modules": _targets(adapter, layout),
        "task_type": None,
    }
    if base.revision and base.label == label:
        config["revision"] = base.revision
    config |= {field: adapter.config[field] for field in _KEPT_FIELDS if adapter.config.get(field)}
    if is_foreign_library(config):
        config["auto_mapping"] = None
    parameters = names_in(adapter.config, "target_parameters")
    if any(factor.form is Form.EXPERTS for factor in layout.factors):
        config |= marks_of(adapter.config)
    else:
        parameters = [name for name in parameters if name.rpartition(".")[2] not in EXPERTS]
    if parameters:
        config["target_parameters"] = parameters
    return dict(sorted(config.items()))


def _targets(adapter: Adapter, layout: Layout) -> list[str]:
    """Return the targets of the adapter, with those of modules that the form adds."""
    targets = targets_of(adapter.config, adapter.layout)
    before = {factor.module for factor in adapter.layout.factors}
    added = [factor.module for factor in layout.factors if factor.module not in before]
    experts = {path.rpartition(".")[2] for path in added if EXPERT.fullmatch(path)}
    names = {*targets, *experts}
    return sorted({*names, *(path for path in added if not ends_with(path, names))})


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
