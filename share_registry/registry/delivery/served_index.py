"""index.json: which directories beside it are served, and which were until when.

It has no time of its own and nothing of the machine that wrote it, so that whoever keeps the
directory writes the same bytes. It names only what is whole, and is replaced in one step.
"""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from share_registry.errors import IntegrityError
from share_registry.names import DIGEST
from share_registry.outside.files import Outside

INDEX_FILE: Final = "index.json"
# A name that is safe as a directory and as the name of an adapter in a server
_PART: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
SERVED_NAME: Final = rf"{_PART}--{_PART}--v[1-9][0-9]{{0,14}}-[0-9a-f]{{12}}"
_SERVED: Final = re.compile(SERVED_NAME)
_MAX_BYTES: Final = 64 << 20
_Name = Annotated[str, Field(pattern=rf"^{SERVED_NAME}$")]
_Digest = Annotated[str, Field(pattern=rf"^{DIGEST.pattern}$")]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ServedAdapter(_Model):
    """One directory that is served.

    Attributes:
        name: Its name, which no other content ever has.
        path: Where it is, from the index.
        ref: The version, `space/task@vN`.
        alias: The alias that stands for it.
        commit: Id of the commit that made the version.
        digest: sha256 over the names and digests of its files.
        profile: The profile of the export.
        target: The server that it was made for; None for any.
        base_model: What its config names as base model in place of what it named.
        base_config: sha256 of the base model's config.json that a GGUF was made with.
        size_bytes: Bytes of its files.
    """

    name: _Name
    path: _Name
    ref: str
    space: str
    task: str
    version: int = Field(ge=1)
    alias: str
    commit: _Digest
    digest: _Digest
    profile: Literal["native", "portable", "gguf", "diffusers"]
    target: str | None = None
    base_model: str | None
    base_config: _Digest | None = None
    size_bytes: int = Field(ge=0)


class RetiredDirectory(_Model):
    """A directory that is not served any more.

    Attributes:
        name: Its name.
        since_s: Since when, in seconds since 1970.
    """

    name: _Name
    since_s: int


class ServedIndex(_Model):
    """What is served.

    Attributes:
        version: Version of this document.
        store: Identity of the registry's store.
        alias: Everything behind it is served.
        space: Of one space alone; None for all.
        adapters: By space and task.
        retired: By name.
    """

    version: Literal[1] = 1
    store: str
    alias: str
    space: str | None
    adapters: tuple[ServedAdapter, ...] = Field(strict=False)
    retired: tuple[RetiredDirectory, ...] = Field(strict=False)

    def to_bytes(self) -> bytes:
        """Return the document."""
        return f"{self.model_dump_json(indent=1)}\n".encode()


def is_served_name(text: str) -> bool:
    """Tell whether a text may be the name of a directory that is served."""
    return _SERVED.fullmatch(text) is not None and ".." not in text


def read_index(root: Path, outside: Outside) -> ServedIndex | None:
    """Return the index of a directory; None where there is none.

    Raises IntegrityError where it is no such document.
    """
    path = root / INDEX_FILE
    if not outside.exists(path):
        return None
    content = outside.read(path, limit=_MAX_BYTES)
    try:
        return ServedIndex.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise IntegrityError(
            f"{path}: {where}: {first['msg']}.",
            hint="Run sync, which writes it anew.",
        ) from error
