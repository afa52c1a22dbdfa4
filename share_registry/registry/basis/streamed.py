"""Moments of many tasks whose rows outnumber the columns: summed up while tasks are read once.

Rows of their own, N tasks of rank r bring N r of them, and what a fit does with rows grows with
their square and cube. From N r > width on, the axes are the better coordinates: a task's part is a
product of order r width^2, there is one sum of width^2 numbers a module and side whatever N is, and
the k leading directions take some products of order k width^2.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.directions import Moments, TaskCoefficients
from share_registry.names import Digest, Side
from share_registry.registry.basis.members import FitMember, combine
from share_registry.registry.basis.moments import WIDE, KeptSide
from share_registry.values.policy import UNIT

# Tasks of a module from which on it is looked whether their rows outnumber the columns
_FEWEST: Final = 32
# Tasks that are added together: as many products in one, and so many objects in memory
_TOGETHER: Final = 32
# Of sums at a time. Modules that do not fit are summed up in another round, which reads all tasks
# once more.
_MOST_BYTES: Final = 1 << 30

_Before = tuple[KeptSide, KeptSide] | None


class Streamed:
    """Moments, seen from the axes, of the modules that have more rows in use than columns.

    Args:
        fresh: The tasks to sum up, for each module.
        sides: The sums of tasks before, for each module.
        weighting: How much each task counts.
        device: Where it is computed.
    """

    def __init__(
        self,
        fresh: Mapping[str, Sequence[FitMember]],
        sides: Mapping[str, _Before],
        weighting: str,
        device: str,
    ) -> None:
        self._fresh, self._sides = fresh, sides
        self._weighting, self._device = weighting, device
        self._sums: dict[str, Moments] = {}
        outgrown: dict[tuple[int, int], bool] = {}
        self._waiting: list[str] = []
        for module, members in fresh.items():
            before = sides[module]
            if len(members) < _FEWEST or (before and any(side.blocks for side in before)):
                continue
            shape = members[0].shapes[module]
            if shape not in outgrown:
                outgrown[shape] = before is not None or _is_outgrown(members, module)
            if outgrown[shape]:
                self._waiting.append(module)

    def moments_of(self, module: str) -> Moments | None:
        """Return the moments of a module, once; None where it is not among those."""
        if module in self._waiting:
            self._sum_up()
        return self._sums.pop(module, None)

    def _sum_up(self) -> None:
        """Sum up the next modules, as many as there is memory for."""
        size_bytes = 0
        while self._waiting:
            shape = self._fresh[self._waiting[0]][0].shapes[self._waiting[0]]
            size_bytes += sum(self._dtype(shape).itemsize * width**2 for width in shape)
            if self._sums and size_bytes > _MOST_BYTES:
                break
            module = self._waiting.pop(0)
            self._sums[module] = self._before(module, shape)
        having = {module: {id(member) for member in self._fresh[module]} for module in self._sums}
        tasks = list(
            {id(member): member for module in having for member in self._fresh[module]}.values()
        )
        for start in range(0, len(tasks), _TOGETHER):
            together = tasks[start : start + _TOGETHER]
            for module, moments in self._sums.items():
                moments.add(
                    [
                        self._task(member, module)
                        for member in together
                        if id(member) in having[module]
                    ]
                )

    def _before(self, module: str, shape: tuple[int, int]) -> Moments:
        before = self._sides[module]
        kept = zip(before or (None, None), shape, strict=True)
        a, b = (
            torch.zeros((width, width), dtype=torch.float64, device="cpu")
            if side is None
            else side.on_axes(width)
            for side, width in kept
        )
        dtype = self._dtype(shape)
        return Moments(a.to(self._device, dtype), b.to(self._device, dtype))

    def _dtype(self, shape: tuple[int, int]) -> torch.dtype:
        """Return what sums are of: at unit weight every task has an energy of 1."""
        is_coarse = max(shape) >= WIDE and self._weighting == UNIT
        return torch.float32 if is_coarse else torch.float64

    def _task(self, member: FitMember, module: str) -> TaskCoefficients:
        A, B = (self._rows(member, module, side) for side in Side)
        return TaskCoefficients(A=A, B=B, weight=member.weight(module, self._weighting))

    def _rows(self, member: FitMember, module: str, side: Side) -> Tensor:
        """Return a factor (r, m), which is its coordinates on the axes."""
        factor = member.factor(module, side)
        blocks = {key: member.rows(key, module, side) for key in factor}
        return combine(factor, blocks).to(self._device)


def _is_outgrown(members: Sequence[FitMember], module: str) -> bool:
    """Tell whether both sides have more rows in use than columns; no more tasks are read for it."""
    rows: dict[Side, dict[Digest, int]] = {side: {} for side in Side}
    widths = dict(zip(Side, members[0].shapes[module], strict=True))
    for member in members:
        for side, counts in rows.items():
            for key, K in member.factor(module, side).items():
                counts[key] = K.shape[1]
        if all(sum(rows[side].values()) > widths[side] for side in Side):
            return True
    return False
