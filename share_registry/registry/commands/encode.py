"""Encode one adapter: from its tensors to the objects that are stored, measured before any is.

The algebra proposes integers; the bytes they lead to are decoded again as a checkout would, and the
error of exactly those tensors is what the commit records. Where it exceeds the budget the adapter
is kept bit for bit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from share_registry.algebra.absorb import CodedAdapter, absorb
from share_registry.algebra.batch import energies
from share_registry.algebra.error import FactorPair, module_errors, norm, pooled_error
from share_registry.algebra.project import project
from share_registry.catalog.queries import lookups
from share_registry.catalog.sql import Session
from share_registry.errors import BudgetExceededError, IntegrityError, RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.export_files import tensor_file
from share_registry.exchange.factor_pairs import (
    factor_dtypes,
    factor_positions,
    move_to_device,
)
from share_registry.exchange.tensors import item_of
from share_registry.format import adapter_object
from share_registry.format.canonical import sha256
from share_registry.format.layout import Layout, module_shapes_of
from share_registry.format.object_file import encode_tensor
from share_registry.format.records import FileEntry, TaskNote, TaskVersionRef
from share_registry.materialize.decoder import Reader
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.registry.checkout.reports import source_name, with_details
from share_registry.registry.commands import prediction
from share_registry.registry.commands.prediction import References, choose_references
from share_registry.registry.context import Context
from share_registry.store.protocol import Store
from share_registry.stored import StoredAdapter, StoredModule
from share_registry.values.commits import AdapterReport, BasisReport
from share_registry.values.policy import Policy

# Passengers from this size on are objects of their own, shared by every adapter that has the same
# bytes.
EXTERNAL_BYTES: Final = 64 << 10
_ZERO: Final = "no module has a product to code"
# Why an adapter is kept bit for bit where no coding of it is within the budget
_COARSE: Final = "the precision of the tensors' element types does not meet it"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedAdapter:
    """One adapter ready to be stored, and what its commit says of it.

    Attributes:
        adapter: What it was read as.
        digest: Of its adapter object.
        layout_digest: Of its layout.
        tensors_digest: Of the tensor file that export writes.
        norm: Frobenius norm of the scaled dW that the error is relative to.
        sources: Objects that the adapter object refers to.
        note: Its config and other files, and where it came from.
        report: What it costs; `budget` is None where loss is allowed without a limit.
        objects: Those that are not stored yet.
        added_bytes: Bytes of those that are, as far as they were new.
    """

    adapter: Adapter
    digest: Digest
    layout_digest: Digest
    tensors_digest: Digest
    norm: float
    sources: tuple[Digest, ...]
    note: TaskNote
    report: AdapterReport
    objects: Mapping[Digest, bytes] = field(repr=False)
    added_bytes: int = 0

    def store(self, store: Store) -> "EncodedAdapter":
        """Make every object durable; return the adapter without them and without its tensors."""
        added_bytes = self.added_bytes + sum(
            len(content) for digest, content in self.objects.items() if store.put(content, digest)
        )
        head = replace(self.adapter, tensors={}, attachments={}, original={})
        return replace(self, adapter=head, objects={}, added_bytes=added_bytes)

    def new_bytes(self, store: Store) -> int:
        """Return the bytes that storing adds."""
        return self.added_bytes + sum(
            len(content) for digest, content in self.objects.items() if not store.has(digest)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBasis:
    """A basis object that may not be stored yet, and what a commit says of it."""

    digest: Digest
    content: bytes = field(repr=False)
    report: BasisReport


@dataclass(frozen=True, slots=True, kw_only=True)
class SerializedAdapter:
    """An adapter in integers and as objects.

    Attributes:
        objects: The adapter object, its layout and its large passengers.
        reason: Why it is kept bit for bit although a budget allows more; empty where it is not.
    """

    stored: StoredAdapter
    digest: Digest
    objects: Mapping[Digest, bytes] = field(repr=False)
    reason: str = ""


def encode_adapter(
    context: Context,
    space: SpaceName,
    task: TaskName,
    adapter: Adapter,
    *,
    policy: Policy,
    parents: Sequence[TaskVersionRef],
    siblings: Sequence[EncodedAdapter] = (),
    basis: NewBasis | None = None,
) -> EncodedAdapter:
    """Encode an adapter against what its space holds, in memory.

    Args:
        context: The registry.
        space: Where it goes; may not exist yet.
        task: The task.
        adapter: The adapter.
        policy: Budget, and whether references may be used; with `k`, coefficients over `basis` are
            all that is kept.
        parents: What it is declared to be derived from.
        siblings: Adapters encoded before for the same commit, whose rows it may refer to.
        basis: A basis made for this commit.

    Raises:
        BudgetExceededError: the pseudo-rank keeps it from its budget.
        IntegrityError: the bit-exact lane lost a bit (a defect; nothing is written).
    """
    objects = {
        digest: content for sibling in siblings for digest, content in sibling.objects.items()
    }
    if basis is not None:
        objects[basis.digest] = basis.content
    reader = context.reader().beside(objects)
    pairs = adapter.factor_pairs()
    on_device = move_to_device(pairs, context.device)
    references = choose_references(
        context,
        reader,
        space,
        task,
        policy,
        parents=parents,
        bases=[digest for digest in (basis and basis.digest, adapter.basis) if digest],
        siblings=[sibling.digest for sibling in siblings],
    )
    if policy.k and basis is not None:
        coded = project_onto(reader, adapter, on_device, basis.digest, policy)
    else:
        coded = code_within_budget(reader, adapter, on_device, references, policy)
    decoded = decode(reader, coded, adapter)
    modules = decoded.factor_pairs()
    error, errors = 0.0, [0.0] * len(pairs)
    if any(coded.stored.modules):
        error, errors = pooled_error(modules, pairs), module_errors(modules, pairs)
    if error > policy.budget and not policy.k:
        coded = replace(serialize(adapter, [None] * len(pairs), None, ()), reason=_COARSE)
        decoded = decode(reader, coded, adapter)
        modules = decoded.factor_pairs()
        error, errors = 0.0, [0.0] * len(pairs)
    if not any(coded.stored.modules):
        _check_exact(adapter, decoded.tensors)
    with context.catalog.begin() as session:
        lost = [source_name(session, space, digest) for digest in references.lost]
        names = [source_name(session, space, digest) for digest in coded.stored.sources]
    remarks = [f"{name} could not be read and was not referred to: run verify." for name in lost]
    if coded.reason and pairs:
        remarks.append(
            f"the budget of {policy.budget:g} could not be used, every bit is kept: {coded.reason}."
        )
    adapter = replace(adapter, remarks=(*adapter.remarks, *remarks))
    report = AdapterReport(
        error=error,
        budget=None if policy.k else policy.budget,
        bytes_added=0,
        raw_bytes=adapter.raw_bytes,
        notes=adapter.remarks,
    )
    note, files = _files(task, adapter, policy)
    return EncodedAdapter(
        adapter=adapter,
        digest=coded.digest,
        layout_digest=coded.stored.layout,
        tensors_digest=sha256(tensor_file(adapter.layout, decoded.tensors)),
        norm=norm(pairs),
        sources=coded.stored.sources,
        note=note,
        report=with_details(
            report,
            coded.stored,
            adapter.layout,
            modules,
            errors=errors,
            names=names,
        ),
        objects={**coded.objects, **files},
    )


def check_shapes(session: Session, space: SpaceName, layouts: Iterable[Layout]) -> None:
    """Check that every module has the shape that it has in the space and in the other layouts.

    Raises RefusedError naming the first that differs.
    """
    shapes = dict(lookups.module_shapes(session, space))
    for layout in layouts:
        for module, shape in module_shapes_of(layout).items():
            if shapes.setdefault(module, shape) != shape:
                raise RefusedError(
                    f"module {module!r} is {_shape_text(shape)}, in space {space!r} it is "
                    f"{_shape_text(shapes[module])}.",
                    hint="It was trained on another base model: commit it to another space.",
                )


def _shape_text(shape: tuple[int, int, int]) -> str:
    out, width, experts = shape
    return f"{out} x {width}" if experts == 1 else f"{experts} experts of {out} x {width}"


def project_onto(
    reader: Reader, adapter: Adapter, pairs: Sequence[FactorPair], basis: Digest, policy: Policy
) -> SerializedAdapter:
    """Project an adapter onto a basis, on the device of its pairs.

    The error is not limited: it is the caller's to record.
    """
    coded = project(
        pairs,
        basis=prediction.candidate(reader, basis, adapter.layout),
        dtypes=factor_dtypes(adapter.layout),
        pseudo_rank=policy.pseudo_rank,
        factors=factor_positions(adapter.layout),
    )
    return serialize(adapter, coded.modules, None, [basis] if coded.sources else [])


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
    outcomes: list[tuple[CodedAdapter, SerializedAdapter]] = []

    def size(coded: CodedAdapter) -> int:
        serialized = serialize(
            adapter,
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
        candidates=[prediction.candidate(reader, digest, layout) for digest in references.sources],
        previous=prediction.previous_rows(reader, references.previous, layout)
        if references.previous
        else None,
        factors=factor_positions(layout),
        size=size,
        pseudo_rank=policy.pseudo_rank,
    )
    largest_rank = max((pair.a.shape[0] for pair in pairs), default=0)
    is_cut = policy.pseudo_rank is not None and policy.pseudo_rank < largest_rank
    if is_cut and not any(best.modules):
        raise BudgetExceededError(
            f"the adapter cannot be kept within {policy.budget:g} with a pseudo-rank of "
            f"{policy.pseudo_rank}.",
            hint="Give a larger budget or pseudo-rank, or leave the pseudo-rank to the budget.",
        )
    serialized = next((serialized for coded, serialized in outcomes if coded is best), None)
    if serialized is None:
        serialized = serialize(adapter, best.modules, None, ())
    if any(best.modules) or policy.budget == 0:
        return serialized
    if any(any(coded.modules) for coded, _ in outcomes):
        return replace(serialized, reason="coded, the adapter would not be smaller")
    return replace(serialized, reason=_COARSE if any(energies(pairs)) else _ZERO)


def serialize(
    adapter: Adapter,
    modules: Sequence[StoredModule | None],
    previous: Digest | None,
    sources: Sequence[Digest],
) -> SerializedAdapter:
    """Serialize coded modules and the tensors that are kept bit for bit.

    Args:
        adapter: Has the tensors.
        modules: By position in `Layout.modules()`; None: keep the tensors of its factor pair.
        previous: Adapter object whose decoded factors enter.
        sources: Objects that the modules refer to.
    """
    layout, layout_bytes = adapter.layout, adapter.layout.to_bytes()
    passengers: dict[Digest, bytes] = {}
    external: dict[int, Digest] = {}
    verbatim: dict[int, bytes] = {}
    for index in sorted({*layout.passengers, *_uncoded(layout, modules)}):
        spec = layout.tensors[index]
        content = bytes(item_of(spec.key, adapter.tensors[spec.key]).content)
        if index in layout.passengers and len(content) >= EXTERNAL_BYTES:
            packed = encode_tensor(content, dtype=spec.dtype)
            external[index] = sha256(packed)
            passengers[external[index]] = packed
        else:
            verbatim[index] = content
    stored = StoredAdapter(
        layout=sha256(layout_bytes),
        previous=previous,
        sources=tuple(sources),
        modules=tuple(modules),
        verbatim=verbatim,
        external=external,
    )
    content = adapter_object.encode(stored, layout)
    digest = sha256(content)
    objects = {digest: content, stored.layout: layout_bytes} | passengers
    return SerializedAdapter(stored=stored, digest=digest, objects=objects)


def decode(reader: Reader, serialized: SerializedAdapter, adapter: Adapter) -> Adapter:
    """Decode an adapter that is not stored yet, as a checkout would."""
    tensors = reader.beside(serialized.objects).tensors(serialized.digest)
    return replace(adapter, tensors=tensors)


def _check_exact(adapter: Adapter, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that the bit-exact lane gave back every bit. Raises IntegrityError."""
    for spec in adapter.layout.tensors:
        if item_of(spec.key, tensors[spec.key]) != item_of(spec.key, adapter.tensors[spec.key]):
            raise IntegrityError(
                f"tensor {spec.key!r} did not come back bit for bit from what would be stored.",
                hint="Nothing was written. This is a defect: please report it.",
            )


def _files(
    task: TaskName, adapter: Adapter, policy: Policy
) -> tuple[TaskNote, dict[Digest, bytes]]:
    """Return what the note says of an adapter's files, and the files as objects."""
    config = sha256(adapter.config_bytes)
    objects = {config: adapter.config_bytes}

    def entries(files: Mapping[str, bytes]) -> list[FileEntry]:
        listed = []
        for name, content in sorted(files.items()):
            listed.append(FileEntry(name=name, object=sha256(content), size=len(content)))
            objects[listed[-1].object] = content
        return listed

    note = TaskNote(
        task=task,
        source=adapter.source,
        config=config,
        attachments=entries(adapter.attachments),
        original=entries(adapter.original if policy.keep_original else {}),
    )
    return note, objects


def _uncoded(layout: Layout, modules: Sequence[StoredModule | None]) -> set[int]:
    """Return the tensors of the factor pairs that are not coded."""
    return {
        index
        for position, number in enumerate(factor_positions(layout))
        if modules[position] is None
        for index in (layout.factors[number].a, layout.factors[number].b)
    }
