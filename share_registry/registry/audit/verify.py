"""Verify: is the store what its records say, and does every version decode to what was committed?

Levels build on each other: `quick` follows the chains and asks whether objects are there; `data`
reads and hashes every object and parses it; `deep` rebuilds every version and compares its tensors
with the commit. Nothing is ever written.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from safetensors import SafetensorError, deserialize

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import lookups
from share_registry.errors import (
    CatalogError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.format.canonical import sha256
from share_registry.format.layout import Layout
from share_registry.format.records import (
    AbsorbedTask,
    AbsorbRecord,
    MergeRecord,
    Note,
    Record,
    RefitRecord,
    RestoreRecord,
    parse_record,
)
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.registry.arguments import Progress, ignore_progress
from share_registry.registry.context import Context
from share_registry.registry.sync import fill
from share_registry.store.protocol import Store
from share_registry.values.checks import Finding, Outcome, VerifyReport

LEVELS: Final = ("quick", "data", "deep")
# By what it means: the clause that says so, whatever was checked
_CODES: Final = {Outcome.NEWER: "EVO-05", Outcome.LARGE: "DEC-13", Outcome.REMOVED: "NOT-06"}
# By what it means: the error that is raised for it, and the next step
_RAISED: Final[dict[Outcome, tuple[type[ShareRegistryError], str]]] = {
    Outcome.DAMAGED: (
        IntegrityError,
        "Bring the named files back from a copy of the store, then verify again.",
    ),
    Outcome.NEWER: (FormatError, "Nothing is damaged: upgrade share_registry, then verify again."),
    Outcome.LARGE: (
        RefusedError,
        "Nothing is known to be damaged: other versions than the named ones are read as ever.",
    ),
}


@dataclass(slots=True)
class _Walk:
    """What has been seen so far.

    Attributes:
        versions: By reference, what the record says of the version.
        bases: The basis objects.
        refs: Every object that is referred to, with the versions or commits that need it.
        needed: Those of them that no version can do without: not notes, nor what notes alone name.
        read: Objects whose bytes were read already.
        files: By note and name of the task in it, what an export needs: its config, None where it
            names none, and its attachments.
        unexportable: The versions that lack some of it, or their note.
    """

    store: Store
    level: str
    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    bytes: int = 0
    versions: dict[str, AbsorbedTask] = field(default_factory=dict)
    bases: set[Digest] = field(default_factory=set)
    refs: dict[Digest, list[str]] = field(default_factory=dict)
    needed: set[Digest] = field(default_factory=set)
    read: set[Digest] = field(default_factory=set)
    files: dict[tuple[Digest | None, TaskName], list[Digest | None]] = field(default_factory=dict)
    unexportable: list[str] = field(default_factory=list)

    def add(
        self,
        code: str,
        subject: str,
        message: str,
        refs: Sequence[str] = (),
        *,
        outcome: Outcome = Outcome.DAMAGED,
    ) -> None:
        code = _CODES.get(outcome, code)
        self.findings.append(
            Finding(code=code, what=subject, message=message, refs=tuple(refs), outcome=outcome)
        )

    def add_object(self, code: str, digest: Digest, error: ShareRegistryError) -> None:
        """Add a finding about an object; all that need it are affected."""
        subject, refs = f"object {digest}", self.refs[digest]
        self.add(code, subject, error.message, refs, outcome=_outcome_of(error))

    def add_missing(self, digest: Digest) -> None:
        """Add that an object is not there, which notes may be (spec NOT-06)."""
        subject, refs = f"object {digest}", self.refs[digest]
        if digest in self.needed:
            self.add("OBJ-02", subject, "is not in the store.", refs)
            return
        message = "is not in the store: what it said is not known."
        self.add("NOT-06", subject, message, refs, outcome=Outcome.REMOVED)

    def refer(self, digest: Digest, refs: Iterable[str], *, needed: bool = True) -> None:
        """Note that versions or commits need an object, or that notes alone name it."""
        if needed:
            self.needed.add(digest)
        needed_by = self.refs.setdefault(digest, [])
        needed_by.extend(ref for ref in refs if ref not in needed_by)


def verify(context: Context, level: str, *, progress: Progress | None = None) -> VerifyReport:
    """Check the whole registry.

    Args:
        context: The registry.
        level: "quick", "data" or "deep".
        progress: See `Progress`.

    Returns:
        The report; `ok` where nothing was found.

    Raises:
        InvalidInputError: unknown level.
    """
    ensure(
        level in LEVELS,
        InvalidInputError(
            f"level {level!r} is not one of {', '.join(LEVELS)}.",
            hint="quick: chains; data: every byte; deep: every version rebuilt.",
        ),
    )
    walk = _Walk(store=context.store, level=level)
    spaces = context.store.spaces()
    for space in spaces:
        _check_log(walk, space)
    _check_heads(walk, context)
    _check_meaning(walk)
    for stray in context.store.strays():
        walk.add("STO-02", stray, "does not belong into a store.")
    _check_objects(walk, progress or ignore_progress)
    if level == "deep":
        _check_versions(walk, context, progress or ignore_progress)
    return VerifyReport(
        level=level,
        spaces=len(spaces),
        records=walk.records,
        objects=len(walk.refs),
        bytes=walk.bytes,
        versions=len(walk.versions),
        findings=tuple(walk.findings),
        unexportable=tuple(walk.unexportable),
    )


def require_sound(report: VerifyReport) -> None:
    """Raise an error for the worst that a report has found, unless it is sound.

    Raises:
        IntegrityError: something is damaged.
        FormatError: nothing is; some record or object is of a later release.
        RefusedError: neither; some version is too large to be decoded.
    """
    if report.ok:
        return
    wrong = sorted(report.wrong, key=lambda finding: [*Outcome].index(finding.outcome))
    first = wrong[0]
    error, hint = _RAISED[first.outcome]
    more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    refs = sorted({ref for finding in wrong for ref in finding.refs})
    affected = f" Affected: {', '.join(refs[:5])}{' ...' if len(refs) > 5 else ''}." if refs else ""
    raise error(
        f"verify ({report.level}) found {first.code} {first.what}: "
        f"{first.message.removesuffix('.')}{more}.{affected}",
        hint="Move what does not belong there out of the store."
        if all(finding.code == "STO-02" for finding in wrong)
        else hint,
    )


def _check_log(walk: _Walk, space: SpaceName) -> None:
    numbers = walk.store.numbers(space)
    for number in sorted({*range(1, max(numbers, default=0) + 1)} - {*numbers}):
        walk.add("REC-03", f"{space}/@c{number}", "the record is not in the store.")
    parent = sha256(walk.store.format_bytes())
    for number in numbers:
        ref, content = f"{space}/@c{number}", b""
        try:
            content = walk.store.record(space, number) or b""
            walk.records += 1
            walk.bytes += len(content)
            record = parse_record(content, subject=f"record c{number} of space {space}")
        except FormatError as error:
            walk.add("EVO-05", ref, error.message, [ref], outcome=Outcome.NEWER)
            parent = sha256(content)
            continue
        except (IntegrityError, StoreError) as error:
            walk.add("REC-01", ref, error.message)
            continue
        if (record.space, record.number) != (space, number):
            walk.add("REC-02", ref, f"the record says it is {record.space}/@c{record.number}.")
        if record.parent != parent:
            walk.add(
                "REC-03",
                ref,
                f"its parent is {record.parent[:8]}, the record before it is {parent[:8]}: "
                "the chain is broken.",
            )
        parent = sha256(content)
        _collect(walk, record)


def _check_heads(walk: _Walk, context: Context) -> None:
    """Compare the ends of the logs with what the catalog remembers.

    Nothing in a log itself shows that its last record is gone.
    """
    try:
        with context.catalog.begin() as session:
            heads = lookups.heads(session)
    except CatalogError:
        return  # the catalog is an index; that it cannot be read says nothing of the store
    for space, head in heads.items():
        content = walk.store.record(space, head.number)
        if content is not None and sha256(content) == head.id:
            continue
        state = f"is {sha256(content)[:8]}" if content is not None else "is not"
        ref = f"{space}/@c{head.number}"
        walk.add(
            "REC-03", ref, f"the catalog knows it as {head.id[:8]}, it {state} in the store.", [ref]
        )


def _check_meaning(walk: _Walk) -> None:
    """Follow every sound log from the beginning.

    Each record must be possible after those before it (spec COM-04).
    """
    if any(finding.outcome is Outcome.DAMAGED for finding in walk.findings):
        # a log with damaged records cannot be followed; what is wrong with it is said already
        return
    catalog = Catalog.in_memory()
    for space, error in fill(walk.store, catalog).items():
        if not isinstance(error, FormatError):
            walk.add("COM-04", f"space {space}", error.message)
    with catalog.begin() as session:
        versions = lookups.all_versions(session)
    catalog.close()
    files = {digest for digests in walk.files.values() for digest in digests}
    there = {digest for digest in files if digest is not None and walk.store.has(digest)}
    # spec NOT-04, NOT-06
    walk.unexportable = [
        row.ref
        for row in versions
        if not there.issuperset(walk.files.get((row.note_digest, row.note_task), [None]))
    ]


def _collect(walk: _Walk, record: Record) -> None:
    commit = f"{record.space}/@c{record.number}"
    versions = {}
    if isinstance(record, AbsorbRecord | RefitRecord | MergeRecord):
        versions = {f"{record.space}/{task.task}@v{task.version}": task for task in record.tasks}
    refs = list(versions) or [commit]
    if isinstance(record, RestoreRecord):
        refs = [f"{record.space}/{record.task}@v{record.version}"]
    if record.note is not None:
        walk.refer(record.note, refs, needed=False)
        for digest in _note_objects(walk, record.note):
            walk.refer(digest, refs, needed=False)
    if isinstance(record, AbsorbRecord | RefitRecord) and record.basis is not None:
        walk.bases.add(record.basis)
        walk.refer(record.basis, [commit])
    walk.versions |= versions
    for ref, task in versions.items():
        walk.refer(task.adapter, [ref])
        walk.refer(task.layout, [ref])


def _note_objects(walk: _Walk, digest: Digest) -> Iterator[Digest]:
    content = _read_object(walk, digest)
    if content is None:
        return
    try:
        note = Note.from_bytes(content)
    except ShareRegistryError as error:
        walk.add_object("NOT-01", digest, error)
        return
    # spec NOT-03
    for task in reversed(note.tasks):
        attachments = [entry.object for entry in task.attachments]
        walk.files[digest, TaskName(task.task)] = [task.config, *attachments]
        originals = [entry.object for entry in task.original]
        yield from filter(None, [task.config, *attachments, *originals])


def _read_object(walk: _Walk, digest: Digest) -> bytes | None:
    """Return an object's bytes; None, and a finding, where they are not what its name says."""
    walk.read.add(digest)
    try:
        content = walk.store.get(digest)
    except NotFoundError:
        walk.add_missing(digest)
    except (IntegrityError, StoreError) as error:
        walk.add_object("OBJ-01", digest, error)
    else:
        walk.bytes += len(content)
        return content
    return None


def _check_objects(walk: _Walk, progress: Progress) -> None:
    adapters = {task.adapter for task in walk.versions.values()}
    # bases, and before them what notes alone name, last (the list is popped from its end): by then
    # it is clear who refers to them
    pending = sorted(
        walk.refs, key=lambda digest: (digest in walk.needed, digest not in walk.bases, digest)
    )
    done = 0
    while pending:
        digest = pending.pop()
        done += 1
        progress("objects", done, done + len(pending))
        for source in _check_object(walk, digest, is_adapter=digest in adapters):
            if source not in walk.refs:
                pending.append(source)
            walk.refer(source, walk.refs[digest])


def _check_object(walk: _Walk, digest: Digest, *, is_adapter: bool) -> list[Digest]:
    from share_registry.format import adapter_object, basis_object

    if digest in walk.read:
        return []
    if walk.level == "quick":
        if not walk.store.has(digest):
            walk.add_missing(digest)
        return []
    content = _read_object(walk, digest)
    if content is None:
        return []
    try:
        if digest in walk.bases:
            basis_object.decode(content)
        if not is_adapter:
            return []
        layout = walk.store.get(adapter_object.header(content).layout)
        stored = adapter_object.decode(
            content,
            Layout.from_bytes(layout),
            size_of=lambda source: walk.store.size(source) or 0,
        )
    except ShareRegistryError as error:
        walk.add_object("OBJ-03", digest, error)
        return []
    return [
        stored.layout,
        *stored.sources,
        *stored.external.values(),
        *filter(None, [stored.previous]),
    ]


def _check_versions(walk: _Walk, context: Context, progress: Progress) -> None:
    """Rebuild every version and compare its tensors with the commit (spec DEC-12)."""
    from share_registry.algebra.threads import one_thread
    from share_registry.exchange.export_files import tensor_file
    from share_registry.materialize.decoder import Reader

    # not the registry's own reader: what that one has decoded before would not be read again
    reader = Reader(context.store)
    for done, (ref, task) in enumerate(sorted(walk.versions.items()), start=1):
        progress("versions", done, len(walk.versions))
        try:
            layout = reader.open(task.adapter).layout
            with one_thread():
                content = tensor_file(layout, reader.tensors(task.adapter))
        except ShareRegistryError as error:
            walk.add("DEC-12", ref, error.message, [ref], outcome=_outcome_of(error))
            continue
        if _keys_read_elsewhere(content) != sorted(spec.key for spec in layout.tensors):
            walk.add(
                "DEC-11",
                ref,
                "the safetensors library does not read the rebuilt file as it was written.",
                [ref],
            )
        if reader.open(task.adapter).stored.layout != task.layout:
            walk.add(
                "REC-08", ref, "the commit and its adapter object name different layouts.", [ref]
            )
        rebuilt = sha256(content)
        if rebuilt != task.tensors:
            walk.add(
                "DEC-12",
                ref,
                f"rebuilt tensors have digest {rebuilt[:8]}, the commit says {task.tensors[:8]}.",
                [ref],
            )
        if task.budget is not None and float(task.error) > float(task.budget):
            walk.add(
                "REC-09",
                ref,
                f"recorded error {task.error} is above the budget {task.budget}.",
                [ref],
            )


def _outcome_of(error: ShareRegistryError) -> Outcome:
    if isinstance(error, FormatError):
        return Outcome.NEWER
    return Outcome.LARGE if isinstance(error, RefusedError) else Outcome.DAMAGED


def _keys_read_elsewhere(content: bytes) -> list[str] | None:
    """Return the keys that the safetensors library, another parser than ours, finds in a file.

    None where it refuses.
    """
    try:
        return sorted(key for key, _ in deserialize(content))  # type: ignore[no-untyped-call]
    except SafetensorError:
        return None
