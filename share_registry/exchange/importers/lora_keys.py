"""Keys of single files of LoRA, whatever they are called: the module, and which part of it.

diffusers, the trainers around it and LyCORIS have many names for the same two factors. A key is a
module's path, with points or with underscores between its parts, and an ending from this table.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import torch

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.importers.contents import check_growth
from share_registry.names import first_and_more


class KeyRole(StrEnum):
    """What a tensor is in its module."""

    A = "lora_A"
    B = "lora_B"
    # the core of a convolution in Tucker form
    CORE = "lora_mid"
    ALPHA = "alpha"
    MAGNITUDE = "magnitude"
    BIAS = "bias of lora_B"


# Ends of keys; the longest that fits counts.
_ENDINGS: Final[Mapping[str, KeyRole]] = {
    ".lora_A.weight": KeyRole.A,
    ".lora_A.default.weight": KeyRole.A,
    ".lora_down.weight": KeyRole.A,
    ".lora.down.weight": KeyRole.A,
    "_lora.down.weight": KeyRole.A,
    ".lora_linear_layer.down.weight": KeyRole.A,
    ".lora_B.weight": KeyRole.B,
    ".lora_B.default.weight": KeyRole.B,
    ".lora_up.weight": KeyRole.B,
    ".lora.up.weight": KeyRole.B,
    "_lora.up.weight": KeyRole.B,
    ".lora_linear_layer.up.weight": KeyRole.B,
    ".lora_mid.weight": KeyRole.CORE,
    ".alpha": KeyRole.ALPHA,
    ".dora_scale": KeyRole.MAGNITUDE,
    ".lora_magnitude_vector": KeyRole.MAGNITUDE,
    ".lora_magnitude_vector.weight": KeyRole.MAGNITUDE,
    ".lora_magnitude_vector.default.weight": KeyRole.MAGNITUDE,
    ".lora_B.bias": KeyRole.BIAS,
    ".lora_up.bias": KeyRole.BIAS,
    ".lora.up.bias": KeyRole.BIAS,
}
_BY_LENGTH: Final = sorted(_ENDINGS, key=len, reverse=True)
_AS_LORA: Final = (
    "Extract a LoRA of it from the merged weights (a truncated SVD of their difference from the"
    " base model's), or train it with network_module lora or algo lora."
)
# Ends of keys of methods that are no product of two factors -> what the method is called.
_OTHER_METHODS: Final[Mapping[str, str]] = {
    ".hada_w1_a": "LoHa",
    ".hada_w1_b": "LoHa",
    ".hada_w2_a": "LoHa",
    ".hada_w2_b": "LoHa",
    ".hada_t1": "LoHa",
    ".hada_t2": "LoHa",
    ".lokr_w1": "LoKr",
    ".lokr_w2": "LoKr",
    ".lokr_w1_a": "LoKr",
    ".lokr_w1_b": "LoKr",
    ".lokr_w2_a": "LoKr",
    ".lokr_w2_b": "LoKr",
    ".lokr_t2": "LoKr",
    ".a1.weight": "GLoRA",
    ".a2.weight": "GLoRA",
    ".b1.weight": "GLoRA",
    ".b2.weight": "GLoRA",
    ".bm.weight": "GLoRA",
    ".on_input": "IA3",
    ".diff": "full weights (full)",
    ".diff_b": "full biases (full)",
    ".w_norm": "weights of norms (norm)",
    ".b_norm": "biases of norms (norm)",
    ".oft_blocks": "OFT or BOFT",
    ".oft_diag": "OFT",
    ".rescale": "OFT or BOFT",
    ".p_layer.weight": "T-LoRA",
    ".q_layer.weight": "T-LoRA",
    ".lambda_layer": "T-LoRA",
}


# The parts of one module: what each is -> its key
ModuleKeys = dict[KeyRole, str]


def split_key(key: str) -> tuple[str, KeyRole] | None:
    """Return the module of a key, and what it is of it; None for another kind of key."""
    ending = next((ending for ending in _BY_LENGTH if key.endswith(ending)), None)
    if ending is None or len(key) == len(ending):
        return None
    return key.removesuffix(ending), _ENDINGS[ending]


def other_method(keys: Iterable[str]) -> tuple[str, str] | None:
    """Return a key of a method that is no LoRA, and what that is called; None where none is."""
    return next(
        (
            (key, method)
            for key in sorted(keys)
            for ending, method in _OTHER_METHODS.items()
            if key.endswith(ending)
        ),
        None,
    )


def refuse_other_methods(keys: Sequence[str], place: str) -> None:
    """Refuse what is no product of two factors, or holds something of the kind. RefusedError."""
    if (first := other_method(keys)) is not None:
        key, method = first
        raise RefusedError(
            f"{place}: {key!r} is of {method}, expected LoRA or LoCon: pairs of lora_down and"
            " lora_up.",
            hint=_AS_LORA,
        )


def is_single_file(keys: Iterable[str]) -> bool:
    """Tell whether keys are those of a single file of LoRA, or of a method beside it."""
    keys = list(keys)
    parts = {split[1] for key in keys if (split := split_key(key)) is not None}
    return {KeyRole.A, KeyRole.B} <= parts or other_method(keys) is not None


def modules_of(
    keys: Iterable[str],
    *,
    name_of: Mapping[str, str] | None = None,
    split: Callable[[str], tuple[str, KeyRole] | None] = split_key,
) -> tuple[dict[str, ModuleKeys], list[str]]:
    """Return the parts of every module, and the keys that are none of them.

    Args:
        keys: The keys of a file.
        name_of: What the module of a key is called in the base model, where that differs.
        split: As `split_key`, which is for single files.

    Raises InvalidInputError where two keys are the same part of a module, or half a pair is there.
    """
    modules: dict[str, ModuleKeys] = defaultdict(dict)
    strange = []
    for key in sorted(keys):
        parts = split(key)
        if parts is None:
            strange.append(key)
            continue
        written, role = parts
        first = modules[(name_of or {}).get(written, written)].setdefault(role, key)
        ensure(
            first == key,
            InvalidInputError(
                f"{first!r} and {key!r} are the same part of one module, expected one.",
                hint="Save the file again, or remove one of them.",
            ),
        )
    _check_complete(modules)
    return dict(modules), strange


def number_of(tensor: torch.Tensor, key: str) -> float:
    """Return the one value of a tensor. Raises InvalidInputError."""
    ensure(
        tensor.numel() == 1,
        InvalidInputError(
            f"{key!r} has shape {list(tensor.shape)}, expected one number.",
            hint="Save the file again.",
        ),
    )
    return float(tensor.reshape(()).item())


def fold_core(a: torch.Tensor, core: torch.Tensor, key: str) -> torch.Tensor:
    """Return the A of a convolution in Tucker form: its core times its A, which is 1 x 1.

    Computed in float64 and kept in float32, as a product of halves is none any more.

    Args:
        a: (r, in, 1, 1).
        core: (r, r, h, w): of the outer rank, then of the inner one.
        key: Of the core, for messages.

    Raises InvalidInputError where they do not multiply, or to more than files of the size hold.
    """
    ensure(
        core.dim() == a.dim() > 2 and core.shape[1] == a.shape[0] and math.prod(a.shape[2:]) == 1,
        InvalidInputError(
            f"{key!r} has shape {list(core.shape)}, expected (r, r, ...) over {list(a.shape)}.",
            hint="Save the file again.",
        ),
    )
    elements = core.shape[0] * a.shape[1] * math.prod(core.shape[2:])
    check_growth(f"{key!r} over its A", elements, core.numel() + a.numel())
    flat = a.reshape(a.shape[:2]).double()
    product: Any = torch.einsum("mn...,ni->mi...", core.double(), flat)
    return product.float()  # type: ignore[no-any-return]


def _check_complete(modules: Mapping[str, ModuleKeys]) -> None:
    halves = [
        module
        for module, keys in modules.items()
        if not {KeyRole.A, KeyRole.B} <= keys.keys() and keys.keys() != {KeyRole.ALPHA}
    ]
    if halves:
        keys = sorted(modules[halves[0]].values())
        raise InvalidInputError(
            f"{first_and_more(halves, 3)}: expected two factors, found {', '.join(keys)}.",
            hint="Save the file again: half a pair is of no use.",
        )
