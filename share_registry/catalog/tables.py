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
from typing import ClassVar, Final

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
from sqlalchemy.types import Float, TypeDecorator

SCHEMA_VERSIONS: Final = ("0001", "0002", "0003")
"""Schema versions this release knows, oldest first; the last is the one it works with."""
SCHEMA_TABLE: Final = "share_registry_schema"
"""Alembic's version table.

Our own, so that other software may keep its tables in the same database.
"""

TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")
"""Text compared by code point in both databases: times, digests and names sort alike everywhere."""
TABLES: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class TextList(TypeDecorator[tuple[str, ...]]):
    """A list of texts, as JSON."""

    impl = TEXT
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        """Return the JSON text."""
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...] | None:
        """Return the texts."""
        return None if value is None else tuple(json.loads(value))


class Row:
    """Base of every table.

    A class attribute is a column, and `rules` are the table's other constraints and indexes.

    Columns are declared as what they are in a query, `ColumnElement`: `Column` has types of its own
    only inside the ORM.
    """

    table: ClassVar[Table]
    rules: ClassVar[Sequence[SchemaItem]] = ()

    def __init_subclass__(cls, *, name: str) -> None:
        """Make the table of the columns."""
        columns = {
            attribute: value for attribute, value in vars(cls).items() if isinstance(value, Column)
        }
        for attribute, column in columns.items():
            column.name = column.key = attribute
        cls.table = Table(name, TABLES, *columns.values(), *cls.rules)


def _string() -> ColumnElement[str]:
    return Column(TEXT, nullable=False)


def _string_key() -> ColumnElement[str]:
    return Column(TEXT, primary_key=True)


def _space_key() -> ColumnElement[str]:
    return Column(TEXT, ForeignKey("sr_spaces.name"), primary_key=True)


def _optional_string() -> ColumnElement[str | None]:
    return Column(TEXT, nullable=True)


def _strings() -> ColumnElement[tuple[str, ...]]:
    return Column(TextList, nullable=False)


def _integer() -> ColumnElement[int]:
    return Column(BigInteger, nullable=False)


def _integer_key() -> ColumnElement[int]:
    return Column(BigInteger, primary_key=True, autoincrement=False)


def _optional_integer() -> ColumnElement[int | None]:
    return Column(BigInteger, nullable=True)


def _real() -> ColumnElement[float]:
    return Column(Float(53), nullable=False)


def _optional_real() -> ColumnElement[float | None]:
    return Column(Float(53), nullable=True)


def _flag() -> ColumnElement[bool]:
    return Column(Boolean, nullable=False)


def _index_of_bases(name: str, column: str) -> Index:
    """Return an index of those commits of a space that brought a basis."""
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

    store = _string_key()


class SpaceRow(Row, name="sr_spaces"):
    """One space: its base model, policy and head as of now.

    Attributes:
        base_labels: Other labels the base model is known by.
        k: Directions of the basis where the space keeps coefficients alone.
        live: Number of tasks that are live.
        head: Number of the newest commit applied; its id is `head_id`.
    """

    name = _string_key()
    base_model = _string()
    base_revision = _optional_string()
    base_labels = _strings()
    budget = _real()
    keep_original = _flag()
    references = _flag()
    refit = _flag()
    pseudo_rank = _optional_integer()
    k = _optional_integer()
    phi = _integer()
    live = _integer()
    head = _integer()
    head_id = _string()


class CommitRow(Row, name="sr_commits"):
    """One commit.

    `note` and `basis` are the digests of its note and of the basis it brought, `detail` what it
    did, as a phrase.
    """

    space = _space_key()
    number = _integer_key()
    id = _string()
    parent = _string()
    kind = _string()
    time = _string()
    key = _string()
    note = _optional_string()
    author = _optional_string()
    message = _string()
    detail = _string()
    basis = _optional_string()
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

    space = _space_key()
    task = _integer_key()
    since = _integer()


class TaskNameRow(Row, name="sr_task_names"):
    """A name of a task; the current one has no `until`, older ones lead to the task for ever."""

    space = _string_key()
    name = _string_key()
    since = _integer_key()
    until = _optional_integer()
    task = _integer()
    rules = (_of_task(), Index(None, "space", "task", "until"))


class TaskLifeRow(Row, name="sr_task_lives"):
    """A stretch of time in which a task is live: from its creation or return to its drop."""

    space = _string_key()
    task = _integer_key()
    since = _integer_key()
    until = _optional_integer()
    rules = (_of_task(),)


class VersionRow(Row, name="sr_task_versions"):
    """One version of a task.

    Attributes:
        number: The commit that made it.
        name: The task's name at that commit.
        source_digest: Digest of the adapter handed in.
        budget: The largest error allowed; missing where there was no limit.
        norm: Frobenius norm of the scaled dW handed in, to which errors are relative.
        before: Where a refit made it: the error of the version before.
        bound: Whether `error` is an upper bound.
        restored_from: The version it repeats, where a restore made it.
        note_digest: The note that speaks of its source and files, under the task name `note_task`.
        remarks: What was not kept or is worth knowing.
    """

    space = _string_key()
    task = _integer_key()
    version = _integer_key()
    number = _integer()
    name = _string()
    adapter_digest = _string()
    layout_digest = _string()
    tensors_digest = _string()
    source_digest = _string()
    budget = _optional_real()
    error = _real()
    norm = _real()
    before = _optional_real()
    bound = _flag()
    raw_bytes = _integer()
    added_bytes = _integer()
    config_digest = _optional_string()
    note_digest = _optional_string()
    note_task = _string()
    source_kind = _optional_string()
    source_location = _optional_string()
    source_revision = _optional_string()
    restored_from = _optional_integer()
    remarks = _strings()
    rules = (
        _of_task(),
        ForeignKeyConstraint(["space", "number"], ["sr_commits.space", "sr_commits.number"]),
        UniqueConstraint("space", "task", "number"),
        Index(None, "space", "number", "task"),
        Index(None, "space", "adapter_digest", "number"),
    )


class TouchRow(Row, name="sr_touches"):
    """A task a commit is about, and the version it made or speaks of."""

    space = _string_key()
    number = _integer_key()
    task = _integer_key()
    version = _optional_integer()
    rules = (
        _of_task(),
        ForeignKeyConstraint(["space", "number"], ["sr_commits.space", "sr_commits.number"]),
        Index(None, "space", "task", "number"),
    )


class ParentRow(Row, name="sr_parents"):
    """A task version that another one declares to be derived from, or, with a weight, was merged of."""

    space = _string_key()
    task = _integer_key()
    version = _integer_key()
    position = _integer_key()
    parent_task = _integer()
    parent_version = _integer()
    weight = _optional_string()
    rules = (_of_version(),)


class AliasRow(Row, name="sr_aliases"):
    """What an alias of a task stands for, over time."""

    space = _string_key()
    task = _integer_key()
    name = _string_key()
    since = _integer_key()
    until = _optional_integer()
    version = _integer()
    rules = (_of_version(), Index(None, "space", "name", "task"))


class TagRow(Row, name="sr_tags"):
    """A name of a commit, for ever; `since` is the commit that gave it."""

    space = _string_key()
    name = _string_key()
    number = _integer()
    since = _integer()
    rules = (ForeignKeyConstraint(["space", "number"], ["sr_commits.space", "sr_commits.number"]),)


class LabelRow(Row, name="sr_labels"):
    """A label of a task version, over time."""

    space = _string_key()
    task = _integer_key()
    version = _integer_key()
    name = _string_key()
    since = _integer_key()
    until = _optional_integer()
    value = _string()
    rules = (
        _of_version(),
        Index(None, "space", "since"),
        Index(None, "space", "name", "value", "task", "version"),
    )


class MetricRow(Row, name="sr_metrics"):
    """A metric of a task version, over time; the value as written in the note."""

    space = _string_key()
    task = _integer_key()
    version = _integer_key()
    name = _string_key()
    since = _integer_key()
    until = _optional_integer()
    value = _string()
    rules = (_of_version(), Index(None, "space", "since"))


class ModuleRow(Row, name="sr_modules"):
    """The shape of one module (or of each of its experts) of the space's base model."""

    space = _space_key()
    module = _string_key()
    out = _integer()
    width = _integer()
    experts = _integer()
    since = _integer()


class ObjectRow(Row, name="sr_objects"):
    """An object that the records and notes of a space name, its role, and the commit that named it first."""

    space = _space_key()
    digest = _string_key()
    role = _string_key()
    since = _integer()


class LeaseRow(Row, name="sr_leases"):
    """An advisory write lease of a space, held until a time; no promise rests on it."""

    space = _string_key()
    holder = _string()
    expires = _string()


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
