"""What an adapter may be coded against.

The version before, the basis of the space, rows of earlier adapters.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from share_registry.algebra.outcome import Candidate
from share_registry.catalog.queries import lookups
from share_registry.errors import IntegrityError, NotFoundError
from share_registry.format.layout import Layout
from share_registry.format.records import TaskVersionRef
from share_registry.materialize.decoder import MAX_CHAIN, Reader
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.stored import StoredBasis, StoredModule, StoredSide

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.format.symbols import Ints

_LOG: Final = logging.getLogger(__name__)
FIRST: Final = 8
LATEST: Final = 4
MAX: Final = 12
"""Earlier adapters whose rows are tried.

The version before and what it refers to, then the first and the latest of the space; the basis
comes on top.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedReferences:
    """What the catalog offers for a task.

    Attributes:
        previous: Adapter object of the version before, or of the first declared parent.
        parents: Adapter objects of all declared parents.
        basis: Basis object of the space.
        others: First and latest adapter objects of the space.
    """

    previous: Digest | None = None
    parents: tuple[Digest, ...] = ()
    basis: Digest | None = None
    others: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenReferences:
    """What an adapter is tried against.

    Attributes:
        previous: Adapter object whose decoded factors may enter.
        sources: Objects whose rows may be referred to, most promising first.
        lost: Those that cannot be read, and are left out.
    """

    previous: Digest | None = None
    sources: tuple[Digest, ...] = ()
    lost: tuple[Digest, ...] = ()


def known(
    session: "Session", space: SpaceName, task: TaskName, parents: Sequence[TaskVersionRef]
) -> OfferedReferences:
    """Return what a space offers for the next version of a task."""
    latest = lookups.latest_version(session, space, task)
    found = [
        row
        for row in (
            lookups.version_row(session, space, parent.task, parent.version)
            for parent in parents[:MAX]
        )
        if row is not None
    ]
    declared = tuple(row.adapter_digest for row in found)
    basis = lookups.current_basis(session, space)
    return OfferedReferences(
        previous=latest.adapter_digest if latest is not None else next(iter(declared), None),
        parents=declared,
        basis=basis.digest if basis is not None else None,
        others=tuple(lookups.candidate_adapters(session, space, first=FIRST, latest=LATEST)),
    )


def base_of(
    known: OfferedReferences,
    reader: Reader,
    *,
    bases: Sequence[Digest] = (),
    siblings: Sequence[Digest] = (),
) -> ChosenReferences:
    """Put in order what is tried.

    Bases, the version before and what it refers to, declared parents, siblings of the same
    commit, others.

    What cannot be read is left out: it would make the new version unreadable too, and must not keep
    a sound adapter from being committed. A chain of previous versions that is too long to read is
    cut (spec DEC-09).

    Args:
        known: What the space offers.
        reader: Reads it, and the objects of the commit in the making.
        bases: Basis objects to try besides the space's.
        siblings: Adapter objects of the same commit.
    """
    before = known.previous
    near = (before, *_sources(reader, before)) if before is not None else ()
    shared = tuple(
        dict.fromkeys(
            (
                *bases,
                *([known.basis] if known.basis else []),
                *(digest for digest in near if _is_basis(reader, digest)),
            )
        )
    )
    adapters = dict.fromkeys(
        (*near, *known.parents, *siblings[:FIRST], *siblings[-LATEST:], *known.others)
    )
    wanted = (*shared, *[digest for digest in adapters if digest not in shared][:MAX])
    sources = tuple(digest for digest in wanted if _readable(reader, digest))
    lost = {digest for digest in wanted if digest not in sources}
    if before is not None and not _readable(reader, before, rows=True):
        lost.add(before)
        before = None
    previous = before if before is not None and reader.chain(before) < MAX_CHAIN else None
    return ChosenReferences(previous=previous, sources=sources, lost=tuple(sorted(lost)))


def candidate(reader: Reader, number: int, digest: Digest, layout: Layout) -> Candidate:
    """Return the blocks of an object for the modules of a layout, by position."""
    shapes = {shape.module: shape for shape in layout.modules()}
    if reader.is_basis(digest):
        basis = reader.basis(digest)
        return Candidate(
            source=number,
            modules=[_block(basis, name, shape.in_, shape.out) for name, shape in shapes.items()],
        )
    opened = reader.open(digest)
    found = {
        shape.module: opened.module(shape.module)
        for shape in opened.layout.modules()
        if shape.module in shapes
        and (shape.in_, shape.out) == (shapes[shape.module].in_, shapes[shape.module].out)
    }
    return Candidate(source=number, modules=[found.get(name) for name in shapes])


def previous_rows(
    reader: Reader, digest: Digest, layout: Layout
) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """Return the decoded factors of an adapter object for the modules of a layout, None where it has none of that shape."""
    opened, rows = reader.open(digest), reader.rows(digest)
    before = {shape.module: shape for shape in opened.layout.modules()}
    return [
        rows[opened.modules[shape.module]] if before.get(shape.module) == shape else None
        for shape in layout.modules()
    ]


def _block(basis: StoredBasis, module: str, width: int, out: int) -> StoredModule | None:
    found = basis.modules.get(module)
    if found is None or (found[0].shape[1], found[1].shape[1]) != (width, out):
        return None
    return StoredModule(a=_rows(found[0]), b=_rows(found[1]), error=0.0)


def _rows(rows: "Ints") -> StoredSide:
    return StoredSide(previous=False, terms=(), scales=np.zeros(len(rows), np.float32), own=rows)


def _sources(reader: Reader, digest: Digest) -> tuple[Digest, ...]:
    return reader.open(digest).stored.sources if _readable(reader, digest) else ()


def _is_basis(reader: Reader, digest: Digest) -> bool:
    return _readable(reader, digest) and reader.is_basis(digest)


def _readable(reader: Reader, digest: Digest, *, rows: bool = False) -> bool:
    """Tell whether an object, or also all that its rows are decoded from, is there and whole."""
    try:
        if reader.is_basis(digest):
            reader.basis(digest)
        elif rows:
            reader.rows(digest)
        else:
            reader.open(digest)
    except (IntegrityError, NotFoundError) as error:
        _LOG.warning("object %s cannot be read: %s", digest, error)
        return False
    return True
