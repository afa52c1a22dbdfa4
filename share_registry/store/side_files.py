"""Files beside FORMAT that a store can do without: the last records as noted, and second copies.

They have names of catalogs, so that earlier releases know them (spec STO-02).
"""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

from share_registry import names
from share_registry.errors import IntegrityError, NotFoundError, StoreError
from share_registry.format.canonical import sha256
from share_registry.names import (
    Digest,
    SpaceName,
)
from share_registry.outside.files import Outside
from share_registry.store.head_notes import (
    CATALOG,
    MAX_NOTE_BYTES,
    head_name,
    is_head_name,
    parse_head,
    space_of_head,
    write_head,
)
from share_registry.store.protocol import MAX_OBJECT_BYTES, KeptHead

_SPARE: Final = f"{CATALOG}.spare-"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def spare_name(digest: Digest) -> str:
    """Return the name of the second copy of an object. Raises InvalidInputError."""
    return f"{_SPARE}{names.digest(digest)}"


def digest_of_spare(name: str) -> Digest | None:
    """Return the object that a name is of a second copy of, None for another name."""
    digest = name.removeprefix(_SPARE)
    return Digest(digest) if digest != name and _DIGEST.fullmatch(digest) else None


class SideFiles:
    """What lies beside FORMAT in a directory.

    Args:
        root: The directory.
        outside: The way to the file system.
        temporary: Writes a file under a temporary name; given its bytes and the failpoint.
    """

    def __init__(
        self,
        root: Path,
        outside: Outside,
        temporary: Callable[[bytes, str], AbstractContextManager[Path]],
    ) -> None:
        self._root = root
        self._outside = outside
        self._temporary = temporary

    def keep_head(self, space: SpaceName, head: KeptHead | None) -> None:
        """Note the last record of a space; None removes what was noted."""
        path = self._root / head_name(space)
        present = self.head(space)
        if head is None:
            self._outside.remove(path)
        else:
            with self._temporary(write_head(space, head), "head") as temporary:
                self._outside.replace(temporary, path)
        if present is not None and (head is None or head.number < present.number):
            # one that came back would name records that were given up
            self._outside.sync_directory(self._root)

    def heads(self) -> dict[SpaceName, KeptHead]:
        """Return what was noted of every space."""
        spaces = filter(None, map(space_of_head, self._outside.names(self._root)))
        heads = {space: self.head(space) for space in spaces}
        return {space: head for space, head in heads.items() if head is not None}

    def head(self, space: SpaceName) -> KeptHead | None:
        """Return what was noted of a space; None where nothing sound is there."""
        try:
            content = self._outside.read(self._root / head_name(space), limit=MAX_NOTE_BYTES)
        except (NotFoundError, IntegrityError):
            return None
        return parse_head(space, content)

    def keep_spare(self, content: bytes, digest: Digest) -> None:
        """Keep a second copy of an object."""
        # spec STO-14: the object itself is there
        with suppress(StoreError):
            if self.spare(digest) is None:
                with self._temporary(content, "spare") as temporary:
                    self._outside.replace(temporary, self._spare_path(digest))

    def spare(self, digest: Digest) -> bytes | None:
        """Return the second copy of an object; None where there is none that is sound."""
        path = self._spare_path(digest)
        try:
            content = self._outside.read(path, limit=MAX_OBJECT_BYTES)
        except (NotFoundError, IntegrityError):
            return None
        return content if sha256(content) == digest else None

    def spares(self) -> list[Digest]:
        """Return the objects of which there is a second copy, sorted."""
        files = self._outside.names(self._root)
        return [digest for digest in map(digest_of_spare, files) if digest is not None]

    def remove_spare(self, digest: Digest) -> bool:
        """Remove the second copy of an object; tell whether there was one."""
        return self._outside.remove(self._spare_path(digest))

    def is_spoilt(self, name: str, has_records: Callable[[SpaceName], bool]) -> bool:
        """Tell whether a file has a name of these and not what belongs under it."""
        if name.startswith(_SPARE):
            digest = digest_of_spare(name)
            return digest is None or self.spare(digest) is None
        if not is_head_name(name):
            return False
        space = space_of_head(name)
        # of no space, malformed, or of a log that is gone
        return space is None or self.head(space) is None or not has_records(space)

    def _spare_path(self, digest: Digest) -> Path:
        return self._root / spare_name(digest)
