"""Absorb one adapter: from foreign tensors to the objects of a commit, measured before anything is written.

The algebra proposes; the bytes it leads to are decoded again as a checkout would, and the error of exactly those tensors is what the commit records. Where it exceeds the budget the adapter is kept bit for bit.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch

from share_registry.algebra.absorb import absorb
from share_registry.algebra.error import module_errors, pooled_error
from share_registry.algebra.outcome import Absorbed, Candidate
from share_registry.catalog import queries
from share_registry.catalog.versions import module_shapes_of
from share_registry.errors import Integrity, NotFound, Refused
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.export import tensor_file
from share_registry.exchange.pairs import Pair, pairs_of
from share_registry.exchange.scales import module_scales
from share_registry.exchange.tensors import TORCH, item_of
from share_registry.format.adapter_object import encode
from share_registry.format.canonical import sha256
from share_registry.format.layout import Layout
from share_registry.format.records import FileEntry, TaskVersionRef
from share_registry.format.tensor_object import encode_tensor
from share_registry.materialize.reader import MAX_CHAIN, Reader
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.registry.policy import Policy
from share_registry.registry.reports import called, module_reports
from share_registry.registry.results import Report
from share_registry.stored import StoredAdapter, StoredModule

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from share_registry.registry.home import Home
    from share_registry.store.protocol import Store

_LOG: Final = logging.getLogger(__name__)
EXTERNAL_BYTES: Final = 64 << 10
"""Passengers from this size on are objects of their own, shared by every adapter that carries the same bytes."""
FIRST_CANDIDATES: Final = 4
LATEST_CANDIDATES: Final = 4
MAX_CANDIDATES: Final = 8
"""Earlier adapters whose rows are tried: the version before and what it refers to, then the first and the latest of the space."""

_COARSE: Final = "the precision of the tensors' element types does not meet it, or no module has a product to code"
"""Why an adapter is kept bit for bit where no coding of it is within the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One adapter ready to be stored: its objects in memory and what the record will say of it."""

    adapter: Adapter
    adapter_digest: Digest
    layout_digest: Digest
    tensors_digest: Digest
    budget: float
    error: float
    config: Digest
    attachments: tuple[FileEntry, ...]
    original: tuple[FileEntry, ...]
    remarks: tuple[str, ...]
    report: Report
    objects: dict[Digest, bytes] = field(repr=False)

    def store(self, store: "Store") -> int:
        """Make every object durable; return the bytes that were not there before."""
        return sum(len(content) for digest, content in self.objects.items() if store.put(content, digest))

    def new_bytes(self, store: "Store") -> int:
        """Return the bytes that storing would add."""
        return sum(len(content) for digest, content in self.objects.items() if not store.has(digest))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """What an adapter may be coded against.

    Attributes:
        previous: Adapter object of the version before, or of the declared parent.
        sources: Adapter objects whose rows may be referred to, most promising first.
        lost: Those that cannot be read, and are left out.
    """

    previous: Digest | None = None
    sources: tuple[Digest, ...] = ()
    lost: tuple[Digest, ...] = ()


def prepare(
    home: "Home",
    space: SpaceName,
    task: TaskName,
    adapter: Adapter,
    *,
    policy: Policy,
    parents: Sequence[TaskVersionRef],
    siblings: Sequence[Prepared] = (),
) -> Prepared:
    """Absorb an adapter against what the space holds, in memory.

    Args:
        home: The registry.
        space: Where it goes; may not exist yet.
        task: The task.
        adapter: The adapter.
        policy: Budget, and whether references may be used.
        parents: What it is declared to be derived from.
        siblings: Adapters prepared before for the same commit: it may refer to their rows, and must agree with their shapes.

    Raises:
        Refused: a module has another shape than in the space.
        Integrity: the bit-exact lane lost a bit (a defect; nothing is written).
    """
    reader = home.reader().beside({digest: content for sibling in siblings for digest, content in sibling.objects.items()})
    with home.catalog.begin() as session:
        check_shapes(queries.module_shapes(session, space), space, adapter.layout)
        base = _base(session, space, task, parents) if policy.references and policy.budget > 0 else None
    for sibling in siblings:
        check_shapes(module_shapes_of(sibling.adapter.layout), space, adapter.layout)
    found = _extended(base, reader, [sibling.adapter_digest for sibling in siblings]) if base is not None else _Base()
    pairs = pairs_of(adapter.layout, adapter.tensors, module_scales(adapter.config, adapter.layout))
    stored, external, reason = _stored(reader, adapter, pairs, found, policy)
    with home.catalog.begin() as session:
        names, lost = called(session, space, stored.sources), called(session, space, found.lost)
    remarks = [f"{name} could not be read and was not referred to: run verify." for name in lost]
    adapter = _remarked(adapter, *remarks, *([_unused(policy, reason)] if reason and pairs else []))
    return _measured(reader, adapter, pairs, stored, external, policy, names)


def check_shapes(known: Mapping[str, tuple[int, int, int]], space: SpaceName, layout: Layout) -> None:
    """Check that every module has the shape it is known by: (out, in, experts). Raises Refused naming the first that differs."""
    for module, shape in module_shapes_of(layout).items():
        if known.get(module, shape) != shape:
            raise Refused(
                f"module {module!r} is {_shape(shape)}, in space {space!r} it is {_shape(known[module])}.",
                hint="It was trained on another base model: commit it to another space.",
            )


def _shape(shape: tuple[int, int, int]) -> str:
    out, width, experts = shape
    return f"{out} x {width}" if experts == 1 else f"{experts} experts of {out} x {width}"


def _base(session: "Session", space: SpaceName, task: TaskName, parents: Sequence[TaskVersionRef]) -> _Base:
    latest = queries.latest_version(session, space, task)
    previous = latest.adapter_digest if latest is not None else _parent(session, space, parents)
    return _Base(previous=previous, sources=tuple(queries.candidate_adapters(session, space, first=FIRST_CANDIDATES, latest=LATEST_CANDIDATES)))


def _extended(base: _Base, reader: Reader, siblings: Sequence[Digest]) -> _Base:
    """Put the version before, what it refers to, and the adapters of the same commit first among the sources; cut a chain too long to read (spec DEC-09).

    What cannot be read is left out: it would make the new version unreadable too, and must not keep a sound adapter from being committed.
    """
    before = base.previous
    near = (before, *reader.open(before).stored.sources) if before is not None and _readable(reader, before) else ()
    wanted = tuple(dict.fromkeys((*near, *siblings[:FIRST_CANDIDATES], *base.sources)))[:MAX_CANDIDATES]
    sources = tuple(digest for digest in wanted if _readable(reader, digest))
    lost = {digest for digest in wanted if digest not in sources}
    if before is not None and not _readable(reader, before, rows=True):
        lost.add(before)
        before = None
    return _Base(previous=before if before is not None and reader.chain(before) < MAX_CHAIN else None, sources=sources, lost=tuple(sorted(lost)))


def _readable(reader: Reader, digest: Digest, *, rows: bool = False) -> bool:
    """Tell whether an adapter object, or also all that its rows are decoded from, is there and whole."""
    try:
        reader.open(digest)
        if rows:
            reader.rows(digest)
    except (Integrity, NotFound) as error:
        _LOG.warning("adapter object %s cannot be read: %s", digest, error)
        return False
    return True


def _parent(session: "Session", space: SpaceName, parents: Sequence[TaskVersionRef]) -> Digest | None:
    found = queries.version_row(session, space, parents[0].task, parents[0].version) if parents else None
    return found.adapter_digest if found is not None else None


def _stored(reader: Reader, adapter: Adapter, pairs: list[Pair], base: _Base, policy: Policy) -> tuple[StoredAdapter, dict[Digest, bytes], str]:
    """Return the adapter as it would be stored, the objects of its large passengers, and why it is kept bit for bit although a budget allows more."""
    layout = adapter.layout

    tried: list[int] = []

    def assembled(made: Absorbed) -> tuple[StoredAdapter, dict[Digest, bytes]]:
        return assemble(adapter, made.modules, base.previous if made.previous else None, [base.sources[number] for number in made.sources])

    def size(made: Absorbed) -> int:
        tried.extend(1 for module in made.modules if module is not None)
        return len(encode(assembled(made)[0], layout))

    made = absorb(
        pairs,
        budget=policy.budget,
        dtypes=_dtypes(layout),
        candidates=[_candidate(reader, number, digest, layout) for number, digest in enumerate(base.sources)],
        previous=_previous_rows(reader, base.previous, layout) if base.previous else None,
        factors=[number for number, factor in enumerate(layout.factors) for _ in range(factor.experts)],
        size=size,
    )
    reason = "" if any(made.modules) or policy.budget == 0 else "coded, the adapter would not be smaller" if tried else _COARSE
    return *assembled(made), reason


def assemble(
    adapter: Adapter, modules: Sequence[StoredModule | None], previous: Digest | None, sources: Sequence[Digest]
) -> tuple[StoredAdapter, dict[Digest, bytes]]:
    """Put coded modules and tensors kept bit for bit together. Returns the adapter and the objects of its large passengers."""
    layout = adapter.layout
    external: dict[Digest, bytes] = {}
    places: dict[int, Digest] = {}
    verbatim: dict[int, bytes] = {}
    for index in sorted({*layout.passengers, *_uncoded(layout, modules)}):
        spec = layout.tensors[index]
        content = bytes(item_of(spec.key, adapter.tensors[spec.key]).content)
        if index in layout.passengers and len(content) >= EXTERNAL_BYTES:
            packed = encode_tensor(content, dtype=spec.dtype)
            places[index] = sha256(packed)
            external[places[index]] = packed
        else:
            verbatim[index] = content
    stored = StoredAdapter(
        layout=sha256(layout.to_bytes()), previous=previous, sources=tuple(sources), modules=tuple(modules), verbatim=verbatim, external=places
    )
    return stored, external


def _measured(
    reader: Reader, adapter: Adapter, pairs: list[Pair], stored: StoredAdapter, external: dict[Digest, bytes], policy: Policy, names: Sequence[str]
) -> Prepared:
    """Decode what would be stored, as a checkout would, and record the error of exactly that."""
    content = encode(stored, adapter.layout)
    objects = {sha256(content): content, stored.layout: adapter.layout.to_bytes()} | external
    reader = reader.beside(objects)
    tensors = reader.tensors(sha256(content))
    decoded = pairs_of(adapter.layout, tensors, [pair.scale for pair in pairs])
    error, by_module = pooled_error(decoded, pairs), module_errors(decoded, pairs)
    if not any(stored.modules):
        _check_exact(adapter, tensors)
        error, by_module = 0.0, [0.0] * len(pairs)
    elif error > policy.budget:
        exact, external = assemble(adapter, [None] * len(pairs), None, ())
        return _measured(reader, _remarked(adapter, _unused(policy, _COARSE)), pairs, exact, external, policy, ())
    files = _files(adapter, policy)
    objects |= files.objects
    report = Report(
        error=error,
        budget=policy.budget,
        bytes_added=0,
        raw_bytes=adapter.raw_bytes,
        modules=module_reports(stored, adapter.layout, by_module, names),
        notes=adapter.remarks,
    )
    return Prepared(
        adapter=adapter,
        adapter_digest=sha256(content),
        layout_digest=stored.layout,
        tensors_digest=sha256(tensor_file(adapter.layout, tensors)),
        budget=policy.budget,
        error=error,
        config=files.config,
        attachments=files.attachments,
        original=files.original,
        remarks=adapter.remarks,
        report=report,
        objects=objects,
    )


def _remarked(adapter: Adapter, *remarks: str) -> Adapter:
    return replace(adapter, remarks=(*adapter.remarks, *remarks))


def _unused(policy: Policy, reason: str) -> str:
    return f"the budget of {policy.budget:g} could not be used, every bit is kept: {reason}."


def _check_exact(adapter: Adapter, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that the bit-exact lane gave back every bit. Raises Integrity."""
    for spec in adapter.layout.tensors:
        if item_of(spec.key, tensors[spec.key]) != item_of(spec.key, adapter.tensors[spec.key]):
            raise Integrity(
                f"tensor {spec.key!r} did not come back bit for bit from what would be stored.", hint="Nothing was written. This is a defect: please report it."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    config: Digest
    attachments: tuple[FileEntry, ...]
    original: tuple[FileEntry, ...]
    objects: dict[Digest, bytes]


def _files(adapter: Adapter, policy: Policy) -> _Files:
    objects = {sha256(adapter.config_bytes): adapter.config_bytes}
    attachments = tuple(_entry(name, content, objects) for name, content in sorted(adapter.attachments.items()))
    kept = adapter.original if policy.keep_original else {}
    original = tuple(_entry(name, content, objects) for name, content in sorted(kept.items()))
    return _Files(config=sha256(adapter.config_bytes), attachments=attachments, original=original, objects=objects)


def _entry(name: str, content: bytes, objects: dict[Digest, bytes]) -> FileEntry:
    digest = sha256(content)
    objects[digest] = content
    return FileEntry(name=name, object=digest, size=len(content))


def _dtypes(layout: Layout) -> list[tuple[torch.dtype, torch.dtype]]:
    return [(TORCH[layout.tensors[factor.a].dtype], TORCH[layout.tensors[factor.b].dtype]) for factor in layout.factors for _ in range(factor.experts)]


def _candidate(reader: Reader, number: int, digest: Digest, layout: Layout) -> Candidate:
    opened = reader.open(digest)
    widths = {shape.module: (shape.in_, shape.out) for shape in layout.modules()}
    found = {shape.module: opened.module(shape.module) for shape in opened.layout.modules() if (shape.in_, shape.out) == widths.get(shape.module)}
    return Candidate(source=number, modules=[found.get(name) for name in widths])


def _previous_rows(reader: Reader, digest: Digest, layout: Layout) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
    opened, rows = reader.open(digest), reader.rows(digest)
    before = {shape.module: shape for shape in opened.layout.modules()}
    return [rows[opened.modules[shape.module]] if before.get(shape.module) == shape else None for shape in layout.modules()]


def _uncoded(layout: Layout, modules: Sequence[StoredModule | None]) -> set[int]:
    """Return the tensors of the factor pairs that are not coded."""
    found: set[int] = set()
    position = 0
    for factor in layout.factors:
        if modules[position] is None:
            found |= {factor.a, factor.b}
        position += factor.experts
    return found
