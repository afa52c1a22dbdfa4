"""What an adapter may be coded against: earlier versions, the space's basis, rows of adapters."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from share_registry.catalog.queries import lookups
from share_registry.errors import IntegrityError, NotFoundError
from share_registry.format.layout import Layout
from share_registry.format.records import TaskVersionRef
from share_registry.materialize.decoder import MAX_CHAIN, Reader
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.registry.context import Context
from share_registry.stored import StoredBasis, StoredModule, StoredSide
from share_registry.values.policy import Policy

_LOG: Final = logging.getLogger(__name__)
FIRST: Final = 8
LATEST: Final = 4
# Earlier adapters whose rows are tried. The version before and what it refers to, then the first
# and the latest of the space; the basis comes on top.
MAX: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What an adapter is coded against.

    Attributes:
        previous: Adapter object whose decoded factors may enter.
        sources: Objects whose rows may be referred to, most promising first.
        lost: Those that cannot be read, and are left out.
    """

    previous: Digest | None = None
    sources: tuple[Digest, ...] = ()
    lost: tuple[Digest, ...] = ()


def choose_references(
    context: Context,
    reader: Reader,
    space: SpaceName,
    task: TaskName,
    policy: Policy,
    *,
    parents: Sequence[TaskVersionRef] = (),
    bases: Sequence[Digest] = (),
    siblings: Sequence[Digest] = (),
) -> References:
    """Choose what the next version of a task is tried against; none where the policy says so.

    In this order: bases, the version before (or the first declared parent) and what it refers to,
    declared parents, siblings of the same commit, the first and the latest adapters of the space.

    What cannot be read is left out: it would make the new version unreadable too, and must not keep
    a sound adapter from being committed. A chain of previous versions that is too long to read is
    cut (spec DEC-09).

    Args:
        context: The registry.
        reader: Reads the space's objects, and those of the commit in the making.
        space: The space.
        task: The task.
        policy: Of the commit.
        parents: Task versions that the adapter is declared to be derived from.
        bases: Basis objects to try besides the space's.
        siblings: Adapter objects of the same commit.
    """
    if policy.k or not policy.references or policy.budget == 0:
        return References()
    with context.catalog.begin() as session:
        latest = lookups.latest_version(session, space, task)
        rows = [
            lookups.version_row(session, space, parent.task, parent.version)
            for parent in parents[:MAX]
        ]
        space_basis = lookups.current_basis(session, space)
        early_and_late = lookups.candidate_adapters(session, space, first=FIRST, latest=LATEST)
    declared = [row.adapter_digest for row in rows if row is not None]
    before = latest.adapter_digest if latest is not None else next(iter(declared), None)
    near = [] if before is None else [before, *_sources_of(reader, before)]
    adapters = [*near, *declared, *siblings[:FIRST], *siblings[-LATEST:], *early_and_late]
    all_bases = [
        *bases,
        *([space_basis.digest] if space_basis is not None else []),
        *(digest for digest in near if _is_readable(reader, digest) and reader.is_basis(digest)),
    ]
    first = tuple(dict.fromkeys(all_bases))
    tried = (*first, *[digest for digest in dict.fromkeys(adapters) if digest not in first][:MAX])
    sources = tuple(digest for digest in tried if _is_readable(reader, digest))
    lost = set(tried) - set(sources)
    if before is not None and not _is_readable(reader, before, rows=True):
        lost.add(before)
        before = None
    if before is not None and reader.chain(before) >= MAX_CHAIN:
        before = None
    return References(previous=before, sources=sources, lost=tuple(sorted(lost)))


def candidate(reader: Reader, digest: Digest, layout: Layout) -> list[StoredModule | None]:
    """Return the blocks of an object for the modules of a layout, by position."""
    shapes = {shape.module: shape for shape in layout.modules()}
    if reader.is_basis(digest):
        basis = reader.basis(digest)
        return [_block(basis, name, shape.in_, shape.out) for name, shape in shapes.items()]
    opened = reader.open(digest)
    modules = {
        shape.module: opened.module(shape.module)
        for shape in opened.layout.modules()
        if shape.module in shapes
        and (shape.in_, shape.out) == (shapes[shape.module].in_, shapes[shape.module].out)
    }
    return [modules.get(name) for name in shapes]


def previous_rows(
    reader: Reader, digest: Digest, layout: Layout
) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    """Return the decoded factors of an adapter object for the modules of a layout.

    None for a module that it does not have in that shape.
    """
    opened, rows = reader.open(digest), reader.rows(digest)
    before = {shape.module: shape for shape in opened.layout.modules()}
    return [
        rows[opened.modules[shape.module]] if before.get(shape.module) == shape else None
        for shape in layout.modules()
    ]


def _block(basis: StoredBasis, module: str, width: int, out: int) -> StoredModule | None:
    rows = basis.modules.get(module)
    if rows is None or (rows[0].shape[1], rows[1].shape[1]) != (width, out):
        return None
    a, b = (
        StoredSide(previous=False, terms=(), scales=np.zeros(len(own), np.float32), own=own)
        for own in rows
    )
    return StoredModule(a=a, b=b, error=0.0)


def _sources_of(reader: Reader, digest: Digest) -> tuple[Digest, ...]:
    return reader.open(digest).stored.sources if _is_readable(reader, digest) else ()


def _is_readable(reader: Reader, digest: Digest, *, rows: bool = False) -> bool:
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
