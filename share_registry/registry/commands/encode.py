"""Encode one adapter: from its tensors to the objects that are stored, measured before any is.

The error of exactly those tensors that the objects decode to is what the commit records. Where it
exceeds the budget the adapter is kept bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

from share_registry.exchange.adapter import Adapter, head_of
from share_registry.exchange.selection import module_scales
from share_registry.exchange.tensors import move_to_device, pairs_of
from share_registry.format.canonical import sha256
from share_registry.format.notes import CheckEntry, FileEntry, TaskNote
from share_registry.format.records import TaskVersionRef
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName
from share_registry.parallel import side_by_side
from share_registry.registry.admission import run_checks
from share_registry.registry.checkout.reports import describe_config, source_name, with_details
from share_registry.registry.commands.coding import (
    COARSE,
    choose_references,
    code_within_budget,
    keep_bits,
    project_onto,
)
from share_registry.registry.commands.measure import measure
from share_registry.registry.commands.preconditions import annotations
from share_registry.registry.context import Context
from share_registry.store.protocol import Store
from share_registry.values.cost_reports import AdapterReport, BasisReport
from share_registry.values.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedAdapter:
    """One adapter ready to be stored, and what its commit says of it.

    Attributes:
        adapter: What it was read as.
        digest: Of its adapter object.
        layout_digest: Of its layout.
        tensors_digest: Of the tensor file that export writes.
        norm: Frobenius norm of the scaled dW that the error is relative to.
        sources: Objects whose rows the adapter object refers to.
        previous: The adapter object whose decoded factors enter.
        note: Its config and other files, and where it came from.
        heads: Whether decoding it reads floats that are split.
        report: What it costs; `budget` is None where loss is allowed without a limit.
        objects: Those that are not stored yet.
        sizes: Bytes of those that are, as far as a record or its note names them.
        tensor_bytes: Bytes of those that are and that its adapter object names, as far as they
            were new.
        added_bytes: Bytes of those that are, as far as they were new.
    """

    adapter: Adapter
    digest: Digest
    layout_digest: Digest
    tensors_digest: Digest
    norm: float
    sources: tuple[Digest, ...]
    previous: Digest | None = None
    note: TaskNote
    heads: bool
    report: AdapterReport
    objects: Mapping[Digest, bytes] = field(repr=False)
    sizes: Mapping[Digest, int] = field(default_factory=dict, repr=False)
    tensor_bytes: int = 0
    added_bytes: int = 0

    @property
    def needs(self) -> tuple[Digest, ...]:
        """The objects that its adapter object refers to, apart from its layout and tensors."""
        return (*self.sources, *filter(None, [self.previous]))

    def store(self, store: Store) -> "EncodedAdapter":
        """Make every object durable; return the adapter without them and without its tensors."""
        put = side_by_side(
            lambda item: store.put(item[1], item[0]), [*self.objects.items()], threads=store.at_once
        )
        new = {*compress(self.objects, put)}
        for digest in filter(None, (self.layout_digest, self.note.config)):
            # more than one version needs it
            if digest in self.objects and digest not in new:
                store.keep_spare(self.objects[digest], digest)
        named = {self.digest, self.layout_digest, *named_objects(self.note)}
        sizes = {digest: len(content) for digest, content in self.objects.items()}
        return replace(
            self,
            adapter=head_of(self.adapter),
            objects={},
            sizes={**self.sizes, **{digest: sizes[digest] for digest in sizes.keys() & named}},
            tensor_bytes=self.tensor_bytes + sum(sizes[digest] for digest in new - named),
            added_bytes=self.added_bytes + sum(sizes[digest] for digest in new),
        )

    def annotated(
        self, labels: Mapping[str, str], metrics: Mapping[str, float]
    ) -> "EncodedAdapter":
        """Return the adapter with labels and metrics in its note."""
        note = self.note.model_copy(update=annotations(labels, metrics))
        return replace(self, note=note)

    def passed(self, checks: Sequence[CheckEntry]) -> "EncodedAdapter":
        """Return the adapter with the checks that it has passed in its note."""
        return replace(self, note=self.note.model_copy(update={"checks": [*checks]}))

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
    at: CommitNumber | None = None,
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
        at: The commit after which the space's adapters and basis are referred to; None for now.

    Raises:
        BudgetExceededError: the pseudo-rank keeps it from its budget.
        IntegrityError: the bit-exact lane lost a bit (a defect; nothing is written).
    """
    bases = {basis.digest: basis.content} if basis is not None else {}
    objects = {
        digest: content for sibling in siblings for digest, content in sibling.objects.items()
    }
    reader = context.reader().beside(objects | bases)
    scales = module_scales(adapter.config, adapter.layout)
    pairs = pairs_of(adapter.layout, adapter.tensors, scales, dtype=None)
    on_device = move_to_device(pairs, context.device)
    references = choose_references(
        context,
        reader,
        space,
        task,
        policy,
        parents=parents,
        bases=[*bases, *filter(None, [adapter.basis])],
        siblings=[sibling.digest for sibling in siblings],
        at=at,
    )
    if policy.k and basis is not None:
        coded = project_onto(reader, adapter, on_device, basis.digest, policy)
    else:
        coded = code_within_budget(reader, adapter, on_device, references, policy)
    fidelity = measure(reader, coded, adapter, pairs)
    if fidelity.error > policy.budget and not policy.k:
        coded = replace(keep_bits(adapter.layout, adapter.tensors), reason=COARSE)
        fidelity = measure(reader, coded, adapter, pairs)
    with context.catalog.begin() as session:
        lost = [source_name(session, space, digest) for digest in references.lost]
    remarks = [f"{name} could not be read and was not referred to: run verify." for name in lost]
    if coded.reason and pairs:
        remarks.append(
            f"the budget of {policy.budget:g} could not be used, every bit is kept: {coded.reason}."
        )
    adapter = replace(adapter, remarks=(*adapter.remarks, *remarks))
    note, files = _files(task, adapter, policy)
    return EncodedAdapter(
        adapter=adapter,
        digest=coded.digest,
        layout_digest=fidelity.stored.layout,
        tensors_digest=fidelity.tensors_digest,
        norm=fidelity.norm,
        sources=coded.sources,
        previous=fidelity.stored.previous,
        note=note,
        heads=reader.has_heads(fidelity.stored),
        report=with_details(
            context,
            space,
            AdapterReport(
                error=fidelity.error,
                budget=None if policy.k else policy.budget,
                bytes_added=0,
                raw_bytes=adapter.raw_bytes,
                notes=adapter.remarks,
                settings=describe_config(adapter.config),
                untrained=bool(pairs) and fidelity.norm == 0,
            ),
            fidelity.stored,
            adapter.layout,
            fidelity.rows,
            errors=fidelity.errors,
            bits=fidelity.bits,
        ),
        objects={**coded.objects, **files},
    )


def check_adapter(
    context: Context, policy: Policy, task: TaskName, adapter: Adapter
) -> list[CheckEntry]:
    """Run on an adapter what a policy requires, and what is to be run besides.

    Raises RefusedError where it does not pass.
    """
    return run_checks(context.checks, policy.require, task, adapter, context.outside)


def named_objects(note: TaskNote) -> set[Digest]:
    """Return the objects that a note names: config and other files."""
    files = (entry.object for entry in (*note.attachments, *note.original))
    return {Digest(digest) for digest in (*filter(None, [note.config]), *files)}


def _files(
    task: TaskName, adapter: Adapter, policy: Policy
) -> tuple[TaskNote, dict[Digest, bytes]]:
    config = sha256(adapter.config_bytes)
    objects = {config: adapter.config_bytes}

    def entries(files: Mapping[str, bytes]) -> list[FileEntry]:
        objects.update({sha256(content): content for content in files.values()})
        return [
            FileEntry(name=name, object=sha256(content), size=len(content))
            for name, content in sorted(files.items())
        ]

    note = TaskNote(
        task=task,
        source=adapter.source,
        config=config,
        attachments=entries(adapter.attachments),
        original=entries(adapter.original if policy.keep_original else {}),
    )
    return note, objects
