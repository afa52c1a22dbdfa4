"""Sort the tensors of an adapter file into lanes.

Some are factor pairs, some ride along verbatim, some make the adapter unusable. Nothing is skipped:
a key is half of a pair, a passenger of a known kind, a tensor outside every LoRA layer, or a reason
to refuse.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.config import PREFIX, Settings
from share_registry.exchange.selection import Role, ambiguous, roles_of
from share_registry.format.layout import FLOATS, Entry, FactorSpec, Form, Layout, TensorSpec
from share_registry.names import Side, first_and_more

# Stands in every key of a LoRA layer's own tensors.
FACTOR_MARK: Final = ".lora_"
_FACTOR: Final = re.compile(
    r"(?P<module>.+)\.lora_(?:(?P<side>[AB])\.weight|embedding_(?P<table>[AB]))"
)
_NAMED: Final = re.compile(r".+\.lora_(?:[AB]\.[^.]+\.weight|embedding_[AB]\.[^.]+)")
_INSIDE: Final = re.compile(
    r"lora_magnitude_vector(\.weight)?|lora_B\.bias|base_layer\.(.+[._])?(weight|bias)"
    r"|(base_layer\.)?token_adapter\.trainable_tokens_delta"
    r"|lora_monteclora_sampler\..+|lora_velora_embed"
)
_FOREIGN: Final = re.compile(
    r"(^|[._])(lora_(down|up|unet|te\d?|E)|hada_[wt]\d?|lokr_[wt]\d?|ia3_l|oft_(r|R|blocks)"
    r"|boft_[RS]|vera_lambda|dora_scale|ranknum)([._]|$)|\.lora\.(down|up)\."
)
_MAGNITUDE: Final = "lora_magnitude_vector"
_SHARDS: Final = (
    "Gather the shards before saving (DeepSpeed GatheredParameters, FSDP summon_full_params),"
    " then commit again."
)
_DORA: Final = (
    'Set "use_dora": true in adapter_config.json if PEFT trained it; torchtune lays the magnitudes'
    " of q_proj and k_proj in another order, so take its merged weights instead."
)
_SAVE_AGAIN: Final = "Save the adapter with PeftModel.save_pretrained and commit that directory."


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
        InvalidInputError: half a pair, DoRA without magnitudes, a factor of the wrong shape or
            type, a pair that is there twice, or none at all.
        RefusedError: tensors of another method.
    """
    halves = _find_halves(tensors)
    for tensor in tensors:
        _check_key(tensor.key, halves)
        if 0 in tensor.shape:
            raise InvalidInputError(
                f"{tensor.key!r} has shape {tensor.shape}, expected no empty dimension: an"
                " ungathered shard.",
                hint=_SHARDS,
            )
    roles = roles_of(
        settings, {name: tensors[min(sides.items())[1]] for name, sides in halves.items()}
    )
    _check_magnitudes(tensors, roles, settings)
    unclear = ambiguous(settings, roles)
    pairs = (
        _pair(name, halves[name], tensors, roles[name], is_unclear=name in unclear)
        for name in sorted(halves.keys() - keep)
    )
    factors = [pair for pair in pairs if pair is not None]
    layout = Layout(
        metadata=[Entry(name=name, value=value) for name, value in metadata],
        tensors=list(tensors),
        factors=factors,
    )
    layout.check()
    return layout, _remarks(
        layout, settings, roles, unclear, grouped=len(halves) - len(factors) - len(keep)
    )


def _find_halves(tensors: Sequence[TensorSpec]) -> dict[str, dict[Side, int]]:
    halves: dict[str, dict[Side, int]] = {}
    for position, spec in enumerate(tensors):
        if (match := _FACTOR.fullmatch(spec.key)) is None:
            continue
        module = match["module"].removeprefix(PREFIX)
        side = Side((match["side"] or match["table"]).lower())
        first = halves.setdefault(module, {}).setdefault(side, position)
        if first != position:
            raise InvalidInputError(
                f"{spec.key!r} and {tensors[first].key!r} are the same factor of {module!r},"
                " expected one.",
                hint=_SAVE_AGAIN,
            )
    if not halves:
        for tensor in tensors:
            _check_key(tensor.key, {})
        raise InvalidInputError(
            f"none of the {len(tensors)} tensors is a LoRA factor,"
            f" expected keys like '{PREFIX}<module>.lora_A.weight'.",
            hint=_SAVE_AGAIN,
        )
    return halves


def _check_key(key: str, halves: Mapping[str, object]) -> None:
    """Check a key: only known kinds inside a LoRA layer, nothing of another method outside."""
    if _FACTOR.fullmatch(key):
        return
    ensure(
        not _NAMED.fullmatch(key),
        InvalidInputError(
            f"{key!r} holds an adapter name, expected '.lora_A.weight':"
            " this is a raw dump of a training state.",
            hint=_SAVE_AGAIN,
        ),
    )
    path = key.removeprefix(PREFIX)
    ends = [match.start() for match in re.finditer(r"\.", path)]
    # the innermost LoRA layer that it lies in
    owner = next((path[:end] for end in reversed(ends) if path[:end] in halves), None)
    if owner is not None and _INSIDE.fullmatch(path[len(owner) + 1 :]):
        return
    if owner is not None or _FOREIGN.search(path) or FACTOR_MARK in path:
        place = "outside every LoRA layer" if owner is None else f"inside the LoRA layer {owner!r}"
        raise RefusedError(
            f"{key!r} stands {place}, expected lora_A and lora_B pairs and their known companions:"
            " a tensor of an unknown method.",
            hint="Convert the adapter to plain PEFT LoRA first.",
        )


def _check_magnitudes(
    tensors: Sequence[TensorSpec], roles: Mapping[str, Role], settings: Settings
) -> None:
    """Check that magnitudes are there where the config says so: else it is another function."""
    paths = {tensor.key.removeprefix(PREFIX).removesuffix(".weight") for tensor in tensors}
    selected = [module for module, role in roles.items() if role.is_selected]
    bare = [module for module in selected if f"{module}.{_MAGNITUDE}" not in paths]
    if settings.dora and bare:
        raise InvalidInputError(
            f"use_dora is set and {len(bare)} of {len(selected)} modules, such as {bare[0]!r},"
            f" have no {_MAGNITUDE}, expected one for each.",
            hint=_SAVE_AGAIN,
        )
    strange = [module for module in selected if module not in bare]
    if strange and not settings.dora:
        raise InvalidInputError(
            f"{len(strange)} of {len(selected)} modules, such as {strange[0]!r}, have a"
            f" {_MAGNITUDE}, but the config does not say use_dora: PEFT would leave it out and"
            " compute another function.",
            hint=_DORA,
        )


def _pair(
    module: str,
    halves: Mapping[Side, int],
    tensors: Sequence[TensorSpec],
    role: Role,
    *,
    is_unclear: bool,
) -> FactorSpec | None:
    """Return the pair of one module, None for a grouped convolution, whose pair is no product."""
    if len(halves) != 2:
        half = tensors[next(iter(halves.values()))]
        raise InvalidInputError(
            f"{half.key!r} {half.shape} has no counterpart,"
            f" expected both lora_A and lora_B of {module!r}.",
            hint=_SAVE_AGAIN,
        )
    a, b = tensors[halves[Side.A]], tensors[halves[Side.B]]
    if _is_table(a) != _is_table(b):
        raise InvalidInputError(
            f"{a.key!r} and {b.key!r} are factors of different kinds, expected a pair.",
            hint=_SAVE_AGAIN,
        )
    _check_shapes(a, b)
    if a.shape[0] < b.shape[1]:
        raise InvalidInputError(
            f"{a.key!r} {a.shape} and {b.key!r} {b.shape} do not multiply, expected equal ranks,"
            f" found {a.shape[0]} and {b.shape[1]}: an ungathered shard.",
            hint=_SHARDS,
        )
    experts = _experts(a, role, is_unclear=is_unclear)
    if a.shape[0] == b.shape[1]:
        return FactorSpec(
            module=module,
            form=_form(a, experts),
            a=halves[Side.A],
            b=halves[Side.B],
            experts=experts,
        )
    ensure(
        len(a.shape) > 2 and a.shape[0] % b.shape[1] == 0,
        InvalidInputError(
            f"{a.key!r} {a.shape} and {b.key!r} {b.shape} do not multiply,"
            f" expected equal ranks, found {a.shape[0]} and {b.shape[1]}.",
            hint=_SAVE_AGAIN,
        ),
    )
    return None


def _is_table(spec: TensorSpec) -> bool:
    return spec.key.endswith((".lora_embedding_A", ".lora_embedding_B"))


def _form(a: TensorSpec, experts: int) -> Form:
    if _is_table(a):
        return Form.EMBEDDING
    if experts > 1:
        return Form.EXPERTS
    return Form.CONV if len(a.shape) > 2 else Form.LINEAR


def _check_shapes(a: TensorSpec, b: TensorSpec) -> None:
    for spec in (a, b):
        if len(spec.shape) < 2:
            raise InvalidInputError(
                f"{spec.key!r} has shape {spec.shape}, expected at least two dimensions: an"
                " ungathered shard.",
                hint=_SHARDS,
            )
        if spec.dtype not in FLOATS:
            raise InvalidInputError(
                f"{spec.key!r} has element type {spec.dtype},"
                f" expected one of {', '.join(sorted(FLOATS))}.",
                hint=_SAVE_AGAIN,
            )
    if len(a.shape) != len(b.shape) or any(size != 1 for size in b.shape[2:]):
        raise InvalidInputError(
            f"{a.key!r} {a.shape} and {b.key!r} {b.shape} do not multiply,"
            " expected (r, in, ...) and (out, r, 1 ...).",
            hint=_SAVE_AGAIN,
        )


def _experts(a: TensorSpec, role: Role, *, is_unclear: bool) -> int:
    """Return how many experts a pair holds, 1 for an ordinary one; check the config's rank."""
    rank, rows = role.rank, a.shape[0]
    if rows == rank:
        return 1
    if role.is_parameter and rows % rank == 0 and len(a.shape) == 2:
        return rows // rank
    overlap = " (several rank patterns match: PEFT's saved order is not the trained one)"
    raise InvalidInputError(
        f"{a.key!r} has {rows} rows (shape {a.shape}), expected the rank {rank} of the config"
        f"{overlap if is_unclear else ''}.",
        hint="Correct r or rank_pattern in the config.",
    )


def _remarks(
    layout: Layout,
    settings: Settings,
    roles: Mapping[str, Role],
    unclear: Sequence[str],
    *,
    grouped: int,
) -> list[str]:
    remarks = []
    idle = sorted(module for module, role in roles.items() if not role.is_selected)
    if idle:
        remarks.append(
            f"the config does not select {first_and_more(idle, 3)}: PEFT leaves these factors out,"
            " and so do portable exports, merges and swaps."
        )
    if settings.targets.unread:
        remarks.append(
            f"the expression in {' and '.join(settings.targets.unread)} takes unbounded"
            " work to match: the config is assumed to select every module that has factors."
        )
    if unclear:
        remarks.append(
            f"several patterns match {first_and_more(unclear, 3)}: the first in file order counts,"
            " as in PEFT, which sorts them on saving; the trained scale may have been another."
        )
    if grouped:
        remarks.append(f"{grouped} grouped convolutions are kept verbatim.")
    return remarks


def tied_modules(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs (embedding, output head) of modules that weight tying may have made copies.

    Module paths are as in the keys.
    """
    matches = [match for key in keys if (match := _FACTOR.fullmatch(key))]
    tables = sorted({match["module"] for match in matches if match["table"]})
    heads = {match["module"] for match in matches if match["side"]}
    return [(table, head) for table in tables for head in sorted(heads) if head.endswith("lm_head")]
