"""Similar: the tasks of a space whose dW is nearest to an adapter's."""

import os
from math import inf, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from share_registry.algebra.error import norm
from share_registry.algebra.overlap import products_with, row_overlap
from share_registry.catalog import queries
from share_registry.errors import InvalidInput, NotFound
from share_registry.names import Side
from share_registry.outside import Kind
from share_registry.registry.doors import reference
from share_registry.registry.insight_results import Neighbour, Similar
from share_registry.registry.members import Member, Progress, member, stored_member
from share_registry.registry.resolve import space_of, version_of
from share_registry.registry.results import Commit, Resolved
from share_registry.registry.sources import HUB, load
from share_registry.registry.verdict import CONTINUES, one_start

if TYPE_CHECKING:
    from share_registry.catalog.task_version import TaskVersion
    from share_registry.registry.home import Home

DEFAULT_LIMIT: Final = 10


def similar(
    home: "Home",
    adapter: Any,
    *,
    space: str | None,
    limit: int | None = DEFAULT_LIMIT,
    progress: Progress | None = None,
) -> Similar:
    """Return the live tasks nearest to an adapter, each at its newest version.

    Args:
        home: The registry.
        adapter: A reference, a PEFT directory, a live PEFT model or an Adapter. A text is a
            reference where it leads to a version, else a directory.
        space: Where to look; None for the default or only space.
        limit: At most so many; None for all.
        progress: Called with what is being done, how many are done and how many there are.

    Raises:
        InvalidInput: nothing that an adapter can be read from.
        NotFound, Refused: what is named leads nowhere.
    """
    asked, own = _asked(home, adapter, space)
    with home.reading() as session:
        where = space_of(
            session,
            space if space is not None else home.default_space if own is None else own.space,
        )
        rows = queries.latest_versions(session, where)
    rows = [row for row in rows if own is None or row.ref != own.ref]
    found = []
    for done, row in enumerate(rows, start=1):
        if progress is not None:
            progress(f"comparing with {row.ref}", done, len(rows))
        found.append(_neighbour(asked, row, stored_member(home, row)))
    found.sort(key=lambda neighbour: (neighbour.distance, neighbour.ref))
    return Similar(adapter=asked.name, space=where, neighbours=tuple(found[:limit]))


def _asked(home: "Home", adapter: Any, space: str | None) -> "tuple[Member, TaskVersion | None]":
    """Return the adapter asked about, and the version it is where it is one."""
    if isinstance(adapter, Commit | Resolved):
        return _version(home, reference(adapter), space)
    if isinstance(adapter, str) and not adapter.startswith(HUB):
        try:
            return _version(home, adapter, space)
        except (InvalidInput, NotFound):
            if home.outside.kind(Path(adapter)) is not Kind.DIRECTORY:
                raise
    named = os.fspath(adapter) if isinstance(adapter, str | os.PathLike) else "the adapter given"
    return member(
        named, load(adapter, task="asked", adapter_name=None, outside=home.outside)[1]
    ), None


def _version(home: "Home", ref: str, space: str | None) -> "tuple[Member, TaskVersion]":
    with home.reading() as session:
        row = version_of(session, ref, space=space if space is not None else home.default_space)
    return stored_member(home, row), row


def _neighbour(asked: Member, row: "TaskVersion", other: Member) -> Neighbour:
    one, two, product = (
        norm(asked.pairs),
        norm(other.pairs),
        products_with(asked.pairs, other.pairs),
    )
    overlap, chance = row_overlap([asked.pairs, other.pairs], Side.A)
    overlap_b, chance_b = row_overlap([asked.pairs, other.pairs], Side.B)
    difference = sqrt(max(one**2 + two**2 - 2.0 * product, 0.0))
    distance = difference / one if one else (inf if difference else 0.0)
    return Neighbour(
        ref=row.ref,
        task=row.task,
        version=row.version,
        cosine=max(-1.0, min(1.0, product / (one * two))) if one and two else 0.0,
        distance=distance,
        overlap=float(overlap[0, 1]),
        chance=float(chance[0, 1]),
        continues=distance < CONTINUES,
        one_start=bool((one_start(overlap, chance) & ~one_start(overlap_b, chance_b))[0, 1]),
    )
