"""Notes: what people wrote about one commit (spec NOT-01 to NOT-05).

Free text and personal data live in an object of its own, which can be removed without breaking the
chain of records.
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from share_registry.format.canonical import dump, load
from share_registry.format.fields import DigestField, FileNameField, NameField
from share_registry.format.layout import FORMAT_VERSION, Entry, Strict, check_kind, validate

# Labels of the note of an export that say where to
EXPORT_HOST: Final = "host"
EXPORT_PATH: Final = "path"
EXPORT_TARGET: Final = "target"


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
