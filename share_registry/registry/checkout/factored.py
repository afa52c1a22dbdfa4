"""A stored adapter as factor pairs, without its other files."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from share_registry.algebra.error import FactorPair
from share_registry.errors import NotFoundError
from share_registry.exchange.config import MAX_CONFIG_BYTES, module_scales, parse_config
from share_registry.format.layout import Layout

if TYPE_CHECKING:
    from share_registry.registry.context import Context
    from share_registry.values.task_version import TaskVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoredAdapter:
    """One adapter under a name: its modules as factor pairs, and the layout they come from."""

    name: str
    layout: Layout
    pairs: tuple[FactorPair, ...]

    @property
    def parameters(self) -> int:
        """Elements of all factors."""
        return sum(pair.a.numel() + pair.b.numel() for pair in self.pairs)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the factors' tensors."""
        tensors = [index for factor in self.layout.factors for index in (factor.a, factor.b)]
        return sum(self.layout.tensors[index].size_bytes for index in tensors)


def read_factored(context: "Context", row: "TaskVersion") -> FactoredAdapter:
    """Return a task version as it is stored; passengers and attachments are not read.

    Raises NotFoundError, IntegrityError.
    """
    reader = context.reader()
    if row.config_digest is None:
        raise NotFoundError(f"{row.ref}: its note names no config.", hint="Run verify.")
    layout = reader.open(row.adapter_digest).layout
    config = parse_config(context.store.get(row.config_digest, limit=MAX_CONFIG_BYTES))
    rows = zip(
        layout.modules(),
        reader.rows(row.adapter_digest),
        module_scales(config, layout),
        strict=True,
    )
    pairs = tuple(
        FactorPair(module=shape.module, a=a.double(), b=b.double(), scale=scale)
        for shape, (a, b), scale in rows
    )
    return FactoredAdapter(name=row.ref, layout=layout, pairs=pairs)
