"""The tensors of an adapter as views of the memory that a pass wrote, by PEFT key in file order.

A view is made when it is asked for.
A factor lies there as rows (r, m): A is a view of them, B a transposed view. Only experts, whose
rows a tensor interleaves, are packed into memory of their own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from share_registry.exchange.tensors import TORCH
from share_registry.format.layout import Form, Layout
from share_registry.materialize.blocks import Member
from share_registry.names import Side


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one tensor comes from: the factors of a pair's modules; none for a passenger."""

    members: tuple[Member, ...]
    experts: bool
    shape: tuple[int, ...]


def slots_of(layout: Layout) -> dict[str, Slot]:
    """Return the slot of every tensor, in file order."""
    members: dict[int, tuple[tuple[Member, ...], bool]] = {}
    for factor in layout.factors:
        for position, side in ((factor.a, Side.A), (factor.b, Side.B)):
            of_tensor = tuple((shape.module, side) for shape in layout.modules_of(factor))
            members[position] = of_tensor, factor.form is Form.EXPERTS
    slots = {}
    for position, spec in enumerate(layout.tensors):
        of_tensor, experts = members.get(position, ((), False))
        slots[spec.key] = Slot(members=of_tensor, experts=experts, shape=tuple(spec.shape))
    return slots


def dtypes_of(layout: Layout) -> dict[Member, torch.dtype]:
    """Return the element type of every factor's tensor."""
    return {
        member: TORCH[spec.dtype]
        for spec, slot in zip(layout.tensors, slots_of(layout).values(), strict=True)
        for member in slot.members
    }


class Factors(Mapping[str, Tensor]):
    """Key -> tensor.

    Args:
        slots: Of the adapter's layout.
        stacks: Factor -> the rows (G, r, m) it is in, and its position there.
        kept: Tensors kept bit for bit, by key.
    """

    def __init__(
        self,
        slots: Mapping[str, Slot],
        stacks: Mapping[Member, tuple[Tensor, int]],
        kept: Mapping[str, Tensor],
    ) -> None:
        self._slots, self._stacks, self._kept = slots, stacks, kept

    def __getitem__(self, key: str) -> Tensor:
        if key in self._kept:
            return self._kept[key]
        slot = self._slots[key]
        rows = [stack[at] for stack, at in (self._stacks[member] for member in slot.members)]
        if slot.experts:
            return _packed(rows, slot)
        tensor = rows[0] if slot.members[0][1] is Side.A else rows[0].T
        return tensor if len(slot.shape) == 2 else tensor.reshape(slot.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


def _packed(rows: list[Tensor], slot: Slot) -> Tensor:
    """Return experts' rows in one tensor: A expert-major, B rank-major (spec DEC-10)."""
    if slot.members[0][1] is Side.A:
        return torch.cat(rows).reshape(slot.shape)
    return torch.stack(rows, dim=2).permute(1, 0, 2).reshape(slot.shape)
