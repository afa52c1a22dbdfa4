"""Read an adapter's base model, and derive names from labels and directories."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.names import SpaceName, TaskName, space_name, task_name

_CACHE: Final = re.compile(
    r".*(?:^|[/\\])models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]?"
)
_LOCAL: Final = re.compile(r"[/\\~.].*|[A-Za-z]:[/\\].*|.*\\.*|[^/]+/[^/]+/.*")
_GENERIC: Final = re.compile(
    r"(checkpoint-|adapter|output).*|([-_.]?(v?\d+|s\d+|final|best|last|latest|lora|default|model"
    r"|peft|run|step|epoch|ckpt|checkpoint|tmp|adapter))+"
)
_MAX_LABEL: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelLabel:
    """The base model as an adapter names it.

    Attributes:
        label: Hub id or path; "" where the config names none. Layer replication makes it another
            model with another label.
        revision: Revision of the base model, if the config claims one.
    """

    label: str
    revision: str | None


def base_of(config: Mapping[str, object]) -> BaseModelLabel:
    """Read the base model's label and revision. Raises InvalidInputError unless they are texts."""
    label, revision = config.get("base_model_name_or_path") or "", config.get("revision")
    if (
        not isinstance(label, str)
        or not isinstance(revision, str | None)
        or len(label) > _MAX_LABEL
    ):
        raise InvalidInputError(
            f"base model {str(label)[:80]!r} at revision {str(revision)[:80]!r}:"
            f" expected texts of at most {_MAX_LABEL} characters.",
            hint="Correct the config.",
        )
    if match := _CACHE.fullmatch(label):
        label, revision = f"{match[1]}/{match[2]}", match[3]
    if config.get("layer_replication"):
        layers = json.dumps(config["layer_replication"], separators=(",", ":"))
        label = f"{label}#layers={layers}"[:_MAX_LABEL]
    return BaseModelLabel(label=label, revision=revision[:128] if revision else None)


def is_local(label: str) -> bool:
    """Tell whether a label is a path on somebody's machine rather than a Hub id."""
    return _LOCAL.fullmatch(label) is not None


def space_name_of(label: str) -> SpaceName:
    """Derive a space name from the last component of a base model's label.

    Raises RefusedError where nothing is left.
    """
    try:
        return space_name(_slug(re.split(r"[/\\]", label.rstrip("/\\"))[-1]))
    except InvalidInputError as error:
        raise RefusedError(
            f"no space name can be made of the base model {label[:80]!r}.",
            hint="Name the space: space=..., or create it first.",
        ) from error


def derive_task(location: str) -> TaskName:
    """Derive a task name from the name of a directory or repository.

    Raises:
        RefusedError: the name says nothing about the task.
    """
    parts = [part for part in re.split(r"[/\\]", location.rstrip("/\\")) if part not in ("", ".")]
    name = _slug(parts[-1]) if parts else ""
    if not name or _GENERIC.fullmatch(name):
        parents = map(_slug, reversed(parts[:-1]))
        parent = next(
            (slug for slug in parents if slug and not _GENERIC.fullmatch(slug)), "my-task"
        )
        raise RefusedError(
            f"directory name {PurePosixPath(location).name or location!r} is generic,"
            " expected one that names a task.",
            hint=f"Name the task: task={parent!r}.",
        )
    try:
        return task_name(name)
    except InvalidInputError as error:
        raise RefusedError(
            f"no task name can be made of {parts[-1][:80]!r}.", hint="Name the task: task=..."
        ) from error


def _slug(text: str) -> str:
    slug = re.sub(r"\.\.+", ".", re.sub(r"[^a-z0-9._-]+", "-", text.lower()))
    return slug.strip("-._")[:64].rstrip(".-_")
