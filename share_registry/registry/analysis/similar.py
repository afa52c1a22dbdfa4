"""Similar: the tasks of a space whose dW is nearest to an adapter's."""

import os
from math import inf, sqrt
from pathlib import Path
from typing import Any, Final

from share_registry.algebra.error import norm
from share_registry.algebra.overlap import products_with, row_overlap
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.resolution import space_of, version_of
from share_registry.errors import InvalidInputError, NotFoundError
from share_registry.exchange.hub import SCHEME
from share_registry.names import Side
from share_registry.outside.files import Kind
from share_registry.registry.analysis.verdict import CONTINUES, one_start
from share_registry.registry.arguments import Progress, ignore_progress, reference
from share_registry.registry.checkout.factored import FactoredAdapter, read_adapter, read_factored
from share_registry.registry.context import Context
from share_registry.values.analyses import Neighbour, Similar
from share_registry.values.commits import Commit
from share_registry.values.references import ResolvedReference
from share_registry.values.task_version import TaskVersion

DEFAULT_LIMIT: Final = 10


def similar(
    context: Context,
    adapter: Any,
    *,
    space: str | None,
    limit: int | None = DEFAULT_LIMIT,
    progress: Progress | None = None,
) -> Similar:
    """Return the live tasks nearest to an adapter, each at its newest version.

    Args:
        context: The registry.
        adapter: A reference, a PEFT directory, a live PEFT model or an Adapter. A text is a
            reference where it leads to a version, else a directory.
        space: Where to look for what is no version; None for the only space. A version is compared
            with the tasks of its own space.
        limit: At most so many; None for all.
        progress: Called with what is being done, how many are done and how many there are.

    Raises:
        InvalidInputError: nothing that an adapter can be read from.
        NotFoundError, RefusedError: what is named leads nowhere.
    """
    progress = progress or ignore_progress
    asked, own = _read_asked(context, adapter, space)
    with context.reading() as session:
        where = space_of(session, space if own is None else own.space)
        rows = lookups.latest_versions(session, where)
    rows = [row for row in rows if own is None or row.ref != own.ref]
    neighbours = []
    for done, row in enumerate(rows, start=1):
        progress(f"comparing with {row.ref}", done, len(rows))
        neighbours.append(_compare(asked, row, read_factored(context, row)))
    neighbours.sort(key=lambda neighbour: (neighbour.distance, neighbour.ref))
    return Similar(adapter=asked.name, space=where, neighbours=tuple(neighbours[:limit]))


def _read_asked(
    context: Context, adapter: Any, space: str | None
) -> tuple[FactoredAdapter, TaskVersion | None]:
    """Return the adapter asked about, and the version it is where it is one."""
    if isinstance(adapter, Commit | ResolvedReference):
        return _read_version(context, reference(adapter), space)
    if isinstance(adapter, str) and not adapter.startswith(SCHEME):
        try:
            return _read_version(context, adapter, space)
        except (InvalidInputError, NotFoundError):
            if context.outside.kind(Path(adapter)) is not Kind.DIRECTORY:
                raise
    name = os.fspath(adapter) if isinstance(adapter, str | os.PathLike) else "the adapter given"
    return read_adapter(name, adapter, task="asked", outside=context.outside), None


def _read_version(
    context: Context, ref: str, space: str | None
) -> tuple[FactoredAdapter, TaskVersion]:
    with context.reading() as session:
        row = version_of(session, ref, space=space)
    return read_factored(context, row), row


def _compare(asked: FactoredAdapter, row: TaskVersion, stored: FactoredAdapter) -> Neighbour:
    size, stored_size = norm(asked.pairs), norm(stored.pairs)
    product = products_with(asked.pairs, stored.pairs)
    overlap, chance = row_overlap([asked.pairs, stored.pairs], Side.A)
    overlap_b, chance_b = row_overlap([asked.pairs, stored.pairs], Side.B)
    difference = sqrt(max(size**2 + stored_size**2 - 2.0 * product, 0.0))
    distance = inf if difference else 0.0
    if size:
        distance = difference / size
    cosine = product / (size * stored_size) if size and stored_size else 0.0
    only_a = one_start(overlap, chance) & ~one_start(overlap_b, chance_b)
    return Neighbour(
        ref=row.ref,
        task=row.task,
        version=row.version,
        cosine=max(-1.0, min(1.0, cosine)),
        distance=distance,
        overlap=float(overlap[0, 1]),
        chance=float(chance[0, 1]),
        continues=distance < CONTINUES,
        one_start=bool(only_a[0, 1]),
    )
