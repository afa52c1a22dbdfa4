"""Tables of the catalog.

Every key is natural and follows from the records alone (a task's number is its place in the order
of creation), so that a catalog rebuilt from the store equals the old one row by row. What changes
over time stands in rows with `since` and `until`, commit numbers of the space: a row holds from
commit `since` up to, not including, commit `until`.

The classes name typed columns of plain tables and are no mapped ORM classes: mapping them takes as
long as everything else that `log` does after its imports.
"""

import json
from collections.abc import Sequence
from typing import ClassVar, Final, TypeVar

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    or_,
    select,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import Float, TypeDecorator, TypeEngine
from typing_extensions import override

# Schema versions this release knows, oldest first; the last is the one it works with
SCHEMA_VERSIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006")
# Alembic's version table. Our own, so that other software may keep its tables in the same
# database.
SCHEMA_TABLE: Final = "share_registry_schema"

# Text compared by code point in both databases: times, digests and names sort alike everywhere
TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")
# Whole numbers below 2**63
INTEGER: Final = BigInteger()
# float64
REAL: Final = Float(53)
FLAG: Final = Boolean()
TABLES: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

T = TypeVar("T")


class TextList(TypeDecorator[tuple[str, ...]]):
    """A list of texts, as JSON."""

    impl = TEXT
    cache_ok = True

    @override
    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    @override
    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...] | None:
        return None if value is None else tuple(json.loads(value))


class Row:
    """Base of every table: class attributes are its columns.

    `rules` are its other constraints and indexes. Columns are declared as what they are in a query,
    `ColumnElement`: `Column` has types of its own only inside the ORM.
    """

    table: ClassVar[Table]
    rules: ClassVar[Sequence[SchemaItem]] = ()

    def __init_subclass__(cls, *, name: str) -> None:
        columns = {
            attribute: value for attribute, value in vars(cls).items() if isinstance(value, Column)
        }
        for attribute, column in columns.items():
            column.name = column.key = attribute
        cls.table = Table(name, TABLES, *columns.values(), *cls.rules)


def _key(kind: TypeEngine[T], *rules: ForeignKey) -> ColumnElement[T]:
    return Column(kind, *rules, primary_key=True, autoincrement=False)


def _required(kind: TypeEngine[T]) -> ColumnElement[T]:
    return Column(kind, nullable=False)


def _optional(kind: TypeEngine[T]) -> ColumnElement[T | None]:
    return Column(kind, nullable=True)


def _index_of_bases(name: str, column: str) -> Index:
    brought = text("basis IS NOT NULL")
    return Index(name, "space", column, sqlite_where=brought, postgresql_where=brought)


def _of_task() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["space", "task"], ["sr_tasks.space", "sr_tasks.task"])


def _of_version() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["space", "task", "version"],
        ["sr_task_versions.space", "sr_task_versions.task", "sr_task_versions.version"],
    )


class IdentityRow(Row, name="sr_registry"):
    """Which store this catalog is an index of; one row."""

    store = _key(TEXT)


class SpaceRow(Row, name="sr_spaces"):
    """One space: its base model, policy and head as of now.

    Attributes:
        base_labels: Other labels the base model is known by.
        k: Directions of the basis where the space keeps coefficients alone.
        live: Number of tasks that are live.
        added_bytes: Bytes that the versions brought, as `VersionRow`; likewise `raw_bytes`.
        head: Number of the newest commit applied; its id is `head_id`.
    """

    name = _key(TEXT)
    base_model = _required(TEXT)
    base_revision = _optional(TEXT)
    base_labels = _required(TextList())
    budget = _required(REAL)
    keep_original = _required(FLAG)
    references = _required(FLAG)
    refit = _required(FLAG)
    pseudo_rank = _optional(INTEGER)
    k = _optional(INTEGER)
    phi = _required(INTEGER)
    max_dependents = _optional(INTEGER)
    require = _required(TextList())
    live = _required(INTEGER)
    added_bytes = _required(INTEGER)
    raw_bytes = _required(INTEGER)
    head = _required(INTEGER)
    head_id = _required(TEXT)


class CommitRow(Row, name="sr_commits"):
    """One commit.

    `note` and `basis` are the digests of its note and of the basis it brought, `detail` what it
    did, as a phrase.
    """

    space = _key(TEXT, ForeignKey("sr_spaces.name"))
    number = _key(INTEGER)
    id = _required(TEXT)
    parent = _required(TEXT)
    kind = _required(TEXT)
    time = _required(TEXT)
    key = _required(TEXT)
    note = _optional(TEXT)
    author = _optional(TEXT)
    message = _required(TEXT)
    detail = _required(TEXT)
    basis = _optional(TEXT)
    rules = (
        UniqueConstraint("space", "key"),
        UniqueConstraint("space", "id"),
        Index(None, "space", "time", "number"),
        Index(None, "space", "kind", "number"),
        Index(None, "space", "author", "number"),
        _index_of_bases("ix_sr_commits_bases", "number"),
        _index_of_bases("ix_sr_commits_space_basis", "basis"),
    )


class TaskRow(Row, name="sr_tasks"):
    """One task: its place in the order of creation, from 1; `since` is the commit that made it."""

    space = _key(TEXT, ForeignKey("sr_spaces.name"))
    task = _key(INTEGER)
    since = _required(INTEGER)


class TaskNameRow(Row, name="sr_task_names"):
    """A name of a task; the current one has no `until`, older ones lead to the task for ever."""

    space = _key(TEXT)
    name = _key(TEXT)
    since = _key(INTEGER)
    until = _optional(INTEGER)
    task = _required(INTEGER)
    rules = (_of_task(), Index(None, "space", "task", "until"))


class TaskLifeRow(Row, name="sr_task_lives"):
    """A stretch of time in which a task is live: from its creation or return to its drop."""

    space = _key(TEXT)
    task = _key(INTEGER)
    since = _key(INTEGER)
    until = _optional(INTEGER)
    rules = (_of_task(),)


class VersionRow(Row, name="sr_task_versions"):
    """One version of a task.

    Attributes:
        number: The commit that made it.
        name: The task's name at that commit.
        source_digest: Digest of the given adapter.
        budget: The largest error allowed; missing where there was no limit.
        norm: Frobenius norm of the scaled dW as given, to which errors are relative.
        before: Where a refit made it: the error of the version before.
        bound: Whether `error` is an upper bound.
        restored_from: The version it repeats, where a restore made it.
        note_digest: The note that speaks of its source and files, under the task name `note_task`.
        remarks: What was not kept or is worth knowing.
        removed: The commit from which on it is not read any more.
    """

    space = _key(TEXT)
    task = _key(INTEGER)
    version = _key(INTEGER)
    number = _required(INTEGER)
    name = _required(TEXT)
    adapter_digest = _required(TEXT)
    layout_digest = _required(TEXT)
    tensors_digest = _required(TEXT)
    source_digest = _required(TEXT)
    budget = _optional(REAL)
    error = _required(REAL)
    norm = _required(REAL)
    before = _optional(REAL)
    bound = _required(FLAG)
    raw_bytes = _required(INTEGER)
    added_bytes = _required(INTEGER)
    config_digest = _optional(TEXT)
    note_digest = _optional(TEXT)
    note_task = _required(TEXT)
    source_kind = _optional(TEXT)
    source_location = _optional(TEXT)
    source_revision = _optional(TEXT)
    restored_from = _optional(INTEGER)
    remarks = _required(TextList())
    removed = _optional(INTEGER)
    rules = (
        _of_task(),
        ForeignKeyConstraint(["space", "number"], ["sr_commits.space", "sr_commits.number"]),
        UniqueConstraint("space", "task", "number"),
        Index(None, "space", "number", "task"),
        Index(None, "space", "adapter_digest", "number"),
        Index(None, "space", "source_digest"),
        Index(None, "space", "tensors_digest"),
    )


class TouchRow(Row, name="sr_touches"):
    """A task a commit is about, and the version it made or speaks of."""

    space = _key(TEXT)
    number = _key(INTEGER)
    task = _key(INTEGER)
    version = _optional(INTEGER)
    rules = (
        _of_task(),
        ForeignKeyConstraint(["space", "number"], ["sr_commits.space", "sr_commits.number"]),
        Index(None, "space", "task", "number"),
    )


class ParentRow(Row, name="sr_parents"):
    """A parent of a task version: it is derived from it or, with a weight, was merged of it."""

    space = _key(TEXT)
    task = _key(INTEGER)
    version = _key(INTEGER)
    position = _key(INTEGER)
    parent_task = _required(INTEGER)
    parent_version = _required(INTEGER)
    weight = _optional(TEXT)
    rules = (_of_version(),)


class AliasRow(Row, name="sr_aliases"):
    """What an alias of a task stands for, over time."""

    space = _key(TEXT)
    task = _key(INTEGER)
    name = _key(TEXT)
    since = _key(INTEGER)
    until = _optional(INTEGER)
    version = _required(INTEGER)
    rules = (_of_version(), Index(None, "space", "name", "task"))


class TagRow(Row, name="sr_tags"):
    """A name of a commit, for ever; `since` is the commit that gave it."""

    space = _key(TEXT)
    name = _key(TEXT)
    number = _required(INTEGER)
    since = _required(INTEGER)
    rules = (ForeignKeyConstraint(["space", "number"], ["sr_commits.space", "sr_commits.number"]),)


class LabelRow(Row, name="sr_labels"):
    """A label of a task version, over time."""

    space = _key(TEXT)
    task = _key(INTEGER)
    version = _key(INTEGER)
    name = _key(TEXT)
    since = _key(INTEGER)
    until = _optional(INTEGER)
    value = _required(TEXT)
    rules = (
        _of_version(),
        Index(None, "space", "since"),
        Index(None, "space", "name", "value", "task", "version"),
    )


class MetricRow(Row, name="sr_metrics"):
    """A metric of a task version, over time; the value as written in the note."""

    space = _key(TEXT)
    task = _key(INTEGER)
    version = _key(INTEGER)
    name = _key(TEXT)
    since = _key(INTEGER)
    until = _optional(INTEGER)
    value = _required(TEXT)
    rules = (_of_version(), Index(None, "space", "since"))


class ModuleRow(Row, name="sr_modules"):
    """The shape of one module (or of each of its experts) of the space's base model."""

    space = _key(TEXT, ForeignKey("sr_spaces.name"))
    module = _key(TEXT)
    out = _required(INTEGER)
    width = _required(INTEGER)
    experts = _required(INTEGER)
    since = _required(INTEGER)


class ObjectRow(Row, name="sr_objects"):
    """An object that records or notes of a space name, its role and the first commit to do so."""

    space = _key(TEXT, ForeignKey("sr_spaces.name"))
    digest = _key(TEXT)
    role = _key(TEXT)
    since = _required(INTEGER)


Temporal = TaskNameRow | TaskLifeRow | AliasRow | LabelRow | MetricRow
OfTask = Temporal | VersionRow | TouchRow


def holds(row: type[Temporal], number: ColumnElement[int] | int) -> ColumnElement[bool]:
    """Return the condition that a row with `since` and `until` holds at a commit number.

    The sum keeps a database from looking rows up by it: most of all hold.
    """
    return (row.since + 0 <= number) & or_(row.until.is_(None), row.until > number)


def names_task_of(row: type[OfTask]) -> ColumnElement[bool]:
    """Return the condition that a `TaskNameRow` has the present name of a row's task."""
    return (
        (TaskNameRow.space == row.space)
        & (TaskNameRow.task == row.task)
        & TaskNameRow.until.is_(None)
    )


def is_commit_of(row: type[Row], number: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a `CommitRow` is the commit that a row names by its number."""
    return (CommitRow.space == row.table.c.space) & (CommitRow.number == number)


def task_of(space: str | BindParameter[str], name: str | BindParameter[str]) -> ColumnElement[int]:
    """Return the number of the task that has or had a name, as a scalar subquery."""
    return (
        select(TaskNameRow.task)
        .where(TaskNameRow.space == space, TaskNameRow.name == name)
        .limit(1)
        .scalar_subquery()
    )
