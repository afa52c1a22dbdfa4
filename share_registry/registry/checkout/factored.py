"""A stored adapter as factor pairs, without its other files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from share_registry.errors import NotFoundError
from share_registry.exchange.config import MAX_CONFIG_BYTES, parse_config
from share_registry.exchange.factor_pairs import FactorPair
from share_registry.exchange.scales import module_scales
from share_registry.exchange.tensors import TORCH
from share_registry.format.layout import Layout

if TYPE_CHECKING:
    from share_registry.registry.context import Context
    from share_registry.values.task_version import TaskVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoredAdapter:
    """One adapter.

    Attributes:
        pairs: Its modules.
        dtypes: Element types of A and B per module.
        factors: Per module, the factor pair whose tensors it lies in.
        raw_bytes: Bytes of the factors as handed in.
    """

    name: str
    pairs: tuple[FactorPair, ...]
    dtypes: tuple[tuple[torch.dtype, torch.dtype], ...]
    factors: tuple[int, ...]
    raw_bytes: int

    @property
    def parameters(self) -> int:
        """Elements of all factors."""
        return sum(pair.a.numel() + pair.b.numel() for pair in self.pairs)


def stored_member(context: "Context", row: "TaskVersion") -> FactoredAdapter:
    """Return a task version as it is stored; passengers and attachments are not read.

    Raises NotFoundError, IntegrityError.
    """
    reader = context.reader()
    if row.config_digest is None:
        raise NotFoundError(f"{row.ref}: its note names no config.", hint="Run verify.")
    layout = reader.open(row.adapter_digest).layout
    scales = module_scales(
        parse_config(context.store.get(row.config_digest, limit=MAX_CONFIG_BYTES)), layout
    )
    rows = zip(layout.modules(), reader.rows(row.adapter_digest), scales, strict=True)
    return _member(
        row.ref,
        layout,
        [
            FactorPair(module=shape.module, a=a.double(), b=b.double(), scale=scale)
            for shape, (a, b), scale in rows
        ],
    )


def _member(name: str, layout: Layout, pairs: Sequence[FactorPair]) -> FactoredAdapter:
    dtypes = [
        (TORCH[layout.tensors[factor.a].dtype], TORCH[layout.tensors[factor.b].dtype])
        for factor in layout.factors
        for _ in range(factor.experts)
    ]
    return FactoredAdapter(
        name=name,
        pairs=tuple(pairs),
        dtypes=tuple(dtypes),
        factors=tuple(
            number for number, factor in enumerate(layout.factors) for _ in range(factor.experts)
        ),
        raw_bytes=sum(
            layout.tensors[index].size_bytes
            for factor in layout.factors
            for index in (factor.a, factor.b)
        ),
    )
