"""One base model with vocabularies of several sizes.

Tokens are added at the end of a vocabulary, and padding with them. That changes how many columns
the A of an embedding has and how many rows the B of the head, and nothing else: the tokens that two
sizes have in common mean the same. A token that an adapter does not know has an update of zero.

An embedding is known by the form of its pair. A head is a linear layer as any other in the file, so
it is known by the name that the classes of transformers give it.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from torch.nn.functional import pad

from share_registry.algebra.error import FactorPair
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import PREFIX
from share_registry.exchange.key_layouts import renamed_modules
from share_registry.exchange.normal_form import SWAPPED_SINCE
from share_registry.exchange.plain_keys import path_in_model
from share_registry.format.layout import FactorSpec, Form, Layout, UnlikeShape
from share_registry.names import Side, first_and_more

_HEAD: Final = re.compile(
    r"(.+\.)?(lm_head|embed_out|output_layer|output_projection|vocab_projector"
    r"|(lm_head|predictions)\.decoder)|proj_out"
)


def is_same_module(unlike: UnlikeShape) -> bool:
    """Tell whether a module of another shape is taken for the same module of the base model."""
    is_table = unlike.form is not Form.LINEAR or _HEAD.fullmatch(unlike.module) is not None
    return unlike.may_be_same and is_table


def shape_remarks(unlike: Sequence[UnlikeShape]) -> tuple[str, ...]:
    """Return what is assumed of modules that are taken for the same in another shape."""
    turned = [each.module for each in unlike if each.form is Form.EXPERTS]
    modules = defaultdict(list)
    for each in unlike:
        if each.form is not Form.EXPERTS:
            place = 1 if each.form is Form.EMBEDDING else 0
            modules[(each.shape[place], each.first[place])].append(each.module)
    remarks = [
        f"{first_and_more(names, 3)}: a vocabulary of {now}, where the space first had {before};"
        " taken for the same base model."
        for (now, before), names in modules.items()
    ]
    if turned:
        remarks.append(
            f"{first_and_more(turned, 3)}: transposed to what the space first had; taken for the"
            f" same experts, laid by PEFT on the other side of {SWAPPED_SINCE}."
        )
    return tuple(remarks)


def align(adapters: Sequence[tuple[Layout, Sequence[FactorPair]]]) -> list[list[FactorPair]]:
    """Return the pairs of adapters with every module under one name and in one shape.

    Args:
        adapters: For each its layout, and its pairs in the order of `layout.modules()`.
    """
    plain = [
        [path_in_model(pair.module, key=PREFIX, strip_front=False) for pair in own]
        for _, own in adapters
    ]
    everywhere = {name for names in plain for name in names}
    named = []
    for (_, own), names in zip(adapters, plain, strict=True):
        later = renamed_modules({*names}, everywhere)
        named.append(
            [
                replace(pair, module=later.get(name, name))
                for pair, name in zip(own, names, strict=True)
            ]
        )
    sides = [
        [_grown_side(factor) for factor in layout.factors for _ in range(factor.experts)]
        for layout, _ in adapters
    ]
    sizes: dict[str, int] = defaultdict(int)
    for pairs, grown in zip(named, sides, strict=True):
        for pair, side in zip(pairs, grown, strict=True):
            if side is not None:
                sizes[pair.module] = max(sizes[pair.module], _width(pair, side))
    return [
        [_pad_pair(pair, side, sizes[pair.module]) for pair, side in zip(pairs, grown, strict=True)]
        for pairs, grown in zip(named, sides, strict=True)
    ]


def pad_vocabularies(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Return adapters whose embeddings and heads are of the largest vocabulary among them."""
    sizes: dict[str, int] = defaultdict(int)
    for adapter in adapters:
        for factor in adapter.layout.factors:
            if (side := _grown_side(factor)) is not None:
                index, axis = _place(factor, side)
                rows = adapter.layout.tensors[index].shape[axis]
                sizes[factor.module] = max(sizes[factor.module], rows)
    return [_pad_adapter(adapter, sizes) for adapter in adapters]


def _grown_side(factor: FactorSpec) -> Side | None:
    """Return the side of a pair that has a row for each token, None where there is none."""
    if factor.form is Form.EMBEDDING:
        return Side.A
    is_head = factor.form is Form.LINEAR and _HEAD.fullmatch(factor.module) is not None
    return Side.B if is_head else None


def _place(factor: FactorSpec, side: Side) -> tuple[int, int]:
    """Return the position of the tensor of a side, and its axis of tokens."""
    return (factor.a, 1) if side is Side.A else (factor.b, 0)


def _width(pair: FactorPair, side: Side) -> int:
    return (pair.a if side is Side.A else pair.b).shape[1]


def _pad_pair(pair: FactorPair, side: Side | None, size: int) -> FactorPair:
    if side is None or _width(pair, side) == size:
        return pair
    more = (0, size - _width(pair, side))
    if side is Side.A:
        return replace(pair, a=pad(pair.a, more))
    return replace(pair, b=pad(pair.b, more))


def _pad_adapter(adapter: Adapter, sizes: dict[str, int]) -> Adapter:
    specs, tensors = list(adapter.layout.tensors), dict(adapter.tensors)
    for factor in adapter.layout.factors:
        if (side := _grown_side(factor)) is None:
            continue
        index, axis = _place(factor, side)
        spec = specs[index]
        more = sizes[factor.module] - spec.shape[axis]
        if more:
            tensor = pad(tensors[spec.key], (0, more) if axis == 1 else (0, 0, 0, more))
            tensors[spec.key] = tensor
            specs[index] = spec.model_copy(update={"shape": list(tensor.shape)})
    if specs == adapter.layout.tensors:
        return adapter
    return replace(
        adapter, tensors=tensors, layout=adapter.layout.model_copy(update={"tensors": specs})
    )
