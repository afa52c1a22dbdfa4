"""Records: what one commit changes (spec REC-01 to REC-24).

A record is canonical JSON, names its parent by sha256 and says what changed, not the state.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from share_registry.errors import FormatError, ensure
from share_registry.format.canonical import load, require, sha256
from share_registry.format.fields import (
    DecimalField,
    DigestField,
    KeyField,
    KField,
    NameField,
    NumberField,
    SelectorField,
    TimeField,
    TrueField,
    WeightField,
)
from share_registry.format.layout import Strict, check_version, validate
from share_registry.names import Digest

# A module of the record has another shape than the first of its name in the space (spec REC-15)
MODULE_SHAPES: Final = "module-shapes"
# An adapter object of the record is decoded from floats that are split (spec REC-21)
FLOAT_HEADS: Final = "float-heads"
# Records that say that a version was exported (spec REC-24)
EXPORTS: Final = "exports"
# Records that remove versions, and name what stands in for objects (spec REC-22, REC-23)
REMOVALS: Final = "removals"
# A policy of the record bounds how many versions need one object (spec COM-13)
BOUNDED_DEPENDENTS: Final = "bounded-dependents"
# A policy of the record names checks, or its note says what was passed (spec COM-14)
COMMIT_CHECKS: Final = "commit-checks"
# Features that a record's `requires` may name and this release knows
FEATURES: Final = (BOUNDED_DEPENDENTS, COMMIT_CHECKS, EXPORTS, FLOAT_HEADS, MODULE_SHAPES, REMOVALS)


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
