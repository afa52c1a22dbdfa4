"""Names and references: the one grammar for everything a user may type.

A reference is `[space/]task[@selector][~n]` or, for a whole space, `[space/]@selector`. The parser
is pure: it says what was asked for; whether it exists is the catalog's to say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Final, NewType

from share_registry.errors import InvalidInputError, ensure
from share_registry.kinds import shown
from share_registry.times import DATE, end_of

# sha256 of a file's bytes, 64 lowercase hexadecimal digits
Digest = NewType("Digest", str)
SpaceName = NewType("SpaceName", str)
TaskName = NewType("TaskName", str)
# Task version, counted from 1
Version = NewType("Version", int)
# Position in a space's log, counted from 1
CommitNumber = NewType("CommitNumber", int)


class Side(StrEnum):
    """The two factors of a module: rows of A, rows of the transposed B."""

    A = "a"
    B = "b"


NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_WINDOWS: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
_RESERVED: Final = re.compile(
    r"v[0-9]+|c[0-9]+|latest|head|[0-9a-f]{8,}|[0-9]{4}-[0-9]{2}-[0-9]{2}.*"
)
_STATE: Final = re.compile(r"c[1-9][0-9]{0,14}|[0-9a-f]{8,64}|[0-9]{4}-[0-9]{2}-[0-9]{2}.*")
_LONGEST: Final = 256
_REF: Final = re.compile(
    r"(?:(?P<space>[^/@~]+)/)?(?P<task>[^/@~]*)(?:@(?P<selector>[^@~]+))?"
    r"(?:~(?P<back>0|[1-9][0-9]{0,8}))?"
)


class Selector(StrEnum):
    """What the part behind `@` is."""

    LATEST = "latest"
    VERSION = "version"
    COMMIT = "commit"
    TIME = "time"
    DIGEST = "digest"
    NAME = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One parsed reference.

    Attributes:
        space: Space name, or None for the session's.
        task: Task name, or None for the whole space.
        selector: Kind of the part behind `@`; LATEST where there is none.
        value: The version or commit number, the end of the asked time (RFC 3339, UTC), the hex
            prefix or the alias or tag name; "" for LATEST.
        back: `~n`: that many versions (or alias targets) earlier.
        text: What was typed.
    """

    space: SpaceName | None
    task: TaskName | None
    selector: Selector
    value: str
    back: int
    text: str


def space_name(text: str) -> SpaceName:
    """Check a space name. Raises InvalidInputError."""
    return SpaceName(_name(text, "space"))


def task_name(text: str) -> TaskName:
    """Check a task name. Raises InvalidInputError."""
    return TaskName(_name(text, "task"))


def alias_name(text: str) -> str:
    """Check an alias or tag name: the name grammar, and nothing that a selector could be taken for.

    Raises InvalidInputError.
    """
    _name(text, "alias or tag")
    ensure(
        not is_reserved(text),
        InvalidInputError(
            f"alias or tag {text!r} reads as a version, a commit, a date or a digest.",
            hint="Pick a name that is not v<N>, c<N>, latest, head, a date "
            "or 8 or more hex digits.",
        ),
    )
    return text


def is_name(text: str) -> bool:
    """Tell whether a text may name a space, task, alias or tag (spec NAM-01)."""
    return (
        bool(NAME.fullmatch(text))
        and ".." not in text
        and not text.endswith(".")
        and not _WINDOWS.fullmatch(text)
    )


def is_reserved(text: str) -> bool:
    """Tell whether a name reads as another selector: no alias or tag has it (spec NAM-03)."""
    return bool(_RESERVED.fullmatch(text))


def is_state(text: str) -> bool:
    """Tell whether a name reads as a commit, a time or a commit id: what `@` stands before."""
    return bool(_STATE.fullmatch(text))


def digest(text: str) -> Digest:
    """Check a sha256 in lowercase hexadecimal. Raises InvalidInputError."""
    if not isinstance(text, str) or not DIGEST.fullmatch(text):
        raise InvalidInputError(
            f"digest {shown(text)} is not 64 lowercase hexadecimal digits.",
            hint="A digest is the sha256 of a file's bytes.",
        )
    return Digest(text)


def parse_reference(text: str) -> Reference:
    """Parse a reference of a task version or, with an empty task, of a whole space.

    Raises InvalidInputError.
    """
    if len(text) > _LONGEST:
        raise InvalidInputError(
            f"reference {text[:80]!r}... has {len(text)} characters, "
            f"at most {_LONGEST} are allowed.",
            hint="Names have at most 64 characters.",
        )
    match = _REF.fullmatch(text)
    if match is None or (not match["task"] and match["selector"] is None):
        raise InvalidInputError(
            f"reference {text[:80]!r} is not [space/]task[@selector][~n] or [space/]@selector.",
            hint="Examples: cola, cola@v3, cola@prod, cola@latest~1, cola@2026-11-16, @c412.",
        )
    selector, value = _selector(match["selector"], text)
    return Reference(
        space=space_name(match["space"]) if match["space"] else None,
        task=task_name(match["task"]) if match["task"] else None,
        selector=selector,
        value=value,
        back=int(match["back"] or 0),
        text=text,
    )


def split_task(text: str) -> tuple[SpaceName | None, str]:
    """Return the space, None where there is none, and the task in `[space/]task`.

    Raises InvalidInputError for a malformed space, or what says more than a task.
    """
    space, slash, task = text.rpartition("/")
    name = re.split("[@~]", task)[0]
    ensure(
        name == task,
        InvalidInputError(
            f"{text!r} is not the name of a task.",
            hint=f"Give the name alone: {space}{slash}{name or 'task'}.",
        ),
    )
    return space_name(space) if slash else None, task


def first_and_more(names: Sequence[str], first: int = 1) -> str:
    """Return many names as the first of them and how many more: `cola@v1 and 399 more`."""
    if len(names) <= first + 1:
        return ", ".join(names)
    return f"{', '.join(names[:first])} and {len(names) - first} more"


def near_misses(text: str, names: Sequence[str]) -> str:
    """Return a hint that lists the names closest to a text, or the first few of all.

    Of names such as `space/task` the last part is compared.
    """
    if close := close_names(text, names):
        return f"Did you mean {' or '.join(close)}?"
    if not names:
        return "There are none yet."
    return f"There {'is' if len(names) == 1 else 'are'}: {first_and_more(sorted(names), 8)}."


def close_names(text: str, names: Sequence[str]) -> list[str]:
    """Return up to three names that a text may have been meant for, the closest first."""
    plain = {name: name.rpartition("/")[2] for name in names}
    matches = get_close_matches(text, {*plain.values()}, n=3, cutoff=0.5)
    return [name for match in matches for name in names if plain[name] == match][:3]


def is_slip(text: str, name: str) -> bool:
    """Tell whether a name is most likely another mistyped; its numbers are never the slip."""
    digits = re.findall(r"[0-9]+", text) == re.findall(r"[0-9]+", name)
    return text != name and digits and bool(get_close_matches(text, [name], cutoff=0.8))


def _name(text: str, kind: str) -> str:
    if not isinstance(text, str) or not is_name(text):
        raise InvalidInputError(
            f"{kind} name {shown(text)} is not allowed.",
            hint="Use 1 to 64 of a-z 0-9 . _ - starting with a letter or digit, "
            "without '..', a trailing dot or a device name.",
        )
    return text


def _selector(text: str | None, whole: str) -> tuple[Selector, str]:
    if text is None or text in ("latest", "head"):
        return Selector.LATEST, ""
    if re.fullmatch(r"v[1-9][0-9]{0,14}", text):
        return Selector.VERSION, text[1:]
    if re.fullmatch(r"c[1-9][0-9]{0,14}", text):
        return Selector.COMMIT, text[1:]
    if DATE.fullmatch(text):
        return Selector.TIME, end_of(text, whole)
    if re.fullmatch(r"[0-9a-f]{8,64}", text):
        return Selector.DIGEST, text
    if re.fullmatch(r"[vVcC]\d+", text):
        raise InvalidInputError(
            f"{text!r} in {whole!r} is not a version or a commit.",
            hint="Versions are written v1, v2, ... and commits c1, c2, ...: "
            "lower case, from 1, no zero in front.",
        )
    return Selector.NAME, alias_name(text)
