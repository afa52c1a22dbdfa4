"""Code one adapter in integers: what it may be coded against, and the objects that come of it.

It may refer to earlier versions, to the space's basis, and to rows of other adapters. The bytes
that the integers lead to are decoded again as a checkout would.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Final

import numpy as np
import torch

from share_registry.algebra.absorb import CodedAdapter, absorb
from share_registry.algebra.batch import energies
from share_registry.algebra.error import FactorPair
from share_registry.algebra.project import project
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.errors import BudgetExceededError, IntegrityError, NotFoundError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.normal_form import is_certain
from share_registry.exchange.tensors import factor_dtypes, factor_positions, item_of
from share_registry.format import adapter_object
from share_registry.format.adapter_object import MAX_EXTERNAL
from share_registry.format.canonical import sha256
from share_registry.format.heads import SPLITS
from share_registry.format.layout import Layout
from share_registry.format.records import TaskVersionRef
from share_registry.format.tensor_object import encode_tensor
from share_registry.materialize.decoder import MAX_CHAIN, Reader
from share_registry.memory import give_back
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName
from share_registry.parallel import side_by_side
from share_registry.registry.commands.dependents import closure, may_need
from share_registry.registry.context import Context
from share_registry.registry.evidence import removed_objects, require_recorded
from share_registry.stored import StoredAdapter, StoredBasis, StoredModule, StoredSide
from share_registry.values.policy import Policy
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
FIRST: Final = 8
LATEST: Final = 4
# Earlier adapters whose rows are tried. The version before and what it refers to, then the first
# and the latest of the space; the basis comes on top.
MAX: Final = 12
# Passengers from this size on are objects of their own, shared by every adapter that has the same
# bytes.
EXTERNAL_BYTES: Final = 64 << 10
# Floats kept bit for bit in an adapter object are split from so many bytes on. Below, some hundred
# bytes are not worth a record that older releases cannot read (spec REC-21).
SPLIT_BYTES: Final = 16 << 10
_ZERO: Final = "no module has a product to code"
# Why an adapter is kept bit for bit where no coding of it is within the budget
_MIXED: Final = "the columns of the experts' lora_B may be grouped by expert"
COARSE: Final = "the precision of the tensors' element types does not meet it"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SerializedAdapter:
    """An adapter as objects.

    Attributes:
        digest: Of the adapter object.
        objects: The adapter object, its layout and its large passengers.
        is_coded: Whether any module is kept in integers.
        sources: Objects that it refers to.
        reason: Why it is kept bit for bit although a budget allows more; empty where it is not.
    """

    digest: Digest
    objects: Mapping[Digest, bytes] = field(repr=False)
    is_coded: bool
    sources: tuple[Digest, ...]
    reason: str = ""


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
    at: CommitNumber | None = None,
) -> References:
    """Choose what the next version of a task is tried against; none where the policy says so.

    In this order: bases, the version before (or the first declared parent) and what it refers to,
    declared parents, siblings of the same commit, the first and the latest adapters of the space.
    Where the policy bounds dependents, the version before and what it refers to, or nothing.

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
        at: The commit after which the space is looked at; None for now.
    """
    if policy.k or not policy.references or policy.budget == 0:
        return References()
    if policy.max_dependents is not None:
        return _bounded_references(context, reader, space, task, policy.max_dependents, at)
    with context.catalog.begin() as session:
        latest = _if_kept(version_lookups.latest_version(session, space, task, at=at))
        rows = [
            _if_kept(version_lookups.version_row(session, space, parent.task, parent.version))
            for parent in parents[:MAX]
        ]
        space_basis = lookups.current_basis(session, space, at=at)
        early_and_late = version_lookups.candidate_adapters(
            session, space, first=FIRST, latest=LATEST, at=at
        )
    require_recorded(context, filter(None, [latest, *rows]))
    declared = [row.adapter_digest for row in rows if row is not None]
    before = latest.adapter_digest if latest is not None else next(iter(declared), None)
    near = [] if before is None else [before, *_sources_of(reader, before)]
    adapters = [*near, *declared, *siblings[:FIRST], *siblings[-LATEST:], *early_and_late]
    first = [
        *bases,
        *([space_basis.digest] if space_basis is not None else []),
        *(digest for digest in near if _is_readable(reader, digest) and reader.is_basis(digest)),
    ]
    with context.catalog.begin() as session:
        removed = removed_objects(context, session, space, [*first, *adapters])
    others = [each for each in dict.fromkeys(adapters) if each not in {*first, *removed}][:MAX]
    tried = dict.fromkeys([*(each for each in first if each not in removed), *others])
    readable = side_by_side(
        lambda digest: _is_readable(reader, digest), [*tried], threads=context.store.at_once
    )
    sources = tuple(compress(tried, readable))
    lost = {*tried} - {*sources}
    if before is not None and not _is_readable(reader, before, rows=True):
        lost.add(before)
    is_usable = (
        before is not None
        and before not in lost | removed
        and len(reader.chain(before)) <= MAX_CHAIN
    )
    return References(
        previous=before if is_usable else None, sources=sources, lost=tuple(sorted(lost))
    )


def _bounded_references(
    context: Context,
    reader: Reader,
    space: SpaceName,
    task: TaskName,
    limit: int,
    at: CommitNumber | None,
) -> References:
    """Choose the version before and what it needs, if one more may need them."""
    with context.catalog.begin() as session:
        latest = version_lookups.latest_version(session, space, task, at=at)
    if latest is None:
        return References()
    require_recorded(context, [latest])
    before = latest.adapter_digest
    if not _is_readable(reader, before, rows=True):
        return References(lost=(before,))
    needed = closure(reader, [before])
    with context.catalog.begin() as session:
        if not may_need(session, space, task, needed, limit, at=at):
            return References()
        removed = removed_objects(context, session, space, needed)
    return References(
        previous=before
        if before not in removed and len(reader.chain(before)) <= MAX_CHAIN
        else None,
        sources=tuple([each for each in needed if each not in removed][:MAX]),
    )


def project_onto(
    reader: Reader, adapter: Adapter, pairs: Sequence[FactorPair], basis: Digest, policy: Policy
) -> SerializedAdapter:
    """Project an adapter onto a basis, on the device of its pairs.

    The error is not limited: it is the caller's to record.
    """
    if not is_certain(adapter.config, adapter.layout):
        return _keep(adapter, _MIXED)
    blocks, fitted = candidate(reader, basis, adapter.layout), reader.basis(basis).modules
    coded = project(
        pairs,
        basis=blocks,
        foreign=[
            position
            for position, (pair, block) in enumerate(zip(pairs, blocks, strict=True))
            if block is None and pair.module in fitted
        ],
        dtypes=factor_dtypes(adapter.layout),
        pseudo_rank=policy.pseudo_rank,
        factors=factor_positions(adapter.layout),
    )
    return serialize(
        adapter.layout, adapter.tensors, coded.modules, None, [basis] if coded.sources else []
    )


def code_within_budget(
    reader: Reader,
    adapter: Adapter,
    pairs: list[FactorPair],
    references: References,
    policy: Policy,
) -> SerializedAdapter:
    """Code an adapter within its budget in the fewest bytes, on the device of its pairs.

    Raises BudgetExceededError where the pseudo-rank keeps it from its budget.
    """
    layout = adapter.layout
    if not is_certain(adapter.config, layout):
        return _keep(adapter, _MIXED)
    outcomes: list[tuple[CodedAdapter, SerializedAdapter]] = []

    def size(coded: CodedAdapter) -> int:
        serialized = serialize(
            layout,
            adapter.tensors,
            coded.modules,
            references.previous if coded.previous else None,
            [references.sources[number] for number in coded.sources],
        )
        outcomes.append((coded, serialized))
        return len(serialized.objects[serialized.digest])

    best = absorb(
        pairs,
        budget=policy.budget,
        dtypes=factor_dtypes(layout),
        candidates=[candidate(reader, digest, layout) for digest in references.sources],
        previous=previous_rows(reader, references.previous, layout)
        if references.previous
        else None,
        factors=factor_positions(layout),
        size=size,
        pseudo_rank=policy.pseudo_rank,
    )
    largest_rank = max((pair.a.shape[0] for pair in pairs), default=0)
    ensure(
        policy.pseudo_rank is None or policy.pseudo_rank >= largest_rank or any(best.modules),
        BudgetExceededError(
            f"the adapter cannot be kept within {policy.budget:g} with a pseudo-rank of "
            f"{policy.pseudo_rank}.",
            hint="Give a larger budget or pseudo-rank, or leave the pseudo-rank to the budget.",
        ),
    )
    serialized = next(
        (serialized for coded, serialized in outcomes if coded is best), None
    ) or serialize(layout, adapter.tensors, best.modules, None, ())
    if any(best.modules) or policy.budget == 0:
        return serialized
    if any(any(coded.modules) for coded, _ in outcomes):
        return replace(serialized, reason="coded, the adapter would not be smaller")
    return replace(serialized, reason=COARSE if any(energies(pairs)) else _ZERO)


def keep_bits(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> SerializedAdapter:
    """Serialize the tensors of a layout, each of them bit for bit."""
    return serialize(layout, tensors, [None] * len(layout.modules()), None, ())


def serialize(
    layout: Layout,
    tensors: Mapping[str, torch.Tensor],
    modules: Sequence[StoredModule | None],
    previous: Digest | None,
    sources: Sequence[Digest],
) -> SerializedAdapter:
    """Serialize coded modules and the tensors that are kept bit for bit.

    Args:
        layout: Describes the tensors.
        tensors: By their keys.
        modules: By position in `Layout.modules()`; None: keep the tensors of its factor pair.
        previous: Adapter object whose decoded factors enter.
        sources: Objects that the modules refer to.
    """
    give_back(sum(spec.size_bytes for spec in layout.tensors))
    layout_bytes = layout.to_bytes()
    passengers: dict[Digest, bytes] = {}
    external: dict[int, Digest] = {}
    verbatim: dict[int, bytes] = {}
    split_bytes, is_split = 0, False
    for index in sorted({*layout.passengers, *_uncoded_tensors(layout, modules)}):
        spec = layout.tensors[index]
        content = bytes(item_of(spec.key, tensors[spec.key]).content)
        is_large = index in layout.passengers and len(content) >= EXTERNAL_BYTES
        # spec LIM-14; what is beyond lies in the object itself
        if is_large and len(external) < MAX_EXTERNAL:
            packed = encode_tensor(content, dtype=spec.dtype)
            external[index] = sha256(packed)
            passengers[external[index]] = packed
            is_split |= spec.dtype in SPLITS
        else:
            verbatim[index] = content
            split_bytes += len(content) if spec.dtype in SPLITS else 0
    stored = StoredAdapter(
        layout=sha256(layout_bytes),
        previous=previous,
        sources=tuple(sources),
        modules=tuple(modules),
        verbatim=verbatim,
        external=external,
        heads=is_split or split_bytes >= SPLIT_BYTES,
    )
    content = adapter_object.encode(stored, layout)
    digest = sha256(content)
    return SerializedAdapter(
        digest=digest,
        objects={digest: content, stored.layout: layout_bytes} | passengers,
        is_coded=any(modules),
        sources=stored.sources,
    )


def decode(
    reader: Reader, serialized: SerializedAdapter, adapter: Adapter
) -> tuple[StoredAdapter, Adapter]:
    """Decode an adapter that is not stored yet, as a checkout would.

    Return also what its object was parsed as.
    """
    beside = reader.beside(serialized.objects)
    tensors = beside.tensors(serialized.digest)
    return beside.open(serialized.digest).stored, replace(adapter, tensors=tensors)


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


def _keep(adapter: Adapter, reason: str) -> SerializedAdapter:
    return replace(keep_bits(adapter.layout, adapter.tensors), reason=reason)


def _uncoded_tensors(layout: Layout, modules: Sequence[StoredModule | None]) -> set[int]:
    return {
        index
        for position, number in enumerate(factor_positions(layout))
        if modules[position] is None
        for index in (layout.factors[number].a, layout.factors[number].b)
    }


def _block(basis: StoredBasis, module: str, width: int, out: int) -> StoredModule | None:
    rows = basis.modules.get(module)
    if rows is None or (rows[0].shape[1], rows[1].shape[1]) != (width, out):
        return None
    a, b = (
        StoredSide(previous=False, terms=(), scales=np.zeros(len(own), np.float32), own=own)
        for own in rows
    )
    return StoredModule(a=a, b=b, error=0.0)


def _if_kept(row: TaskVersion | None) -> TaskVersion | None:
    """Return a version unless it was removed."""
    return row if row is not None and row.removed is None else None


def _sources_of(reader: Reader, digest: Digest) -> tuple[Digest, ...]:
    return reader.open(digest).stored.sources if _is_readable(reader, digest) else ()


def _is_readable(reader: Reader, digest: Digest, *, rows: bool = False) -> bool:
    """Tell whether an object, or also all that its rows are decoded from, is there and whole."""
    try:
        # what is remembered may have been removed by another process: nothing new may refer to it
        missing = [each for each in _needed(reader, digest, rows=rows) if not reader.has(each)]
        ensure(not missing, IntegrityError(f"{', '.join(missing[:1])} is not in the store."))
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


def _needed(reader: Reader, digest: Digest, *, rows: bool) -> list[Digest]:
    """Return an object, and all that its rows are decoded from. Raises IntegrityError."""
    if not rows:
        return [digest]
    chain = reader.chain(digest)
    return [each for link in chain for each in (link, *reader.open(link).stored.sources)]
