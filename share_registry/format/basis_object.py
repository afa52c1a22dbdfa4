"""Basis object: rows fitted to be shared, a block a module and side (spec BAS-01 to BAS-07).

A binary object like an adapter object: the header lists the modules with their widths, `symbols`
holds the integer rows, `table` everything small.
"""

from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, ValidationError

from share_registry.errors import IntegrityError
from share_registry.format.adapter_table import MAX_K, Cursor, column, deflate, inflate
from share_registry.format.canonical import Json, require
from share_registry.format.layout import MAX_MODULES, Strict, check_kind, first_error
from share_registry.format.object_file import description, pack, unpack
from share_registry.format.packed_rows import decode_rows, piece_counts
from share_registry.format.symbols import MAX_BITS, Ints, encode_rows
from share_registry.stored import StoredBasis

MAX_WIDTH: Final = 1 << 24
# Characters of a module's name: that of a factor pair and the number of an expert
MAX_NAME: Final = 512 + len("#65535")
# Of all rows together. What a reader may have to take memory for, however small the object is
# (spec BAS-06).
MAX_NUMBERS: Final = 1 << 32
_SUBJECT: Final = "basis object"


class BasisModuleHeader(Strict):
    """One module and the widths of its two sides."""

    module: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    in_: Annotated[int, Field(alias="in", ge=1, le=MAX_WIDTH)]
    out: Annotated[int, Field(ge=1, le=MAX_WIDTH)]


class BasisHeader(Strict):
    """What a basis object says of itself."""

    format: Literal[1] = 1
    kind: Literal["basis"] = "basis"
    modules: Annotated[list[BasisModuleHeader], Field(min_length=1, max_length=MAX_MODULES)]


def encode(basis: StoredBasis) -> bytes:
    """Return the object of a basis. Deterministic for one version of zstd.

    Raises:
        IntegrityError: it has no module, a module has no row, rows have other widths or too many,
            or a symbol is too large.
    """
    names = sorted(basis.modules)
    blocks = [block for name in names for block in basis.modules[name]]
    _check_blocks(names, blocks)
    _check_numbers(sum(block.size for block in blocks))
    coded = encode_rows([row for block in blocks for row in block])
    table = b"".join(
        (
            column([len(coded.groups)], 1),
            column([len(block) for block in blocks], 2),
            coded.groups_of_rows.tobytes(),
            column([group.packing for group in coded.groups], 1),
            column([group.shift for group in coded.groups], 1),
            column(coded.pieces, 3),
        )
    )
    entries: dict[str, Json] = {
        "format": 1,
        "kind": "basis",
        "modules": [
            {"module": name, "in": a.shape[1], "out": b.shape[1]}
            for name, (a, b) in sorted(basis.modules.items())
        ],
    }
    _header(entries)
    return pack(entries, {"symbols": coded.content, "table": [deflate(table)]})


def decode(content: bytes) -> StoredBasis:
    """Parse a basis object.

    Raises:
        IntegrityError: any departure from the format; nothing is allocated on the word of an
            unchecked length.
    """
    entries, parts = unpack(content, ("symbols", "table"), subject=_SUBJECT)
    header = _header(entries)
    cursor = Cursor(inflate(parts["table"]))
    count = int(cursor.column(1, 1)[0])
    ks = cursor.column(2 * len(header.modules), 2)
    groups_of_rows = cursor.column(int(ks.sum()), 1).astype(np.uint8)
    widths = (width for module in header.modules for width in (module.in_, module.out))
    shapes = list(zip(ks.tolist(), widths, strict=True))
    groups = cursor.groups(count)
    pieces = cursor.rest(3).tolist()
    _check_numbers(sum(k * width for k, width in shapes))
    expected = sum(piece_counts(shapes, groups_of_rows, groups))
    require(
        len(pieces) == expected,
        f"{_SUBJECT} has the lengths of {len(pieces)} pieces, expected {expected}.",
    )
    blocks = decode_rows(parts["symbols"], shapes, groups_of_rows, groups, pieces)
    names = [module.module for module in header.modules]
    _check_blocks(names, blocks)
    sides = zip(blocks[::2], blocks[1::2], strict=True)
    return StoredBasis(modules=dict(zip(names, sides, strict=True)))


def is_basis(content: bytes) -> bool:
    """Tell whether a binary object calls itself a basis; its parts are not looked at.

    Raises IntegrityError where it is no binary object.
    """
    return description(content, subject="object").get("kind") == "basis"


def _header(entries: dict[str, Json]) -> BasisHeader:
    try:
        header = BasisHeader.model_validate(check_kind(entries, "basis"))
    except ValidationError as error:
        raise IntegrityError(f"{_SUBJECT} has a malformed header: {first_error(error)}.") from error
    names = [module.module for module in header.modules]
    require(
        names == sorted(set(names)), f"{_SUBJECT} does not list its modules in order and once each."
    )
    return header


def _check_numbers(numbers: int) -> None:
    require(
        numbers <= MAX_NUMBERS,
        f"{_SUBJECT} has rows of {numbers} numbers, more than the limit of {MAX_NUMBERS}.",
    )


def _check_blocks(names: list[str], blocks: list[Ints]) -> None:
    require(bool(names), f"{_SUBJECT} has no module.")
    for name, a, b in zip(names, blocks[::2], blocks[1::2], strict=True):
        most = max(len(a), len(b))
        require(most > 0, f"{_SUBJECT} has no row for module {name!r}.")
        require(
            most <= MAX_K,
            f"{_SUBJECT} has {most} rows for module {name!r}, more than the limit of {MAX_K}.",
        )
        peaks = [int(np.abs(block.astype(np.int64)).max(initial=0)) for block in (a, b)]
        require(
            max(peaks) >> MAX_BITS == 0,
            f"{_SUBJECT} has a symbol that is not below 2**{MAX_BITS} for module {name!r}.",
        )
