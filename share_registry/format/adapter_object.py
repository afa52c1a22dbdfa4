"""Adapter object: one stored adapter as a safetensors file that any tool opens (spec ADP-01 to ADP-14).

One metadata member, `share_registry` (canonical JSON: layout, previous, sources, external tensors),
and three U8 tensors: `planes` (tensors kept bit for bit, as byte planes), `symbols` (integer rows
and coefficients, see `symbols.py`) and `table` (everything small, see `table.py`). What stands
where follows from the layout and the table alone, so a reader knows every length before it expands
anything.
"""

from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, ValidationError

from share_registry.errors import IntegrityError
from share_registry.format.adapter_table import MAX_K, AdapterTable, Lane, TermHead
from share_registry.format.canonical import Json
from share_registry.format.frames import (
    from_planes,
    pack_stream,
    piece_sizes,
    planes,
    unpack_streams,
)
from share_registry.format.layout import MAX_TENSORS, Layout, ModuleShape, Strict, described
from share_registry.format.object_file import pack, unpack
from share_registry.format.records import DigestField
from share_registry.format.symbols import Ints, decode_rows, encode_rows, entropy_bits, piece_counts
from share_registry.names import Digest
from share_registry.stored import StoredAdapter, StoredModule, StoredSide, Term

MAX_SOURCES: Final = 64
MAX_EXTERNAL: Final = 512
_TENSORS: Final = ("planes", "symbols", "table")
_WHAT: Final = "adapter object"


class ExternalTensor(Strict):
    """A tensor of the layout that is an object of its own."""

    object: DigestField
    tensor: Annotated[int, Field(ge=0, lt=MAX_TENSORS)]


class Header(Strict):
    """What an adapter object needs besides itself."""

    format: Literal[1] = 1
    kind: Literal["adapter"] = "adapter"
    layout: DigestField
    previous: DigestField | None = None
    sources: Annotated[list[DigestField], Field(max_length=MAX_SOURCES)] = []
    external: Annotated[list[ExternalTensor], Field(max_length=MAX_EXTERNAL)] = []


def encode(stored: StoredAdapter, layout: Layout) -> bytes:
    """Return the object of a stored adapter. Deterministic for one version of zstd.

    Raises:
        IntegrityError: the value does not fit the layout, or breaks a limit of the format.
    """
    check(stored, layout)
    sides = _sides(stored.modules)
    coded = encode_rows(
        [row for side in sides for row in side.own]
        + [row for side in sides for term in side.terms for row in term.coefficients]
    )
    tensors = [
        (stored.verbatim[index], layout.tensors[index].dtype.size_bytes)
        for index in sorted(stored.verbatim)
    ]
    pieces = [
        piece
        for content, width in tensors
        for plane in planes(content, width)
        for piece in pack_stream(plane)
    ]
    table = AdapterTable(
        lanes=tuple(_lane(module) for module in stored.modules),
        terms=tuple(
            tuple(
                TermHead(source=term.source, exponent=term.exponent, k=term.coefficients.shape[1])
                for term in side.terms
            )
            for side in sides
        ),
        scales=np.concatenate([np.zeros(0, np.float32), *(side.scales for side in sides)]),
        errors=np.array(
            [module.error for module in stored.modules if module is not None], np.float32
        ),
        groups_of_rows=coded.groups_of_rows,
        groups=coded.groups,
        pieces=(*coded.pieces, *(len(piece) for piece in pieces)),
    )
    return pack(
        _described(_header(stored)),
        {"planes": b"".join(pieces), "symbols": coded.content, "table": table.to_bytes()},
    )


def decode(content: bytes, layout: Layout) -> StoredAdapter:
    """Parse an adapter object against its layout.

    Raises:
        IntegrityError: any departure from the format; nothing is allocated on the word of an unchecked
            length.
    """
    return parse(content, lambda _: layout)[0]


def parse(content: bytes, layout_of: Callable[[Digest], Layout]) -> tuple[StoredAdapter, Layout]:
    """Parse an adapter object against the layout that it names.

    Raises IntegrityError, and what `layout_of` raises.
    """
    head, parts = _split(content)
    layout = layout_of(head.layout)
    shapes = layout.modules()
    table = AdapterTable.from_bytes(parts["table"], [shape.rank for shape in shapes])
    blocks = _shapes(
        [shape for shape, lane in zip(shapes, table.lanes, strict=True) if lane.coded], table
    )
    verbatim = _verbatim(layout, table.lanes, [item.tensor for item in head.external])
    pieces = table.split_pieces(
        symbols=sum(piece_counts(blocks, table.groups_of_rows, table.groups)),
        planes=sum(len(piece_sizes(size)) for size in _plane_sizes(layout, verbatim)),
    )
    stored = StoredAdapter(
        layout=head.layout,
        previous=head.previous,
        sources=tuple(head.sources),
        modules=_modules(
            table,
            decode_rows(parts["symbols"], blocks, table.groups_of_rows, table.groups, pieces[0]),
        ),
        verbatim=_decode_planes(layout, verbatim, parts["planes"], pieces[1]),
        external={item.tensor: item.object for item in head.external},
    )
    check(stored, layout)
    return stored, layout


def header(content: bytes) -> Header:
    """Return what an adapter object refers to, without its layout. Raises IntegrityError."""
    return _split(content)[0]


def bits_of(side: StoredSide) -> float:
    """Return the estimated bits of one factor.

    An ideal coder with a table per row, and 16 bits per scale.
    """
    return (
        entropy_bits(side.own)
        + sum(entropy_bits(term.coefficients) for term in side.terms)
        + 16.0 * len(side.scales)
    )


def check(stored: StoredAdapter, layout: Layout) -> None:
    """Check that a value fits its layout and the format's limits. Raises IntegrityError."""
    shapes = layout.modules()
    if len(stored.modules) != len(shapes):
        raise IntegrityError(
            f"{_WHAT} has {len(stored.modules)} modules, its layout {len(shapes)}."
        )
    for shape, module in zip(shapes, stored.modules, strict=True):
        if module is not None:
            _check_side(module.a, (shape.rank, shape.in_), stored)
            _check_side(module.b, (shape.rank, shape.out), stored)
    scales = np.concatenate(
        [np.zeros(0, np.float32), *(side.scales for side in _sides(stored.modules))]
    )
    if not (np.isfinite(scales) & (scales >= 0)).all():
        raise IntegrityError("a scale is negative or not finite.")
    if len(stored.external) > MAX_EXTERNAL:
        raise IntegrityError(
            f"{_WHAT} has {len(stored.external)} external tensors, more than the limit of {MAX_EXTERNAL}."
        )
    _check_references(stored)
    _check_verbatim(stored, layout)


def _header(stored: StoredAdapter) -> Header:
    external = [
        ExternalTensor(object=stored.external[index], tensor=index)
        for index in sorted(stored.external)
    ]
    return Header(
        layout=stored.layout,
        previous=stored.previous,
        sources=list(stored.sources),
        external=external,
    )


def _described(header: Header) -> Json:
    value: Json = header.model_dump(mode="json", exclude_none=True)
    return value


def _split(content: bytes) -> tuple[Header, dict[str, memoryview]]:
    entries, parts = unpack(content, _TENSORS, what=_WHAT)
    try:
        header = Header.model_validate(described(entries, "adapter"))
    except ValidationError as error:
        raise IntegrityError(
            f"{_WHAT} has a malformed header: {error.errors()[0]['msg']}."
        ) from error
    tensors = [item.tensor for item in header.external]
    if any(first >= second for first, second in pairwise(tensors)) or _described(header) != entries:
        raise IntegrityError(f"{_WHAT} has a header that is not canonical.")
    return header, parts


def _lane(module: StoredModule | None) -> Lane:
    return (
        Lane(coded=False)
        if module is None
        else Lane(coded=True, previous_a=module.a.previous, previous_b=module.b.previous)
    )


def _sides(modules: Sequence[StoredModule | None]) -> list[StoredSide]:
    """Return the coded factors in stored order: A before B, module by module."""
    return [side for module in modules if module is not None for side in (module.a, module.b)]


def _shapes(shapes: Sequence[ModuleShape], table: AdapterTable) -> list[tuple[int, int]]:
    """Return the shape of every array of rows in stored order.

    Own rows of every factor, then coefficients of every term.
    """
    own = [(shape.rank, width) for shape in shapes for width in (shape.in_, shape.out)]
    return own + [
        (rank, head.k) for (rank, _), heads in zip(own, table.terms, strict=True) for head in heads
    ]


def _modules(table: AdapterTable, arrays: Sequence[Ints]) -> tuple[StoredModule | None, ...]:
    count = len(table.terms)
    own, coefficients, errors = arrays[:count], iter(arrays[count:]), iter(table.errors.tolist())
    terms = [
        tuple(
            Term(source=head.source, exponent=head.exponent, coefficients=next(coefficients))
            for head in heads
        )
        for heads in table.terms
    ]
    scales = np.split(table.scales, np.cumsum([len(rows) for rows in own])[:-1])
    sides = iter(
        StoredSide(previous=previous, terms=term, scales=scale, own=rows)
        for previous, term, scale, rows in zip(
            _previous(table.lanes), terms, scales, own, strict=True
        )
    )
    return tuple(
        StoredModule(a=next(sides), b=next(sides), error=next(errors)) if lane.coded else None
        for lane in table.lanes
    )


def _previous(lanes: Sequence[Lane]) -> list[bool]:
    return [
        previous for lane in lanes if lane.coded for previous in (lane.previous_a, lane.previous_b)
    ]


def _check_side(side: StoredSide, shape: tuple[int, int], stored: StoredAdapter) -> None:
    if side.own.shape != shape or side.scales.shape != shape[:1]:
        raise IntegrityError(
            f"a factor has {side.own.shape} rows and {side.scales.shape} scales, its layout says {shape}."
        )
    if any(not 1 <= term.coefficients.shape[1] <= MAX_K for term in side.terms):
        raise IntegrityError(f"a factor refers to a block of no rows, or of more than {MAX_K}.")
    sources = [term.source for term in side.terms]
    if any(first >= second for first, second in pairwise(sources)) or any(
        source >= len(stored.sources) for source in sources
    ):
        raise IntegrityError(
            f"a factor refers to the sources {sources}, expected ascending below {len(stored.sources)}."
        )
    if side.previous and stored.previous is None:
        raise IntegrityError("a factor builds on a previous version and none is named.")


def _check_references(stored: StoredAdapter) -> None:
    """Check that what is named is used: an object never keeps another alive for nothing."""
    sides = _sides(stored.modules)
    used = {term.source for side in sides for term in side.terms}
    if (
        used != set(range(len(stored.sources)))
        or len(stored.sources) > MAX_SOURCES
        or len(set(stored.sources)) != len(stored.sources)
    ):
        raise IntegrityError(
            f"{_WHAT} names {len(stored.sources)} sources and uses {len(used)}, expected each once and used."
        )
    if stored.previous is not None and not any(side.previous for side in sides):
        raise IntegrityError(f"{_WHAT} names a previous version and does not use it.")


def _check_verbatim(stored: StoredAdapter, layout: Layout) -> None:
    expected = _verbatim(
        layout, [_lane(module) for module in stored.modules], list(stored.external)
    )
    if sorted(stored.verbatim) != expected:
        raise IntegrityError(
            f"{_WHAT} keeps the tensors {sorted(stored.verbatim)[:8]} bit for bit, expected {expected[:8]}."
        )
    for index in expected:
        if len(stored.verbatim[index]) != layout.tensors[index].size_bytes:
            raise IntegrityError(
                f"tensor {layout.tensors[index].key!r} has {len(stored.verbatim[index])} bytes, expected {layout.tensors[index].size_bytes}."
            )


def _verbatim(layout: Layout, lanes: Sequence[Lane], external: Sequence[int]) -> list[int]:
    """Return the tensors kept in the object bit for bit.

    Passengers and lossless factors that are not external. Raises IntegrityError.
    """
    whole = set(layout.passengers)
    position = 0
    for factor in layout.factors:
        count = len(layout.modules_of(factor))
        coded = {lane.coded for lane in lanes[position : position + count]}
        position += count
        if len(coded) > 1:
            raise IntegrityError(
                f"factor {factor.module!r} has some modules coded and some verbatim."
            )
        if coded == {False}:
            whole |= {factor.a, factor.b}
    if not whole.issuperset(external):
        raise IntegrityError(f"{_WHAT} has external tensors that are coded or not in the layout.")
    return sorted(whole.difference(external))


def _plane_sizes(layout: Layout, tensors: Sequence[int]) -> list[int]:
    return [
        layout.tensors[index].elements
        for index in tensors
        for _ in range(layout.tensors[index].dtype.size_bytes)
    ]


def _decode_planes(
    layout: Layout, tensors: Sequence[int], content: memoryview, lengths: Sequence[int]
) -> dict[int, bytes]:
    streams = iter(
        unpack_streams(
            content, _plane_sizes(layout, tensors), lengths, what="tensors kept bit for bit"
        )
    )
    return {
        index: from_planes(list(islice(streams, layout.tensors[index].dtype.size_bytes)))
        for index in tensors
    }
