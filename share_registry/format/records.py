"""Records and notes: what one commit says (spec REC-01 to REC-24, NOT-01 to NOT-05).

A record is canonical JSON, names its parent by sha256 and says what changed, not the state. Free
text and personal data live in a note, an object of its own that can be removed without breaking the
chain.
"""

import re
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from share_registry.errors import FormatError, InvalidInputError, ensure
from share_registry.format.canonical import dump, load, require, sha256
from share_registry.format.layout import (
    FORMAT_VERSION,
    Entry,
    Strict,
    check_kind,
    check_version,
    validate,
)
from share_registry.names import NAME, Digest, is_name, is_reserved
from share_registry.times import FIRST_YEAR, LAST_YEAR, timestamp

# A module of the record has another shape than the first of its name in the space (spec REC-15)
MODULE_SHAPES: Final = "module-shapes"
# An adapter object of the record is decoded from floats that are split (spec REC-21)
FLOAT_HEADS: Final = "float-heads"
# Records that say that a version was exported (spec REC-24)
EXPORTS: Final = "exports"
# Labels of its note that say where to
EXPORT_HOST: Final = "host"
EXPORT_PATH: Final = "path"
EXPORT_TARGET: Final = "target"
# Records that remove versions, and name what stands in for objects (spec REC-22, REC-23)
REMOVALS: Final = "removals"
# A policy of the record bounds how many versions need one object (spec COM-13)
BOUNDED_DEPENDENTS: Final = "bounded-dependents"
# A policy of the record names checks, or its note says what was passed (spec COM-14)
COMMIT_CHECKS: Final = "commit-checks"
# Features that a record's `requires` may name and this release knows
FEATURES: Final = (BOUNDED_DEPENDENTS, COMMIT_CHECKS, EXPORTS, FLOAT_HEADS, MODULE_SHAPES, REMOVALS)

DigestField = Annotated[Digest, Field(pattern=r"^[0-9a-f]{64}$")]
NumberField = Annotated[int, Field(ge=1, lt=1 << 53)]


def _check_name(text: str) -> str:
    """Return a name that a store may have (spec NAM-01). Raises ValueError."""
    if not is_name(text):
        raise ValueError(f"{text!r} names no space, task, alias or tag")
    return text


def _check_selector(text: str) -> str:
    """Return a name that reads as no other selector (spec NAM-03). Raises ValueError."""
    if is_reserved(text):
        raise ValueError(f"{text!r} reads as a version, a commit, a date or a digest")
    return text


NameField = Annotated[str, Field(pattern=rf"^{NAME.pattern}$"), AfterValidator(_check_name)]
SelectorField = Annotated[NameField, AfterValidator(_check_selector)]


def _check_calendar(time: str) -> str:
    """Return a time that the calendar has (spec REC-05). Raises ValueError."""
    moment = datetime.fromisoformat(time)
    # some releases of Python take 24:00 for the next day
    if timestamp(moment) != time or not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"{time} is no time of the years {FIRST_YEAR} to {LAST_YEAR}")
    return time


TimeField = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$"),
    AfterValidator(_check_calendar),
]
# A plain name in a directory: what a store says is never a path (spec NOT-04)
FileNameField = Annotated[
    str,
    Field(max_length=255, pattern=r"""^[^/\\:*?"<>|\x00-\x1f\x7f]*[^/\\:*?"<>|\x00-\x1f\x7f. ]$"""),
]
KeyField = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
_DECIMAL: Final = (
    r"(0|[1-9][0-9]{0,15}|[0-9]{1,16}\.[0-9]{1,20}|[1-9](\.[0-9]{1,20})?e-?[0-9]{1,3})"
)
DecimalField = Annotated[str, Field(pattern=rf"^{_DECIMAL}$")]
WeightField = Annotated[str, Field(pattern=rf"^-?{_DECIMAL}$")]
KField = Annotated[int, Field(ge=1, le=0xFFFF)]


def _check_boolean(value: object) -> object:
    """Return a boolean: 1, which is equal to it, is none. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError("expected a boolean")
    return value


TrueField = Annotated[Literal[True], BeforeValidator(_check_boolean)]

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class StoreFormat(Strict):
    """The FORMAT file: identity and features of a store. Immutable."""

    magic: Literal["share_registry"] = "share_registry"
    version: Literal[1] = 1
    store: Annotated[str, Field(pattern=f"^{_UUID.pattern}$")]
    read: list[str] = []
    write: list[str] = []
    gc: list[str] = []


class PolicyBody(Strict):
    """What a space does by default.

    With `k`, tasks are kept as coefficients over a basis of so many directions alone, and no
    budget holds.
    """

    budget: DecimalField
    keep_original: bool
    references: bool = True
    refit: bool = True
    pseudo_rank: KField | None = None
    k: KField | None = None
    phi: Annotated[int, Field(ge=0, le=0xFFFF)] = 0
    max_dependents: KField | None = None
    require: Annotated[list[NameField], Field(max_length=16)] = []


class BaseModelBody(Strict):
    """The base model of a space: a label, its revision, and other labels it is known by."""

    label: Annotated[str, Field(max_length=512)]
    revision: Annotated[str, Field(max_length=128)] | None = None
    labels: list[Annotated[str, Field(max_length=512)]] = []


class TaskVersionRef(Strict):
    """A version of a task of the same space."""

    task: NameField
    version: NumberField


class AbsorbedTask(Strict):
    """One task's new version in an absorb, refit or merge record.

    Attributes:
        budget: The largest error allowed; missing where loss was allowed without a limit.
        error: The error of what is stored, or an upper bound of it where `bound` says so.
        norm: Frobenius norm of the scaled dW that `error` is relative to.
        before: In a refit: the error of the version before.
    """

    task: NameField
    version: NumberField
    adapter: DigestField
    layout: DigestField
    tensors: DigestField
    source: DigestField
    budget: DecimalField | None = None
    error: DecimalField
    norm: DecimalField
    before: DecimalField | None = None
    bound: TrueField | None = None
    raw_bytes: Annotated[int, Field(ge=0)]
    added_bytes: Annotated[int, Field(ge=0)]
    derived_from: list[TaskVersionRef] = []


class _Record(Strict):
    format: Literal[1] = 1
    space: NameField
    number: NumberField
    parent: DigestField
    time: TimeField
    key: KeyField
    note: DigestField | None = None
    requires: list[str] = []

    @property
    def id(self) -> Digest:
        """The commit id."""
        return sha256(self.to_bytes())


class CreateRecord(_Record):
    """Record 1: the space begins; its parent is the digest of FORMAT."""

    kind: Literal["create"] = "create"
    base_model: BaseModelBody
    policy: PolicyBody


class AbsorbRecord(_Record):
    """Adapters become new task versions, sorted by task.

    `basis`, where one was fitted to them, is the space's basis from here on.
    """

    kind: Literal["absorb"] = "absorb"
    basis: DigestField | None = None
    tasks: Annotated[list[AbsorbedTask], Field(min_length=1, max_length=65_536)]


class RefitRecord(_Record):
    """A new basis for the commits that follow.

    Tasks that are re-expressed in it get new versions, sorted by task.
    """

    kind: Literal["refit"] = "refit"
    basis: DigestField
    tasks: Annotated[list[AbsorbedTask], Field(max_length=65_536)] = []


class MergeRecord(_Record):
    """A task version made of others.

    Those that `derived_from` names, with these weights in the same order.
    """

    kind: Literal["merge"] = "merge"
    method: Literal["linear", "ties", "dare"]
    weights: Annotated[list[WeightField], Field(min_length=1, max_length=1024)]
    density: DecimalField | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 53)] | None = None
    tasks: Annotated[list[AbsorbedTask], Field(min_length=1, max_length=1)]


class RestoreRecord(_Record):
    """An earlier version of a task becomes its newest version (and the task live again)."""

    kind: Literal["restore"] = "restore"
    task: NameField
    version: NumberField
    of: NumberField


class DropRecord(_Record):
    """A task stops being listed; its versions stay."""

    kind: Literal["drop"] = "drop"
    task: NameField


class RenameRecord(_Record):
    """A task gets a new name.

    The old one keeps leading to it and is never given to another task.
    """

    kind: Literal["rename"] = "rename"
    task: NameField
    name: NameField


class PolicyRecord(_Record):
    """The space's policy from now on."""

    kind: Literal["policy"] = "policy"
    policy: PolicyBody


class AliasRecord(_Record):
    """An alias of a task moves to a version, or is removed (no version)."""

    kind: Literal["alias"] = "alias"
    task: NameField
    alias: SelectorField
    version: NumberField | None = None


class TagRecord(_Record):
    """A tag names a commit of the space, for ever."""

    kind: Literal["tag"] = "tag"
    tag: SelectorField
    commit: NumberField


class AnnotateRecord(_Record):
    """Labels and metrics of a task version change; which, stands in the note."""

    kind: Literal["annotate"] = "annotate"
    task: NameField
    version: NumberField


class ExportRecord(_Record):
    """A task version was exported; where to, stands in the note.

    Attributes:
        digest: Digest of the export (spec EXP-05).
        tensors: sha256 of its tensor file.
    """

    kind: Literal["export"] = "export"
    task: NameField
    version: NumberField
    profile: Literal["native", "portable"]
    digest: DigestField
    tensors: DigestField


class ExpireRecord(_Record):
    """Versions are not read any more, sorted by task and version; what they said stays."""

    kind: Literal["expire"] = "expire"
    versions: Annotated[list[TaskVersionRef], Field(min_length=1, max_length=65_536)]


class Replacement(Strict):
    """What is read in place of an object; nothing where `by` is missing."""

    object: DigestField
    by: DigestField | None = None


class PurgeRecord(_Record):
    """A task is dropped, and everything that was kept of it goes, but for its earlier records.

    Each list is sorted by object.

    Attributes:
        adapters: Adapter objects of other versions that were built upon those of the task, each
            with one of the same tensors that is not.
        notes: Notes that say something of the task, each with the rest of it, if there is any.
        bases: Basis objects that were fitted to the task and that no version is stored with.
    """

    kind: Literal["purge"] = "purge"
    task: NameField
    adapters: Annotated[list[Replacement], Field(max_length=65_536)] = []
    notes: list[Replacement] = []
    bases: list[DigestField] = []


Record = (
    CreateRecord
    | AbsorbRecord
    | RefitRecord
    | MergeRecord
    | RestoreRecord
    | DropRecord
    | RenameRecord
    | PolicyRecord
    | AliasRecord
    | TagRecord
    | AnnotateRecord
    | ExportRecord
    | ExpireRecord
    | PurgeRecord
)
RECORD: Final[TypeAdapter[Record]] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


class FileEntry(Strict):
    """A file kept verbatim as an object."""

    name: FileNameField
    object: DigestField
    size: Annotated[int, Field(ge=0, le=1 << 40)]


class Source(Strict):
    """Where an adapter came from."""

    kind: Literal["directory", "hub", "peft", "adapter"]
    location: Annotated[str, Field(max_length=4096)]
    revision: Annotated[str, Field(max_length=128)] | None = None


class Metric(Strict):
    """A name and a number, as text."""

    name: Annotated[str, Field(max_length=512)]
    value: Annotated[str, Field(pattern=r"^(-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?|-?inf|nan)$")]


class CheckEntry(Strict):
    """A check that an adapter has passed, and the end of what it said."""

    name: NameField
    version: Annotated[str, Field(max_length=64)] | None = None
    summary: Annotated[str, Field(max_length=512)] | None = None


class TaskNote(Strict):
    """What a note says of one task."""

    task: NameField
    labels: list[Entry] = []
    metrics: list[Metric] = []
    removed: list[str] = []
    source: Source | None = None
    config: DigestField | None = None
    attachments: list[FileEntry] = []
    original: list[FileEntry] = []
    remarks: list[str] = []
    checks: Annotated[list[CheckEntry], Field(max_length=64)] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What is shown of the adapter: its remarks, and the checks that it has passed."""
        checks = (
            f"passed {' '.join(filter(None, [check.name, check.version]))}"
            f"{f': {check.summary}' if check.summary else ''}"
            for check in self.checks
        )
        return (*self.remarks, *checks)


class Note(Strict):
    """Free text and personal data of one commit; removable."""

    format: Literal[1] = 1
    kind: Literal["note"] = "note"
    author: Annotated[str, Field(max_length=256)] | None = None
    message: Annotated[str, Field(max_length=16_384)] | None = None
    tasks: list[TaskNote] = []

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return dump(
            self.model_dump(mode="json", exclude_defaults=True)
            | {"format": FORMAT_VERSION, "kind": "note"}
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> "Note":
        """Parse a note object. Raises IntegrityError."""
        value = check_kind(load(content, subject="note"), "note")
        return validate(cls.model_validate, value, "note")

    def of(self, task: str) -> TaskNote:
        """Return what the note says of a task, empty where nothing."""
        return next((entry for entry in self.tasks if entry.task == task), TaskNote(task=task))


def parse_record(content: bytes, *, subject: str = "record") -> Record:
    """Parse one record.

    Raises:
        IntegrityError: malformed.
        FormatError: of another format version, or requiring a feature this release does not know.
    """
    value = load(content, subject=subject)
    check_version(value, subject)
    requires = value.get("requires", [])
    names = requires if isinstance(requires, list) else ["?"]
    unknown = sorted(str(name) for name in names if name not in FEATURES)
    ensure(
        not unknown,
        FormatError(
            f"{subject} requires the unknown features {', '.join(unknown)}.",
            hint="Upgrade share_registry.",
        ),
    )
    record = validate(RECORD.validate_python, value, subject)
    _check_tasks(record, subject)
    return record


def parse_format(content: bytes) -> StoreFormat:
    """Parse a FORMAT file.

    Raises:
        IntegrityError: malformed.
        FormatError: of another version, or in need of a read feature this release does not know.
    """
    value = load(content, subject="FORMAT", limit=1 << 20)
    ensure(
        value.get("magic") == "share_registry",
        FormatError("FORMAT is not of a share_registry store.", hint="Check the location."),
    )
    check_version(value, "FORMAT", member="version")
    store = validate(StoreFormat.model_validate, value, "FORMAT")
    ensure(
        not store.read,
        FormatError(
            f"store needs the unknown features {store.read}.", hint="Upgrade share_registry."
        ),
    )
    return store


def format_bytes(store: str) -> bytes:
    """Return the FORMAT file of a new store with this uuid. Raises InvalidInputError."""
    ensure(
        _UUID.fullmatch(store),
        InvalidInputError(
            f"store identity {store[:80]!r} is no uuid in lower case.",
            hint="Give str(uuid.uuid4()).",
        ),
    )
    return dump(StoreFormat(store=store).model_dump(mode="json"))


def decimal(value: float) -> str:
    """Return a number as the record's decimal string (shortest that reads back equal)."""
    text = repr(float(value))
    text = re.sub(r"e([+-]?)0*", lambda match: "e" + match[1].removeprefix("+"), text)
    return text.removesuffix(".0")


def _check_tasks(record: Record, subject: str) -> None:
    """Check what the types cannot say (spec REC-16 to REC-18, REC-22 to REC-24).

    Raises IntegrityError.
    """
    if isinstance(record, AbsorbRecord | RefitRecord | MergeRecord):
        refit = record.kind == "refit"
        require(
            all((entry.before is not None) == refit for entry in record.tasks),
            f"{subject} is of kind {record.kind}, where an error before "
            f"{'is needed' if refit else 'has no place'}.",
        )
    if isinstance(record, MergeRecord):
        weights, parents = len(record.weights), len(record.tasks[0].derived_from)
        require(weights == parents, f"{subject} has {weights} weights for {parents} parents.")
    if isinstance(record, ExportRecord):
        # spec REC-24
        require(
            EXPORTS in record.requires,
            f"{subject} is of kind export and does not require {EXPORTS!r}.",
        )
    if isinstance(record, ExpireRecord | PurgeRecord):
        _check_removals(record, subject)


def _check_removals(record: ExpireRecord | PurgeRecord, subject: str) -> None:
    """Check what the types cannot say (spec REC-22, REC-23). Raises IntegrityError."""
    require(
        REMOVALS in record.requires,
        f"{subject} is of kind {record.kind} and does not require {REMOVALS!r}.",
    )
    if isinstance(record, ExpireRecord):
        named = [(of.task, of.version) for of in record.versions]
        require(named == sorted({*named}), f"{subject} does not list its versions sorted, once.")
        return
    lists = ([item.object for item in record.adapters], [item.object for item in record.notes])
    require(
        all(digests == sorted({*digests}) for digests in (*lists, record.bases)),
        f"{subject} does not list what it replaces sorted, once each.",
    )
    replaced = [digest for digests in (*lists, record.bases) for digest in digests]
    by = {item.by for item in (*record.adapters, *record.notes)}
    require(
        len(replaced) == len({*replaced}) and by.isdisjoint(replaced),
        f"{subject} replaces what it replaces.",
    )
    require(
        all(item.by for item in record.adapters),
        f"{subject} takes an adapter object away that versions need.",
    )
