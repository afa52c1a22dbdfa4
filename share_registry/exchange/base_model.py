"""Read an adapter's base model, and derive names from labels and directories."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.names import SpaceName, TaskName, space_name, task_name

_CACHE: Final = re.compile(
    r".*(?:^|[/\\])models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]?"
)
_LOCAL: Final = re.compile(r"[/\\~.].*|[A-Za-z]:[/\\].*|.*\\.*|[^/]+/[^/]+/.*")
# A run of digits is never tried in parts: a long one would take time without end.
_GENERIC: Final = re.compile(
    r"(checkpoint-|adapter|output|pytorch[-_](lora|model|adapter)).*|([-_.]?(v?\d++|s\d++|final|best|last|latest|lora|default|model"
    r"|peft|lycoris|run|step|epoch|ckpt|checkpoint|tmp|adapter))+"
)
# What files of adapters end in.
_SUFFIX: Final = re.compile(
    r"(?<=.)\.(safetensors|gguf|bin|pt|pth|npz|onnx_adapter|(pth\.)?lora|(lora\.)?h5)$",
    re.IGNORECASE,
)
_MAX_LABEL: Final = 512
_CLASS: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class Family(StrEnum):
    """Base models that are known to name and shape their modules alike."""

    MIXTRAL = "Mixtral"
    QWEN3_MOE = "Qwen3-MoE"
    QWEN2_MOE = "Qwen2-MoE"
    # q, k, v, o and gate, up, down, each a module of its own, without gates in the attention
    LLAMA = "Llama"


# What the class of a base model, or its label, has in lower case.
_FAMILIES: Final = {
    Family.MIXTRAL: re.compile(r"(?<![a-z])mixtral"),
    Family.QWEN3_MOE: re.compile(
        r"(?<![a-z])qwen3(moe|-moe|-(?!vl|omni|next)([a-z]+-)?\d+b-a\d+b)"
    ),
    Family.QWEN2_MOE: re.compile(r"(?<![a-z])qwen(1\.5|2)(moe|-moe|-\d+b-a\d+b)"),
    Family.LLAMA: re.compile(
        r"(?<![a-z])((code|tiny|smol)?llama|mistral|qwen2|qwen3(?![.-]?\d|-?next))"
    ),
}


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


def class_of(config: Mapping[str, object]) -> str:
    """Return the class of the base model; "" where an adapter's config does not name it."""
    mapping = config.get("auto_mapping")
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    # it goes into notes and messages as it is
    return name if isinstance(name, str) and _CLASS.fullmatch(name) else ""


def family_of(config: Mapping[str, object], label: str) -> Family | None:
    """Return the family of a base model by its class, else by its label; None where unknown.

    Args:
        config: The adapter's, which names the class in auto_mapping where it has no task_type.
        label: Label of the base model where the config names none, or a path.
    """
    own = base_of(config).label
    parts = _parts(label if label and (not own or is_local(own)) else own)
    name = (class_of(config) or "".join(parts[-1:])).lower()
    return next((family for family, marks in _FAMILIES.items() if marks.search(name)), None)


def is_local(label: str) -> bool:
    """Tell whether a label is a path on somebody's machine rather than a Hub id."""
    return _LOCAL.fullmatch(label) is not None


def space_name_of(label: str, *, spaces: Collection[str] = ()) -> SpaceName:
    """Derive a space name from the last component of a base model's label.

    A hint names one that is no space yet.

    Raises RefusedError where nothing is left, or a path's name that says nothing of the model: a
    space keeps its name for ever.
    """
    name = _slug(_parts(label)[-1]) if _parts(label) else ""
    is_hub_id = "/" in label and not is_local(label)
    if not is_hub_id and (_GENERIC.fullmatch(name) or len(name) == 1):
        raise RefusedError(
            f"base model {label[:80]!r} has a generic name, expected one to name a space after.",
            hint=create_hint(label, spaces=spaces),
        )
    try:
        return space_name(name)
    except InvalidInputError as error:
        raise RefusedError(
            f"no space name can be made of the base model {label[:80]!r}.",
            hint=create_hint(label, spaces=spaces),
        ) from error


def create_hint(label: str, *, spaces: Collection[str]) -> str:
    """Return how to create a space for a base model: under a name that is no space yet."""
    named = [*_specific(_parts(label)), "my-base"]
    if len(parts := _parts(label)) > 1 and not is_local(label):
        named.insert(0, _slug("-".join(parts)))
    name = next((name for name in named if name not in spaces), "another-name")
    return f"Create it under a name of your choice: create_space({name!r}, base_model={label!r})."


def derive_task(location: str) -> TaskName:
    """Derive a task name from the name of a directory, a file or a repository.

    Raises:
        RefusedError: the name says nothing about the task.
    """
    parts = _parts(location)
    if parts:
        parts[-1] = _SUFFIX.sub("", parts[-1])
    name = _slug(parts[-1]) if parts else ""
    if parts and _is_unspeakable(parts[-1]):
        raise RefusedError(
            f"no task name can be made of {parts[-1][:80]!r}: it has none of a-z and 0-9.",
            hint="Name the task: task=...",
        )
    if not name or _GENERIC.fullmatch(name):
        parent = next(_specific(parts[:-1]), "my-task")
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


def derive_task_of_folders(parts: Sequence[str]) -> str | None:
    """Derive a task name from the last of some folders whose name says something; None: none.

    None also where that is a name that no task can have.
    """
    unspeakable = [place for place, part in enumerate(parts) if _is_unspeakable(part)]
    return next(_specific(parts[unspeakable[-1] + 1 if unspeakable else 0 :]), None)


def _parts(location: str) -> list[str]:
    """Return the components of a path or label."""
    return [part for part in re.split(r"[/\\]", location) if part not in ("", ".")]


def _specific(parts: Sequence[str]) -> Iterator[str]:
    """Yield the names of the last components first that say something."""
    for slug in map(_slug, reversed(parts)):
        if len(slug) > 1 and not _GENERIC.fullmatch(slug):
            yield slug


def _is_unspeakable(part: str) -> bool:
    """Tell whether a name says something in letters that no task name has."""
    return not _slug(part) and any(map(str.isalnum, part))


def _slug(text: str) -> str:
    slug = re.sub(r"\.\.+", ".", re.sub(r"[^a-z0-9._-]+", "-", text.lower()))
    return slug.strip("-._")[:64].rstrip(".-_")
