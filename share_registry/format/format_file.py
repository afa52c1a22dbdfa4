"""The file FORMAT: which format a store is of, and which store it is (spec STO-03)."""

import re
from typing import Annotated, Final, Literal

from pydantic import Field

from share_registry.errors import FormatError, InvalidInputError, ensure
from share_registry.format.canonical import dump, load
from share_registry.format.layout import Strict, check_version, validate

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class StoreFormat(Strict):
    """The FORMAT file: identity and features of a store. Immutable."""

    magic: Literal["share_registry"] = "share_registry"
    version: Literal[1] = 1
    store: Annotated[str, Field(pattern=f"^{_UUID.pattern}$")]
    read: list[str] = []
    write: list[str] = []
    gc: list[str] = []


def parse_format(content: bytes) -> StoreFormat:
    """Parse a FORMAT file.

    Raises:
        IntegrityError: malformed.
        FormatError: of another version, or in need of a read feature this release does not know.
    """
    value = load(content, subject="FORMAT", limit=1 << 20)
    ensure(
        value.get("magic") == "share_registry",
        FormatError("FORMAT is not of a share_registry store.", hint="Check the location."),
    )
    check_version(value, "FORMAT", member="version")
    store = validate(StoreFormat.model_validate, value, "FORMAT")
    ensure(
        not store.read,
        FormatError(
            f"store needs the unknown features {store.read}.", hint="Upgrade share_registry."
        ),
    )
    return store


def format_bytes(store: str) -> bytes:
    """Return the FORMAT file of a new store with this uuid. Raises InvalidInputError."""
    ensure(
        _UUID.fullmatch(store),
        InvalidInputError(
            f"store identity {store[:80]!r} is no uuid in lower case.",
            hint="Give str(uuid.uuid4()).",
        ),
    )
    return dump(StoreFormat(store=store).model_dump(mode="json"))
