"""The note beside a log of which record was published last, as text (spec STO-02).

It lies beside FORMAT under a name of a catalog, so that whoever does not know it ignores it.
"""

import re
from typing import Final

from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, Digest, SpaceName, space_name
from share_registry.store.protocol import KeptHead, is_space_name

CATALOG: Final = "catalog.sqlite"
MAX_NOTE_BYTES: Final = 256
_HEAD: Final = f"{CATALOG}.head-"
_TEXT: Final = re.compile(rb"([1-9][0-9]{0,18}) ([0-9a-f]{64}) [0-9a-f]{64}\n")


def head_name(space: SpaceName) -> str:
    """Return the name of a space's note. Raises InvalidInputError."""
    return f"{_HEAD}{space_name(space)}"


def is_head_name(name: str) -> bool:
    """Tell whether a name is of a note, of whatever space."""
    return name.startswith(_HEAD)


def space_of_head(name: str) -> SpaceName | None:
    """Return the space of a note's name, None where it is of none."""
    space = name.removeprefix(_HEAD)
    return SpaceName(space) if is_head_name(name) and is_space_name(space) else None


def write_head(space: SpaceName, head: KeptHead) -> bytes:
    """Return a note: number and id, with a digest of both and the space."""
    text = f"{head.number} {head.id}"
    return f"{text} {sha256(f'{space} {text}'.encode())}\n".encode()


def parse_head(space: SpaceName, content: bytes) -> KeptHead | None:
    """Return what a note says, None where it is malformed."""
    match = _TEXT.fullmatch(content)
    if match is None:
        return None
    head = KeptHead(number=CommitNumber(int(match[1])), id=Digest(match[2].decode()))
    return head if write_head(space, head) == content else None
