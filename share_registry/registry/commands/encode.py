"""Absorb one adapter.

From foreign tensors to the objects of a commit, measured before anything is written.

The algebra proposes; the bytes it leads to are decoded again as a checkout would, and the error of
exactly those tensors is what the commit records. Where it exceeds the budget the adapter is kept
bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch

from share_registry.algebra.absorb import absorb
from share_registry.algebra.batch import energies
from share_registry.algebra.error import module_errors, norm, pooled_error
from share_registry.algebra.outcome import CodedAdapter
from share_registry.algebra.project import project
from share_registry.catalog.queries import lookups
from share_registry.errors import BudgetExceededError, IntegrityError, RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.export_files import tensor_file
from share_registry.exchange.factor_pairs import (
    FactorPair,
    factor_dtypes,
    factor_positions,
    move_to_device,
    pairs_of,
)
from share_registry.exchange.tensors import item_of
from share_registry.format.adapter_object import encode
from share_registry.format.canonical import sha256
from share_registry.format.layout import Layout, module_shapes_of
from share_registry.format.records import FileEntry, TaskVersionRef
from share_registry.format.tensor_object import encode_tensor
from share_registry.materialize.decoder import Reader
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.registry.checkout.reports import source_name, with_details
from share_registry.registry.commands import prediction
from share_registry.registry.commands.prediction import ChosenReferences, base_of
from share_registry.stored import StoredAdapter, StoredModule
from share_registry.values.commits import AdapterReport, BasisModuleReport, BasisReport
from share_registry.values.policy import Policy

if TYPE_CHECKING:
    from share_registry.registry.context import Context
    from share_registry.store.protocol import Store

EXTERNAL_BYTES: Final = 64 << 10
"""Passengers from this size on are objects of their own, shared by every adapter that carries the same bytes."""
_ZERO: Final = "no module has a product to code"
_COARSE: Final = "the precision of the tensors' element types does not meet it"
"""Why an adapter is kept bit for bit where no coding of it is within the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedAdapter:
    """One adapter ready to be stored: its objects in memory and what the record will say of it.

    Attributes:
        budget: The largest error allowed; None where loss is allowed without a limit.
        norm: Frobenius norm of the scaled dW that `error` is relative to.
        sources: Objects that the adapter object refers to.
        objects: Those that are not stored yet.
        added: Bytes of those that are, as far as they were new.
    """

    adapter: Adapter
    adapter_digest: Digest
    layout_digest: Digest
    tensors_digest: Digest
    budget: float | None
    error: float
    norm: float
    sources: tuple[Digest, ...]
    config: Digest
    attachments: tuple[FileEntry, ...]
    original: tuple[FileEntry, ...]
    remarks: tuple[str, ...]
    report: AdapterReport
    objects: dict[Digest, bytes] = field(repr=False)
    added: int = 0

    def store(self, store: "Store") -> int:
        """Make every object durable; return the bytes that were not there before."""
        return self.added + sum(
            len(content) for digest, content in self.objects.items() if store.put(content, digest)
        )

    def new_bytes(self, store: "Store") -> int:
        """Return the bytes that storing adds."""
        return self.added + sum(
            len(content) for digest, content in self.objects.items() if not store.has(digest)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBasis:
    """A basis in the making: its object, its bytes, and its directions."""

    digest: Digest
    content: bytes = field(repr=False)
    modules: tuple[BasisModuleReport, ...] = ()

    @property
    def report(self) -> BasisReport:
        """What a commit says of it."""
        return BasisReport(digest=self.digest, size_bytes=len(self.content), modules=self.modules)


def prepare(
    context: "Context",
    space: SpaceName,
    task: TaskName,
    adapter: Adapter,
    *,
    policy: Policy,
    parents: Sequence[TaskVersionRef],
    siblings: Sequence[EncodedAdapter] = (),
    fitted: NewBasis | None = None,
) -> EncodedAdapter:
    """Absorb an adapter against what the space holds, in memory.

    Args:
        context: The registry.
        space: Where it goes; may not exist yet.
        task: The task.
        adapter: The adapter.
        policy: Budget, and whether references may be used; with `k`, coefficients over `fitted` are
            all that is kept.
        parents: What it is declared to be derived from.
        siblings: Adapters prepared before for the same commit: it may refer to their rows, and must
            agree with their shapes.
        fitted: A basis made for this commit.

    Raises:
        RefusedError: a module has another shape than in the space.
        BudgetExceededError: the pseudo-rank keeps it from its budget.
        IntegrityError: the bit-exact lane lost a bit (a defect; nothing is written).
    """
    objects = {
        digest: content for sibling in siblings for digest, content in sibling.objects.items()
    }
    reader = context.reader().beside(objects | ({fitted.digest: fitted.content} if fitted else {}))
    with context.catalog.begin() as session:
        check_shapes(lookups.module_shapes(session, space), space, adapter.layout)
        offered = (
            prediction.known(session, space, task, parents)
            if policy.references and policy.budget > 0 and not policy.k
            else None
        )
    for sibling in siblings:
        check_shapes(module_shapes_of(sibling.adapter.layout), space, adapter.layout)
    bases = [digest for digest in (fitted.digest if fitted else None, adapter.basis) if digest]
    found = (
        base_of(
            offered, reader, bases=bases, siblings=[sibling.adapter_digest for sibling in siblings]
        )
        if offered is not None
        else ChosenReferences()
    )
    pairs = adapter.factor_pairs()
    if policy.k and fitted is not None:
        return _measured(
            context,
            space,
            reader,
            adapter,
            pairs,
            projected(
                reader, adapter, move_to_device(pairs, context.device), fitted.digest, policy
            ),
            policy,
        )
    made = coded(reader, adapter, move_to_device(pairs, context.device), found, policy)
    with context.catalog.begin() as session:
        lost = [source_name(session, space, digest) for digest in found.lost]
    remarks = [f"{name} could not be read and was not referred to: run verify." for name in lost]
    adapter = _remarked(
        adapter, *remarks, *([_unused(policy, made.reason)] if made.reason and pairs else [])
    )
    return _measured(context, space, reader, adapter, pairs, made, policy)


def check_shapes(
    known: Mapping[str, tuple[int, int, int]], space: SpaceName, layout: Layout
) -> None:
    """Check that every module has the shape it is known by: (out, in, experts).

    Raises RefusedError naming the first that differs.
    """
    for module, shape in module_shapes_of(layout).items():
        if known.get(module, shape) != shape:
            raise RefusedError(
                f"module {module!r} is {_shape(shape)}, in space {space!r} it is {_shape(known[module])}.",
                hint="It was trained on another base model: commit it to another space.",
            )


def _shape(shape: tuple[int, int, int]) -> str:
    out, width, experts = shape
    return f"{out} x {width}" if experts == 1 else f"{experts} experts of {out} x {width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledAdapter:
    """A stored adapter and what belongs to it.

    Attributes:
        external: The objects of its large passengers.
        content: Its bytes, where they have been made.
        reason: Why it is kept bit for bit although a budget allows more; empty where it is not.
    """

    stored: StoredAdapter
    external: dict[Digest, bytes] = field(repr=False)
    content: bytes | None = field(default=None, repr=False)
    reason: str = ""


def projected(
    reader: Reader, adapter: Adapter, pairs: Sequence[FactorPair], basis: Digest, policy: Policy
) -> AssembledAdapter:
    """Return an adapter as coefficients over a basis alone, whatever error that makes.

    Computed where its pairs are.
    """
    blocks = prediction.candidate(reader, 0, basis, adapter.layout)
    made = project(
        pairs,
        basis=blocks.modules,
        dtypes=factor_dtypes(adapter.layout),
        pseudo_rank=policy.pseudo_rank,
        factors=factor_positions(adapter.layout),
    )
    return assemble(adapter, made.modules, None, [basis] if made.sources else [])


def coded(
    reader: Reader,
    adapter: Adapter,
    pairs: list[FactorPair],
    base: ChosenReferences,
    policy: Policy,
) -> AssembledAdapter:
    """Return the adapter as it would be stored; computed where its pairs are."""
    layout = adapter.layout
    tried: list[tuple[CodedAdapter, AssembledAdapter]] = []

    def size(made: CodedAdapter) -> int:
        found = assemble(
            adapter,
            made.modules,
            base.previous if made.previous else None,
            [base.sources[number] for number in made.sources],
        )
        content = encode(found.stored, layout)
        tried.append((made, replace(found, content=content)))
        return len(content)

    made = absorb(
        pairs,
        budget=policy.budget,
        dtypes=factor_dtypes(layout),
        candidates=[
            prediction.candidate(reader, number, digest, layout)
            for number, digest in enumerate(base.sources)
        ],
        previous=prediction.previous_rows(reader, base.previous, layout) if base.previous else None,
        factors=factor_positions(layout),
        size=size,
        pseudo_rank=policy.pseudo_rank,
    )
    if (
        policy.pseudo_rank is not None
        and policy.pseudo_rank < max((pair.a.shape[0] for pair in pairs), default=0)
        and not any(made.modules)
    ):
        raise BudgetExceededError(
            f"the adapter cannot be kept within {policy.budget:g} with a pseudo-rank of {policy.pseudo_rank}.",
            hint="Give a larger budget or pseudo-rank, or leave the pseudo-rank to the budget.",
        )
    known = next((found for outcome, found in tried if outcome is made), None) or assemble(
        adapter, made.modules, None, ()
    )
    could = any(any(outcome.modules) for outcome, _ in tried)
    reason = (
        ""
        if any(made.modules) or policy.budget == 0
        else "coded, the adapter would not be smaller"
        if could
        else _COARSE
        if any(energies(pairs))
        else _ZERO
    )
    return replace(known, reason=reason)


def assemble(
    adapter: Adapter,
    modules: Sequence[StoredModule | None],
    previous: Digest | None,
    sources: Sequence[Digest],
) -> AssembledAdapter:
    """Put coded modules and tensors kept bit for bit together."""
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
        layout=sha256(layout.to_bytes()),
        previous=previous,
        sources=tuple(sources),
        modules=tuple(modules),
        verbatim=verbatim,
        external=places,
    )
    return AssembledAdapter(stored=stored, external=external)


@dataclass(frozen=True, slots=True, kw_only=True)
class SerializedAdapter:
    """A stored adapter as bytes, and what a checkout of them gives.

    Attributes:
        digest: Of the adapter object.
        objects: The adapter object, its layout and its large passengers.
        tensors: What a checkout gives, under PEFT's keys.
        tensors_digest: Of the tensor file that export writes.
        decoded: Its modules.
    """

    digest: Digest
    objects: dict[Digest, bytes] = field(repr=False)
    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    tensors_digest: Digest
    decoded: list[FactorPair] = field(repr=False)


def sealed(
    reader: Reader, layout: Layout, made: AssembledAdapter, scales: Sequence[float]
) -> SerializedAdapter:
    """Return a stored adapter as bytes, decoded again as a checkout would."""
    content = encode(made.stored, layout) if made.content is None else made.content
    digest = sha256(content)
    objects = {digest: content, made.stored.layout: layout.to_bytes()} | made.external
    tensors = reader.beside(objects).tensors(digest)
    return SerializedAdapter(
        digest=digest,
        objects=objects,
        tensors=tensors,
        tensors_digest=sha256(tensor_file(layout, tensors)),
        decoded=pairs_of(layout, tensors, scales),
    )


def _measured(
    context: "Context",
    space: SpaceName,
    reader: Reader,
    adapter: Adapter,
    pairs: list[FactorPair],
    assembled: AssembledAdapter,
    policy: Policy,
) -> EncodedAdapter:
    """Decode what would be stored, as a checkout would, and record the error of exactly that."""
    stored = assembled.stored
    made = sealed(reader, adapter.layout, assembled, [pair.scale for pair in pairs])
    error, by_module = pooled_error(made.decoded, pairs), module_errors(made.decoded, pairs)
    if not any(stored.modules):
        _check_exact(adapter, made.tensors)
        error, by_module = 0.0, [0.0] * len(pairs)
    elif error > policy.budget and not policy.k:
        return _measured(
            context,
            space,
            reader,
            _remarked(adapter, _unused(policy, _COARSE)),
            pairs,
            assemble(adapter, [None] * len(pairs), None, ()),
            policy,
        )
    with context.catalog.begin() as session:
        names = [source_name(session, space, digest) for digest in stored.sources]
    files = _files(adapter, policy)
    report = AdapterReport(
        error=error,
        budget=None if policy.k else policy.budget,
        bytes_added=0,
        raw_bytes=adapter.raw_bytes,
        notes=adapter.remarks,
    )
    return EncodedAdapter(
        adapter=adapter,
        adapter_digest=made.digest,
        layout_digest=stored.layout,
        tensors_digest=made.tensors_digest,
        budget=None if policy.k else policy.budget,
        error=error,
        norm=norm(pairs),
        sources=stored.sources,
        config=files.config,
        attachments=files.attachments,
        original=files.original,
        remarks=adapter.remarks,
        report=with_details(
            report, stored, adapter.layout, made.decoded, errors=by_module, names=names
        ),
        objects=made.objects | files.objects,
    )


def _remarked(adapter: Adapter, *remarks: str) -> Adapter:
    return replace(adapter, remarks=(*adapter.remarks, *remarks))


def _unused(policy: Policy, reason: str) -> str:
    return f"the budget of {policy.budget:g} could not be used, every bit is kept: {reason}."


def _check_exact(adapter: Adapter, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that the bit-exact lane gave back every bit. Raises IntegrityError."""
    for spec in adapter.layout.tensors:
        if item_of(spec.key, tensors[spec.key]) != item_of(spec.key, adapter.tensors[spec.key]):
            raise IntegrityError(
                f"tensor {spec.key!r} did not come back bit for bit from what would be stored.",
                hint="Nothing was written. This is a defect: please report it.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredFiles:
    config: Digest
    attachments: tuple[FileEntry, ...]
    original: tuple[FileEntry, ...]
    objects: dict[Digest, bytes]


def _files(adapter: Adapter, policy: Policy) -> _StoredFiles:
    objects = {sha256(adapter.config_bytes): adapter.config_bytes}
    attachments = tuple(
        _entry(name, content, objects) for name, content in sorted(adapter.attachments.items())
    )
    kept = adapter.original if policy.keep_original else {}
    original = tuple(_entry(name, content, objects) for name, content in sorted(kept.items()))
    return _StoredFiles(
        config=sha256(adapter.config_bytes),
        attachments=attachments,
        original=original,
        objects=objects,
    )


def _entry(name: str, content: bytes, objects: dict[Digest, bytes]) -> FileEntry:
    digest = sha256(content)
    objects[digest] = content
    return FileEntry(name=name, object=digest, size=len(content))


def _uncoded(layout: Layout, modules: Sequence[StoredModule | None]) -> set[int]:
    """Return the tensors of the factor pairs that are not coded."""
    found: set[int] = set()
    position = 0
    for factor in layout.factors:
        if modules[position] is None:
            found |= {factor.a, factor.b}
        position += factor.experts
    return found
