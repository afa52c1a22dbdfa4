"""Verify: is the store what its records say, and does every version still decode to what was committed?

Levels build on each other: `quick` follows the chains and asks whether objects are there; `data`
reads and hashes every object and parses it; `deep` rebuilds every version and compares its tensors
with the commit. Nothing is ever written.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError, deserialize

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import lookups
from share_registry.errors import (
    CatalogError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    ShareRegistryError,
    StoreError,
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
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.sync import fill
from share_registry.values.checks import Finding, VerifyReport

if TYPE_CHECKING:
    from share_registry.registry.context import Context
    from share_registry.store.protocol import Store

LEVELS: Final = ("quick", "data", "deep")
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done and how many there are."""


@dataclass(slots=True)
class _Walk:
    """What has been seen so far."""

    store: "Store"
    level: str
    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    bytes: int = 0
    versions: dict[str, AbsorbedTask] = field(default_factory=dict)
    bases: set[Digest] = field(default_factory=set)
    referred: dict[Digest, list[str]] = field(default_factory=dict)
    read: set[Digest] = field(default_factory=set)

    def find(self, code: str, what: str, message: str, refs: tuple[str, ...] = ()) -> None:
        self.findings.append(Finding(code=code, what=what, message=message, refs=refs))


def verify(context: "Context", level: str, *, progress: Progress | None = None) -> VerifyReport:
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
    if level not in LEVELS:
        raise InvalidInputError(
            f"level {level!r} is not one of {', '.join(LEVELS)}.",
            hint="quick: chains; data: every byte; deep: every version rebuilt.",
        )
    walk = _Walk(store=context.store, level=level)
    spaces = context.store.spaces()
    for space in spaces:
        _check_log(walk, space)
    _check_heads(walk, context)
    _check_meaning(walk)
    for stray in context.store.strays():
        walk.find("STO-02", stray, "does not belong into a store.")
    _check_objects(walk, progress or _silent)
    if level == "deep":
        _check_versions(walk, context, progress or _silent)
    return VerifyReport(
        level=level,
        spaces=len(spaces),
        records=walk.records,
        objects=len(walk.referred),
        bytes=walk.bytes,
        versions=len(walk.versions),
        findings=tuple(walk.findings),
    )


def require_sound(report: VerifyReport) -> None:
    """Raise IntegrityError where a report has findings."""
    if report.ok:
        return
    first = report.findings[0]
    more = f"; and {len(report.findings) - 1} more" if len(report.findings) > 1 else ""
    strays = all(finding.code == "STO-02" for finding in report.findings)
    hurt = sorted({ref for finding in report.findings for ref in finding.refs})
    affected = f" Affected: {', '.join(hurt[:5])}{' ...' if len(hurt) > 5 else ''}." if hurt else ""
    raise IntegrityError(
        f"verify ({report.level}) found {first.code} {first.what}: {first.message.removesuffix('.')}{more}.{affected}",
        hint="Move what does not belong there out of the store."
        if strays
        else "Bring the named files back from a copy of the store, then verify again.",
    )


def _silent(what: str, done: int, total: int) -> None:
    """Report progress to nobody."""


def _check_log(walk: _Walk, space: SpaceName) -> None:
    numbers = walk.store.numbers(space)
    missing = sorted(set(range(1, (numbers[-1] if numbers else 0) + 1)) - set(numbers))
    for number in missing:
        walk.find("REC-03", f"{space}/@c{number}", "the record is not in the store.")
    parent = sha256(walk.store.format_bytes())
    for number in numbers:
        record, parent = _check_record(walk, space, number, parent)
        if record is not None:
            _collect(walk, record)


def _check_heads(walk: _Walk, context: "Context") -> None:
    """Compare the ends of the logs with what the catalog remembers.

    Nothing in a log itself shows that its last record is gone.
    """
    try:
        with context.catalog.begin() as session:
            heads = lookups.heads(session)
    except CatalogError:
        return  # the catalog is an index; that it cannot be read says nothing of the store
    for space, known in heads.items():
        content = walk.store.record(space, known.number)
        if content is None or sha256(content) != known.id:
            found = (
                "is not in the store"
                if content is None
                else f"is {sha256(content)[:8]} in the store"
            )
            walk.find(
                "REC-03",
                f"{space}/@c{known.number}",
                f"the catalog knows it as {known.id[:8]}, it {found}.",
                (f"{space}/@c{known.number}",),
            )


def _check_meaning(walk: _Walk) -> None:
    """Follow every sound log from the beginning.

    Each record must be possible after those before it (spec COM-04).
    """
    if walk.findings:
        # a log with damaged records cannot be followed; what is wrong with it is said already
        return
    catalog = Catalog.in_memory()
    for space, damage in fill(walk.store, catalog).items():
        walk.find("COM-04", f"space {space}", damage.message)
    catalog.close()


def _check_record(
    walk: _Walk, space: SpaceName, number: CommitNumber, parent: Digest
) -> tuple[Record | None, Digest]:
    what = f"{space}/@c{number}"
    try:
        content = walk.store.record(space, number) or b""
        walk.records += 1
        walk.bytes += len(content)
        record = parse_record(content, what=f"record c{number} of space {space}")
    except (IntegrityError, FormatError, StoreError) as error:
        walk.find("REC-01", what, error.message)
        return None, parent
    if (record.space, record.number) != (space, number):
        walk.find("REC-02", what, f"the record says it is {record.space}/@c{record.number}.")
    if record.parent != parent:
        walk.find(
            "REC-03",
            what,
            f"its parent is {record.parent[:8]}, the record before it is {parent[:8]}: the chain is broken.",
        )
    return record, sha256(content)


def _collect(walk: _Walk, record: Record) -> None:
    """Note what a record refers to, and which versions need it."""
    refs = _refs(record)
    if record.note is not None:
        _refer(walk, record.note, refs)
        for digest in _noted(walk, record.note):
            _refer(walk, digest, refs)
    if isinstance(record, AbsorbRecord | RefitRecord) and record.basis is not None:
        walk.bases.add(record.basis)
        _refer(walk, record.basis, [f"{record.space}/@c{record.number}"])
    if isinstance(record, AbsorbRecord | RefitRecord | MergeRecord):
        for task in record.tasks:
            ref = f"{record.space}/{task.task}@v{task.version}"
            walk.versions[ref] = task
            _refer(walk, task.adapter, [ref])
            _refer(walk, task.layout, [ref])


def _refs(record: Record) -> list[str]:
    if isinstance(record, AbsorbRecord | RefitRecord | MergeRecord) and record.tasks:
        return [f"{record.space}/{task.task}@v{task.version}" for task in record.tasks]
    return (
        [f"{record.space}/{record.task}@v{record.version}"]
        if isinstance(record, RestoreRecord)
        else [f"{record.space}/@c{record.number}"]
    )


def _refer(walk: _Walk, digest: Digest, refs: list[str]) -> None:
    known = walk.referred.setdefault(digest, [])
    known.extend(ref for ref in refs if ref not in known)


def _noted(walk: _Walk, digest: Digest) -> Iterator[Digest]:
    content = _sound(walk, digest)
    if content is None:
        return
    try:
        note = Note.from_bytes(content)
    except ShareRegistryError as error:
        walk.find("NOT-01", f"object {digest}", error.message, tuple(walk.referred.get(digest, ())))
        return
    for task in note.tasks:
        if task.config is not None:
            yield task.config
        yield from (entry.object for entry in [*task.attachments, *task.original])


def _sound(walk: _Walk, digest: Digest) -> bytes | None:
    """Return an object's bytes if they are what its name says; None, and a finding, otherwise."""
    refs = tuple(walk.referred[digest])
    walk.read.add(digest)
    try:
        content = walk.store.get(digest)
    except NotFoundError:
        walk.find("OBJ-02", f"object {digest}", "is not in the store.", refs)
        return None
    except (IntegrityError, StoreError) as error:
        walk.find("OBJ-01", f"object {digest}", error.message, refs)
        return None
    walk.bytes += len(content)
    return content


def _check_objects(walk: _Walk, progress: Progress) -> None:
    """Check every object that is referred to, and what adapter objects refer to in turn."""
    adapters = {task.adapter for task in walk.versions.values()}
    pending, done = (
        sorted(walk.referred, key=lambda digest: (digest not in walk.bases, digest)),
        0,
    )  # bases last: by then it is known who refers to them
    while pending:
        digest = pending.pop()
        done += 1
        progress("objects", done, done + len(pending))
        for found in _check_object(walk, digest, adapter=digest in adapters):
            if found not in walk.referred:
                pending.append(found)
            _refer(walk, found, walk.referred[digest])


def _check_object(walk: _Walk, digest: Digest, *, adapter: bool) -> list[Digest]:
    if digest in walk.read:
        return []
    if walk.level == "quick":
        if not walk.store.has(digest):
            walk.find(
                "OBJ-02", f"object {digest}", "is not in the store.", tuple(walk.referred[digest])
            )
        return []
    content = _sound(walk, digest)
    if content is not None and digest in walk.bases:
        _check_basis(walk, digest, content)
    return _check_adapter(walk, digest, content) if adapter and content is not None else []


def _check_basis(walk: _Walk, digest: Digest, content: bytes) -> None:
    from share_registry.format.basis_object import decode

    try:
        decode(content)
    except ShareRegistryError as error:
        walk.find("OBJ-03", f"object {digest}", error.message, tuple(walk.referred[digest]))


def _check_adapter(walk: _Walk, digest: Digest, content: bytes) -> list[Digest]:
    from share_registry.format.adapter_object import decode, header

    try:
        layout = Layout.from_bytes(walk.store.get(header(content).layout))
        stored = decode(content, layout)
    except ShareRegistryError as error:
        walk.find("OBJ-03", f"object {digest}", error.message, tuple(walk.referred[digest]))
        return []
    return [
        stored.layout,
        *stored.sources,
        *stored.external.values(),
        *([stored.previous] if stored.previous else []),
    ]


def _check_versions(walk: _Walk, context: "Context", progress: Progress) -> None:
    """Rebuild every version and compare its tensors with the commit (spec DEC-12)."""
    from share_registry.exchange.export_files import tensor_file
    from share_registry.materialize.decoder import Reader

    reader = Reader(
        context.store
    )  # not the one of the registry: what that one has decoded before would not be read again
    for done, (ref, task) in enumerate(sorted(walk.versions.items()), start=1):
        progress("versions", done, len(walk.versions))
        try:
            layout = reader.open(task.adapter).layout
            content = tensor_file(layout, reader.tensors(task.adapter))
        except ShareRegistryError as error:
            walk.find("DEC-12", ref, error.message, (ref,))
            continue
        found = sha256(content)
        if _keys_elsewhere(content) != sorted(spec.key for spec in layout.tensors):
            walk.find(
                "DEC-11",
                ref,
                "the safetensors library does not read the rebuilt file as it was written.",
                (ref,),
            )
        if reader.open(task.adapter).stored.layout != task.layout:
            walk.find(
                "REC-08", ref, "the commit and its adapter object name different layouts.", (ref,)
            )
        if found != task.tensors:
            walk.find(
                "DEC-12",
                ref,
                f"rebuilt tensors have digest {found[:8]}, the commit says {task.tensors[:8]}.",
                (ref,),
            )
        if task.budget is not None and float(task.error) > float(task.budget):
            walk.find(
                "REC-09",
                ref,
                f"recorded error {task.error} is above the budget {task.budget}.",
                (ref,),
            )


def _keys_elsewhere(content: bytes) -> list[str] | None:
    """Return the keys that the safetensors library, another parser than ours, finds in a file.

    None where it refuses.
    """
    try:
        return sorted(key for key, _ in deserialize(content))  # type: ignore[no-untyped-call]
    except SafetensorError:
        return None
