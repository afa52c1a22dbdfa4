"""The tasks that a basis is fitted to: those that a space holds, and new adapters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.error import norm
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import parse_config
from share_registry.exchange.selection import module_scales
from share_registry.exchange.tensors import rows_of
from share_registry.format.layout import Layout
from share_registry.names import Digest, Side
from share_registry.registry.basis.expansion import Expansions, Factor
from share_registry.registry.context import Context
from share_registry.registry.evidence import require_described
from share_registry.registry.stored_config import read_config
from share_registry.values.policy import UNIT
from share_registry.values.task_version import TaskVersion

# Layouts remembered: neighbours tend to share them.
_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FitMember:
    """One task in a fit.

    Attributes:
        key: What its part in a fit follows from; equal for equal parts, empty for an adapter that
            is not stored.
        scales: The LoRA scale of every module it has.
        shapes: Its (in, out).
        norm: Frobenius norm of its scaled dW.
        factor: One side of a module as coefficients over the rows of objects.
        rows: The rows (k, m) of one of these objects for a module and side.
    """

    key: str
    scales: Mapping[str, float]
    shapes: Mapping[str, tuple[int, int]]
    norm: float
    factor: Callable[[str, Side], Factor] = field(repr=False)
    rows: Callable[[Digest, str, Side], Tensor] = field(repr=False)

    def weight(self, module: str, weighting: str) -> float:
        """Return w s^2: at unit weighting every task has the same energy over all its modules."""
        w = 1.0 / self.norm**2 if weighting == UNIT and self.norm > 0 else 1.0
        return w * self.scales[module] ** 2


def stored_members(context: Context, versions: Sequence[TaskVersion]) -> list[FitMember]:
    """Return stored versions as members.

    Their rows and coefficients are read when they are asked for. Raises NotFoundError where a
    config is gone: see `described_versions`.
    """
    require_described(context, versions)
    reader = context.reader()
    expansions = Expansions(reader)

    scales: dict[tuple[Digest | None, Digest], dict[str, float]] = {}

    def scales_of(row: TaskVersion) -> dict[str, float]:
        key = (row.config_digest, row.layout_digest)
        if key not in scales:
            layout, config = reader.layout(row.layout_digest), read_config(context, row)
            modules = [shape.module for shape in layout.modules()]
            own = module_scales(parse_config(config), layout)
            scales[key] = dict(zip(modules, own, strict=True))
        return scales[key]

    @lru_cache(maxsize=_REMEMBERED)
    def shapes_of(layout_digest: Digest) -> dict[str, tuple[int, int]]:
        return _shapes(reader.layout(layout_digest))

    def member(row: TaskVersion) -> FitMember:
        return FitMember(
            key=f"{row.adapter_digest} {row.config_digest} {row.norm!r}",
            scales=scales_of(row),
            shapes=shapes_of(row.layout_digest),
            norm=row.norm,
            factor=lambda module, side: expansions.factor(row.adapter_digest, module, side),
            rows=expansions.rows,
        )

    return [member(row) for row in versions]


def unstored_member(name: str, adapter: Adapter) -> FitMember:
    """Return an adapter that is not stored as a member.

    Its rows are its factors, in float64 while they are looked at.
    """
    layout = adapter.layout
    shapes = {shape.module: shape for shape in layout.modules()}
    experts = ((factor, expert) for factor in layout.factors for expert in range(factor.experts))
    places = dict(zip(shapes, experts, strict=True))

    def rows(_: Digest, module: str, side: Side) -> Tensor:
        factor, expert = places[module]
        pair = rows_of(layout, factor, adapter.tensors)[expert]
        return pair[0 if side is Side.A else 1].double()

    def identity(module: str, _: Side) -> Factor:
        return {Digest(name): torch.eye(shapes[module].rank, dtype=torch.float64, device="cpu")}

    return FitMember(
        key="",
        scales=dict(zip(shapes, module_scales(adapter.config, layout), strict=True)),
        shapes=_shapes(layout),
        norm=norm(adapter.factor_pairs()),
        factor=identity,
        rows=rows,
    )


def combine(factor: Factor, rows: Mapping[Digest, Tensor]) -> Tensor:
    """Return sum_o K_o R_o over the objects o that a factor refers to."""
    zero = torch.zeros((), dtype=torch.float64, device="cpu")
    return sum((K @ rows[key] for key, K in factor.items()), zero)


def _shapes(layout: Layout) -> dict[str, tuple[int, int]]:
    return {shape.module: (shape.in_, shape.out) for shape in layout.modules()}
