"""Compare one adapter with the live tasks of a space, and list the nearest."""

import os
from collections.abc import Sequence
from math import inf, sqrt
from pathlib import Path
from typing import Any

from share_registry.algebra.comparison import have_common, products_with, row_overlap
from share_registry.algebra.error import FactorPair, norm
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.catalog.sql import Session
from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ensure
from share_registry.exchange.grown_vocabulary import align
from share_registry.exchange.places import SCHEME
from share_registry.names import Side, SpaceName
from share_registry.outside.files import Kind
from share_registry.registry.analysis.verdict import CONTINUES, kin_of
from share_registry.registry.arguments import reference
from share_registry.registry.checkout.factored import (
    FactoredAdapter,
    read_adapter,
    read_factored,
    read_version,
)
from share_registry.registry.commands.spaces import spaces_of_base
from share_registry.registry.context import Context
from share_registry.registry.stored_config import described_versions
from share_registry.values.analyses import Neighbour, Similar
from share_registry.values.commits import Commit
from share_registry.values.references import ResolvedReference
from share_registry.values.task_version import TaskVersion


@one_thread()
def similar(
    context: Context,
    adapter: Any,
    *,
    space: str | None,
    limit: int | None = 10,
) -> Similar:
    """Return the live tasks nearest to an adapter, each at its newest version.

    Args:
        context: The registry.
        adapter: A reference, a PEFT directory, a live PEFT model or an Adapter. A text is a
            reference where it leads to a version, else a directory.
        space: Where to look for what is no version; None for the only space, or the one of its base
            model. A version is compared with the tasks of its own space.
        limit: At most so many; None for all.

    Raises:
        InvalidInputError: nothing that an adapter can be read from.
        NotFoundError, RefusedError: what is named leads nowhere.
    """
    asked, own = _read_asked(context, adapter, space)
    with context.reading() as session:
        where = _space_to_search(context, session, asked, space if own is None else own.space)
        rows = version_lookups.latest_versions(session, where)
    rows = described_versions(context, [row for row in rows if own is None or row.ref != own.ref])
    neighbours = []
    compares = own is not None or not asked.pairs
    for row in rows:
        stored = read_factored(context, row)
        pairs = align([(each.layout, each.pairs) for each in (asked, stored)])
        compares |= not stored.pairs or have_common(*pairs)
        neighbours.append(_compare(row, pairs))
    ensure(
        compares or not rows,
        RefusedError(
            f"{asked.name} is of another base model than space {where}: no module has the same "
            "name and shape in a task, so nothing is comparable.",
            hint="Name the space of its base model.",
        ),
    )
    neighbours.sort(key=lambda neighbour: (neighbour.distance, neighbour.ref))
    return Similar(adapter=asked.name, space=where, neighbours=tuple(neighbours[:limit]))


def _read_asked(
    context: Context, adapter: Any, space: str | None
) -> tuple[FactoredAdapter, TaskVersion | None]:
    if isinstance(adapter, Commit | ResolvedReference):
        return read_version(context, reference(adapter), space=space)
    if isinstance(adapter, str) and not adapter.startswith(SCHEME):
        try:
            return read_version(context, adapter, space=space)
        except (InvalidInputError, NotFoundError):
            # a directory, or one file of another program
            if context.outside.kind(Path(adapter)) not in (Kind.DIRECTORY, Kind.FILE):
                raise
    name = os.fspath(adapter) if isinstance(adapter, str | os.PathLike) else "the adapter given"
    return read_adapter(name, adapter, task="asked", outside=context.outside), None


def _space_to_search(
    context: Context, session: Session, asked: FactoredAdapter, space: str | None
) -> SpaceName:
    """Return the space that is named, the only one, or the only one of the adapter's base model."""
    spaces = lookups.space_names(session)
    if space is None and len(spaces) > 1 and asked.base:
        fitting = spaces_of_base(session, context.store, asked.base)
        if len(fitting) == 1:
            return fitting[0].name
    return space_of(session, space)


def _compare(row: TaskVersion, pairs: Sequence[Sequence[FactorPair]]) -> Neighbour:
    """Compare an adapter with a stored one; `pairs` are of both, aligned."""
    size, stored_size = map(norm, pairs)
    product = products_with(*pairs)
    overlap, chance = row_overlap(pairs, Side.A)
    overlap_b, chance_b = row_overlap(pairs, Side.B)
    difference = sqrt(max(size**2 + stored_size**2 - 2.0 * product, 0.0))
    distance = inf if difference else 0.0
    if size:
        distance = difference / size
    cosine = product / (size * stored_size) if size and stored_size else 0.0
    starts, both = kin_of((overlap, chance), (overlap_b, chance_b))
    larger = max(size, stored_size)
    return Neighbour(
        ref=row.ref,
        task=row.task,
        version=row.version,
        cosine=max(-1.0, min(1.0, cosine)),
        distance=distance,
        overlap=float(overlap[0, 1]),
        chance=float(chance[0, 1]),
        continues=not difference or difference / larger < CONTINUES,
        one_start=bool(starts[0, 1]),
        shares=bool(both[0, 1]),
    )
