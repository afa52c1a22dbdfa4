"""Tables of the catalog.

Every key is natural and follows from the records alone (a task's number is its place in the order of creation), so that a catalog rebuilt from the store equals the old one row by row.
What changes over time stands in rows with `since` and `until`, commit numbers of the space: a row holds from commit `since` up to, not including, commit `until`.
"""

import json
from typing import Annotated, Final

from sqlalchemy import BigInteger, Boolean, ColumnElement, ForeignKey, ForeignKeyConstraint, Index, MetaData, Text, UniqueConstraint, or_
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import Float, TypeDecorator

SCHEMA_VERSIONS: Final = ("0001",)
"""Schema versions this release knows, oldest first; the last is the one it works with."""
SCHEMA_TABLE: Final = "share_registry_schema"
"""Alembic's version table: our own, so that other software may keep its tables in the same database."""

TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")
"""Text compared by code point in both databases: times, digests and names sort alike everywhere."""


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


Strings = Annotated[tuple[str, ...], mapped_column(TextList)]
Name = Annotated[str, mapped_column(TEXT)]
Number = Annotated[int, mapped_column(BigInteger)]
SpaceKey = Annotated[str, mapped_column(TEXT, ForeignKey("sr_spaces.name"), primary_key=True)]
NameKey = Annotated[str, mapped_column(TEXT, primary_key=True)]
NumberKey = Annotated[int, mapped_column(BigInteger, primary_key=True, autoincrement=False)]


class Row(DeclarativeBase):
    """Base of every table."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )


def _of_task() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["space", "task"], ["sr_tasks.space", "sr_tasks.task"])


def _of_version() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["space", "task", "version"], ["sr_task_versions.space", "sr_task_versions.task", "sr_task_versions.version"])


class IdentityRow(Row):
    """Which store this catalog is an index of; one row."""

    __tablename__ = "sr_registry"
    store: Mapped[NameKey]


class SpaceRow(Row):
    """One space: its base model, policy and head as of now.

    Attributes:
        base_labels: Other labels the base model is known by.
        head: Number of the newest commit applied; its id is `head_id`.
    """

    __tablename__ = "sr_spaces"
    name: Mapped[NameKey]
    base_model: Mapped[Name]
    base_revision: Mapped[Name | None]
    base_labels: Mapped[Strings]
    budget: Mapped[float] = mapped_column(Float(53))
    keep_original: Mapped[bool] = mapped_column(Boolean)
    references: Mapped[bool] = mapped_column(Boolean)
    head: Mapped[Number]
    head_id: Mapped[Name]


class CommitRow(Row):
    """One commit; `note` is the digest of its note, `detail` what it did, as a phrase."""

    __tablename__ = "sr_commits"
    space: Mapped[SpaceKey]
    number: Mapped[NumberKey]
    id: Mapped[Name]
    parent: Mapped[Name]
    kind: Mapped[Name]
    time: Mapped[Name]
    key: Mapped[Name]
    note: Mapped[Name | None]
    author: Mapped[Name | None]
    message: Mapped[Name]
    detail: Mapped[Name]
    __table_args__ = (
        UniqueConstraint("space", "key"),
        UniqueConstraint("space", "id"),
        Index(None, "space", "time"),
        Index(None, "time", "space", "number"),
    )


class TaskRow(Row):
    """One task: its place in the order of creation, from 1; `since` is the commit that made it."""

    __tablename__ = "sr_tasks"
    space: Mapped[SpaceKey]
    task: Mapped[NumberKey]
    since: Mapped[Number]


class TaskNameRow(Row):
    """A name of a task; the current one has no `until`, older ones lead to the task for ever."""

    __tablename__ = "sr_task_names"
    space: Mapped[NameKey]
    name: Mapped[NameKey]
    since: Mapped[NumberKey]
    until: Mapped[Number | None]
    task: Mapped[Number]
    __table_args__ = (_of_task(), Index(None, "space", "task", "until"))


class TaskLifeRow(Row):
    """A stretch of time in which a task is live: from its creation or return to its drop."""

    __tablename__ = "sr_task_lives"
    space: Mapped[NameKey]
    task: Mapped[NumberKey]
    since: Mapped[NumberKey]
    until: Mapped[Number | None]
    __table_args__ = (_of_task(),)


class VersionRow(Row):
    """One version of a task.

    Attributes:
        number: The commit that made it.
        name: The task's name at that commit.
        source_digest: Digest of the adapter handed in.
        restored_from: The version it repeats, where a restore made it.
        note_digest: The note that speaks of its source and files, under the task name `note_task`.
        remarks: What was not kept or is worth knowing.
    """

    __tablename__ = "sr_task_versions"
    space: Mapped[NameKey]
    task: Mapped[NumberKey]
    version: Mapped[NumberKey]
    number: Mapped[Number]
    name: Mapped[Name]
    adapter_digest: Mapped[Name]
    layout_digest: Mapped[Name]
    tensors_digest: Mapped[Name]
    source_digest: Mapped[Name]
    budget: Mapped[float] = mapped_column(Float(53))
    error: Mapped[float] = mapped_column(Float(53))
    raw_bytes: Mapped[Number]
    added_bytes: Mapped[Number]
    config_digest: Mapped[Name | None]
    note_digest: Mapped[Name | None]
    note_task: Mapped[Name]
    source_kind: Mapped[Name | None]
    source_location: Mapped[Name | None]
    source_revision: Mapped[Name | None]
    restored_from: Mapped[Number | None]
    remarks: Mapped[Strings]
    __table_args__ = (
        _of_task(),
        ForeignKeyConstraint(["space", "number"], ["sr_commits.space", "sr_commits.number"]),
        UniqueConstraint("space", "task", "number"),
        Index(None, "space", "number"),
        Index(None, "space", "adapter_digest"),
    )


class TouchRow(Row):
    """A task a commit is about, and the version it made or speaks of."""

    __tablename__ = "sr_touches"
    space: Mapped[NameKey]
    number: Mapped[NumberKey]
    task: Mapped[NumberKey]
    version: Mapped[Number | None]
    __table_args__ = (
        _of_task(),
        ForeignKeyConstraint(["space", "number"], ["sr_commits.space", "sr_commits.number"]),
        Index(None, "space", "task", "number"),
    )


class ParentRow(Row):
    """A task version that another one declares to be derived from."""

    __tablename__ = "sr_parents"
    space: Mapped[NameKey]
    task: Mapped[NumberKey]
    version: Mapped[NumberKey]
    position: Mapped[NumberKey]
    parent_task: Mapped[Number]
    parent_version: Mapped[Number]
    __table_args__ = (_of_version(),)


class AliasRow(Row):
    """What an alias of a task stands for, over time."""

    __tablename__ = "sr_aliases"
    space: Mapped[NameKey]
    task: Mapped[NumberKey]
    name: Mapped[NameKey]
    since: Mapped[NumberKey]
    until: Mapped[Number | None]
    version: Mapped[Number]
    __table_args__ = (_of_version(), Index(None, "space", "name", "until"))


class TagRow(Row):
    """A name of a commit, for ever; `since` is the commit that gave it."""

    __tablename__ = "sr_tags"
    space: Mapped[NameKey]
    name: Mapped[NameKey]
    number: Mapped[Number]
    since: Mapped[Number]
    __table_args__ = (ForeignKeyConstraint(["space", "number"], ["sr_commits.space", "sr_commits.number"]),)


class LabelRow(Row):
    """A label of a task version, over time."""

    __tablename__ = "sr_labels"
    space: Mapped[NameKey]
    task: Mapped[NumberKey]
    version: Mapped[NumberKey]
    name: Mapped[NameKey]
    since: Mapped[NumberKey]
    until: Mapped[Number | None]
    value: Mapped[Name]
    __table_args__ = (_of_version(), Index(None, "space", "since"))


class MetricRow(Row):
    """A metric of a task version, over time; the value as written in the note."""

    __tablename__ = "sr_metrics"
    space: Mapped[NameKey]
    task: Mapped[NumberKey]
    version: Mapped[NumberKey]
    name: Mapped[NameKey]
    since: Mapped[NumberKey]
    until: Mapped[Number | None]
    value: Mapped[Name]
    __table_args__ = (_of_version(), Index(None, "space", "since"))


class ModuleRow(Row):
    """The shape of one module (or of each of its experts) of the space's base model."""

    __tablename__ = "sr_modules"
    space: Mapped[SpaceKey]
    module: Mapped[NameKey]
    out: Mapped[Number]
    width: Mapped[Number]
    experts: Mapped[Number]
    since: Mapped[Number]


class ObjectRow(Row):
    """An object that the records and notes of a space name, its role, and the commit that named it first."""

    __tablename__ = "sr_objects"
    space: Mapped[SpaceKey]
    digest: Mapped[NameKey]
    role: Mapped[NameKey]
    since: Mapped[Number]


class LeaseRow(Row):
    """An advisory write lease of a space, held until a time; no promise rests on it."""

    __tablename__ = "sr_leases"
    space: Mapped[NameKey]
    holder: Mapped[Name]
    expires: Mapped[Name]


Temporal = TaskNameRow | TaskLifeRow | AliasRow | LabelRow | MetricRow


def holds(row: type[Temporal], number: ColumnElement[int] | Mapped[int] | int) -> ColumnElement[bool]:
    """Return the condition that a row with `since` and `until` holds at a commit number."""
    return (row.since <= number) & or_(row.until.is_(None), row.until > number)
