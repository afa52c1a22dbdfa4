"""Adapter object: one stored adapter as a safetensors file (spec ADP-01 to ADP-15).

One metadata member, `share_registry` (canonical JSON: layout, previous, sources, external tensors,
whether floats are split), and three U8 tensors: `planes` (tensors kept bit for bit, see
`kept_tensors.py`), `symbols` (integer rows and coefficients, see `symbols.py`) and `table`
(everything small, see `adapter_table.py`). What stands where follows from the layout and the table
alone, so a reader knows every length before it expands anything.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from share_registry.errors import IntegrityError, RefusedError
from share_registry.format.adapter_table import MAX_K, AdapterTable, Lane, TermHead
from share_registry.format.canonical import require
from share_registry.format.fields import DigestField, TrueField
from share_registry.format.kept_tensors import pack_kept, plan_kept
from share_registry.format.layout import MAX_TENSORS, DType, Layout, ModuleShape, Strict, check_kind
from share_registry.format.object_file import pack, unpack
from share_registry.format.packed_rows import PackedRows, piece_counts
from share_registry.format.symbols import Ints, encode_rows, entropy_bits
from share_registry.names import Digest
from share_registry.parallel import MAX_THREADS
from share_registry.stored import StoredAdapter, StoredModule, StoredSide, Term

MAX_SOURCES: Final = 64
MAX_EXTERNAL: Final = 512
# What the terms of an object may ask of a reader: so many, and so many more for each byte of the
# object and its sources (spec DEC-13). Rows of zeros take no bytes, and adapters that writers make
# stay below a thousandth: a byte of a source is some 3 numbers, which a rank of r rows refers to.
_COEFFICIENTS: Final = (1 << 22, 1 << 12)
_PRODUCTS: Final = (1 << 32, 1 << 22)
_SUBJECT: Final = "adapter object"
# Of A and of B
SideBits = tuple[float, float]


class ExternalTensor(Strict):
    """A tensor of the layout that is an object of its own."""

    object: DigestField
    tensor: Annotated[int, Field(ge=0, lt=MAX_TENSORS)]


class Header(Strict):
    """What an adapter object needs besides itself, and whether floats in it are split."""

    format: Literal[1] = 1
    kind: Literal["adapter"] = "adapter"
    layout: DigestField
    previous: DigestField | None = None
    sources: Annotated[list[DigestField], Field(max_length=MAX_SOURCES)] = []
    external: Annotated[list[ExternalTensor], Field(max_length=MAX_EXTERNAL)] = []
    heads: TrueField | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedAdapter:
    """A parsed adapter object whose own rows are still to be expanded.

    Attributes:
        stored: The adapter; its own rows are zeros that take no memory.
        layout: Its layout.
        rows: Own rows of every coded factor, then the coefficients.
    """

    stored: StoredAdapter
    layout: Layout
    rows: PackedRows

    def expand(self) -> StoredAdapter:
        """Return the adapter with all of its own rows. Raises IntegrityError."""
        modules = self._expand(0, len(self.stored.modules), threads=MAX_THREADS)
        return replace(self.stored, modules=tuple(modules))

    def modules(self, start: int, stop: int) -> list[StoredModule | None]:
        """Return some modules with their own rows, from one position to another.

        By one thread at a time, and best in order. Raises IntegrityError.
        """
        return self._expand(start, stop, threads=1)

    def _expand(self, start: int, stop: int, *, threads: int) -> list[StoredModule | None]:
        modules = self.stored.modules
        # of every coded module A and B
        first, last = (2 * sum(map(bool, modules[:end])) for end in (start, stop))
        own = iter(self.rows.arrays(first, last, threads=threads))
        return [_with_rows(module, own) for module in modules[start:stop]]


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
    kept = pack_kept(stored.verbatim, layout, heads=stored.heads)
    table = AdapterTable(
        lanes=tuple(_lane(module) for module in stored.modules),
        terms=tuple(
            tuple(
                TermHead(source=term.source, exponent=term.exponent, k=term.coefficients.shape[1])
                for term in side.terms
            )
            for side in sides
        ),
        scales=_scales(sides),
        errors=np.array([module.error for module in stored.modules if module], np.float32),
        groups_of_rows=coded.groups_of_rows,
        groups=coded.groups,
        pieces=(*coded.pieces, *map(len, kept.pieces)),
        floats=kept.floats,
    )
    header = Header(
        layout=stored.layout,
        previous=stored.previous,
        sources=list(stored.sources),
        external=[
            ExternalTensor(object=digest, tensor=index)
            for index, digest in sorted(stored.external.items())
        ],
        heads=stored.heads or None,
    )
    return pack(
        header.model_dump(mode="json", exclude_none=True),
        {"planes": kept.pieces, "symbols": coded.content, "table": [table.to_bytes()]},
    )


def decode(
    content: bytes, layout: Layout, *, size_of: Callable[[Digest], int] = lambda _: 0
) -> StoredAdapter:
    """Parse an adapter object against its layout.

    Args:
        content: The object.
        layout: The layout that it names.
        size_of: Bytes of the objects that it refers to; without, only a little work is allowed.

    Raises:
        RefusedError: its terms ask for more work than a reader must do (spec DEC-13).
        IntegrityError: any departure from the format; nothing is allocated on the word of an
            unchecked length.
    """
    return parse(content, lambda _: layout, size_of).expand()


def parse(
    content: bytes, layout_of: Callable[[Digest], Layout], size_of: Callable[[Digest], int]
) -> PackedAdapter:
    """Parse an adapter object against the layout that it names, all but its own rows.

    Args:
        content: The object.
        layout_of: Where to get a layout by its digest.
        size_of: Where to get the size of an object that it refers to.

    Raises:
        IntegrityError, RefusedError: see `decode`; and whatever `layout_of` raises.
    """
    head, parts = _split(content)
    layout = layout_of(head.layout)
    shapes = layout.modules()
    external = [item.tensor for item in head.external]

    def split_types(lanes: Sequence[Lane]) -> list[DType]:
        return [layout.tensors[index].dtype for index in _verbatim(layout, lanes, external)]

    table = AdapterTable.from_bytes(
        parts["table"], [shape.rank for shape in shapes], split_types if head.heads else None
    )
    blocks = _row_shapes(shapes, table)
    _check_work(blocks, table, lambda: len(content) + sum(map(size_of, head.sources)))
    kept = plan_kept(_verbatim(layout, table.lanes, external), layout, table.floats)
    symbol_pieces, plane_pieces = table.split_pieces(
        symbols=sum(piece_counts(blocks, table.groups_of_rows, table.groups)), planes=kept.pieces
    )
    rows = PackedRows(parts["symbols"], blocks, table.groups_of_rows, table.groups, symbol_pieces)
    own = len(table.terms)
    stored = StoredAdapter(
        layout=head.layout,
        previous=head.previous,
        sources=tuple(head.sources),
        modules=_modules(table, [*rows.zeros(0, own), *rows.arrays(own, len(blocks))]),
        verbatim=kept.unpack(parts["planes"], plane_pieces),
        external={item.tensor: item.object for item in head.external},
        heads=bool(head.heads),
    )
    check(stored, layout)
    return PackedAdapter(stored=stored, layout=layout, rows=rows)


def header(content: bytes) -> Header:
    """Return what an adapter object refers to, without its layout. Raises IntegrityError."""
    return _split(content)[0]


def bits_of(side: StoredSide) -> float:
    """Estimate the bits of one factor: an ideal coder with a table per row, 16 bits per scale."""
    return (
        entropy_bits(side.own)
        + sum(entropy_bits(term.coefficients) for term in side.terms)
        + 16.0 * len(side.scales)
    )


def bits_of_modules(modules: Iterable[StoredModule | None]) -> list[SideBits | None]:
    """Return the estimated bits of both factors of modules, None for one kept verbatim."""
    return [
        None if module is None else (bits_of(module.a), bits_of(module.b)) for module in modules
    ]


def check(stored: StoredAdapter, layout: Layout) -> None:
    """Check that a value fits its layout and the format's limits. Raises IntegrityError."""
    shapes = layout.modules()
    require(
        len(stored.modules) == len(shapes),
        f"{_SUBJECT} has {len(stored.modules)} modules, its layout {len(shapes)}.",
    )
    for shape, module in zip(shapes, stored.modules, strict=True):
        if module is not None:
            _check_side(module.a, (shape.rank, shape.in_), stored)
            _check_side(module.b, (shape.rank, shape.out), stored)
    sides = _sides(stored.modules)
    scales = _scales(sides)
    require(bool((np.isfinite(scales) & (scales >= 0)).all()), "a scale is negative or not finite.")
    require(
        len(stored.external) <= MAX_EXTERNAL,
        f"{_SUBJECT} has {len(stored.external)} external tensors, "
        f"more than the limit of {MAX_EXTERNAL}.",
    )
    # what is named is used: an object never keeps another alive for nothing
    used = {term.source for side in sides for term in side.terms}
    count = len(stored.sources)
    require(
        used == set(range(count)) and count <= MAX_SOURCES and len(set(stored.sources)) == count,
        f"{_SUBJECT} names {count} sources and uses {len(used)}, expected each once and used.",
    )
    require(
        stored.previous is None or any(side.previous for side in sides),
        f"{_SUBJECT} names a previous version and does not use it.",
    )
    _check_verbatim(stored, layout)


def _split(content: bytes) -> tuple[Header, dict[str, memoryview]]:
    entries, parts = unpack(content, ("planes", "symbols", "table"), subject=_SUBJECT)
    try:
        header = Header.model_validate(check_kind(entries, "adapter"))
    except ValidationError as error:
        raise IntegrityError(
            f"{_SUBJECT} has a malformed header: {error.errors()[0]['msg']}."
        ) from error
    tensors = [item.tensor for item in header.external]
    require(
        tensors == sorted(set(tensors))
        and header.model_dump(mode="json", exclude_none=True) == entries,
        f"{_SUBJECT} has a header that is not canonical.",
    )
    return header, parts


def _lane(module: StoredModule | None) -> Lane:
    if module is None:
        return Lane(coded=False)
    return Lane(coded=True, previous_a=module.a.previous, previous_b=module.b.previous)


def _sides(modules: Sequence[StoredModule | None]) -> list[StoredSide]:
    return [side for module in modules if module is not None for side in (module.a, module.b)]


def _scales(sides: Sequence[StoredSide]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(0, np.float32), *(side.scales for side in sides)])


def _row_shapes(modules: Sequence[ModuleShape], table: AdapterTable) -> list[tuple[int, int]]:
    own = [
        (module.rank, width)
        for module, lane in zip(modules, table.lanes, strict=True)
        if lane.coded
        for width in (module.in_, module.out)
    ]
    return own + [
        (rank, head.k) for (rank, _), heads in zip(own, table.terms, strict=True) for head in heads
    ]


def _check_work(
    blocks: Sequence[tuple[int, int]], table: AdapterTable, size_bytes: Callable[[], int]
) -> None:
    """Check what coefficients and products cost before there are any (spec DEC-13).

    Raises RefusedError: nothing is damaged.
    """
    terms = [
        (rank, head.k, width)
        for (rank, width), heads in zip(blocks, table.terms, strict=False)
        for head in heads
    ]
    for name, amount, (least, more) in (
        ("coefficients", sum(rank * k for rank, k, _ in terms), _COEFFICIENTS),
        ("products", sum(rank * k * width for rank, k, width in terms), _PRODUCTS),
    ):
        if amount > least and amount > (most := least + more * size_bytes()):
            raise RefusedError(
                f"{_SUBJECT} asks for {amount} {name}, more than the {most} that a reader spends "
                "on objects of their size.",
                hint="Nothing is damaged; other versions are read as ever.",
            )


def _with_rows(module: StoredModule | None, own: Iterator[Ints]) -> StoredModule | None:
    """Return a module with the next own rows."""
    if module is None:
        return None
    a, b = (
        StoredSide(previous=side.previous, terms=side.terms, scales=side.scales, own=next(own))
        for side in (module.a, module.b)
    )
    return StoredModule(a=a, b=b, error=module.error)


def _modules(table: AdapterTable, arrays: Sequence[Ints]) -> tuple[StoredModule | None, ...]:
    own, coefficients = arrays[: len(table.terms)], iter(arrays[len(table.terms) :])
    scales = np.split(table.scales, np.cumsum([len(rows) for rows in own])[:-1])
    parts = zip(table.terms, scales, own, strict=True)
    errors = iter(table.errors.tolist())

    def next_side(previous: bool) -> StoredSide:
        heads, row_scales, rows = next(parts)
        return StoredSide(
            previous=previous,
            terms=tuple(
                Term(source=head.source, exponent=head.exponent, coefficients=next(coefficients))
                for head in heads
            ),
            scales=row_scales,
            own=rows,
        )

    return tuple(
        StoredModule(a=next_side(lane.previous_a), b=next_side(lane.previous_b), error=next(errors))
        if lane.coded
        else None
        for lane in table.lanes
    )


def _check_side(side: StoredSide, shape: tuple[int, int], stored: StoredAdapter) -> None:
    if side.own.shape != shape or side.scales.shape != shape[:1]:
        raise IntegrityError(
            f"a factor has {side.own.shape} rows and {side.scales.shape} scales, "
            f"its layout says {shape}."
        )
    if side.terms:
        _check_terms(side.terms, len(stored.sources))
    require(
        not side.previous or stored.previous is not None,
        "a factor builds on a previous version and none is named.",
    )


def _check_terms(terms: Sequence[Term], count: int) -> None:
    require(
        all(1 <= term.coefficients.shape[1] <= MAX_K for term in terms),
        f"a factor refers to a block of no rows, or of more than {MAX_K}.",
    )
    sources = [term.source for term in terms]
    require(
        sources == sorted(set(sources)) and all(source < count for source in sources),
        f"a factor refers to the sources {sources}, expected ascending below {count}.",
    )


def _check_verbatim(stored: StoredAdapter, layout: Layout) -> None:
    expected = _verbatim(layout, [_lane(module) for module in stored.modules], stored.external)
    actual = sorted(stored.verbatim)
    require(
        actual == expected,
        f"{_SUBJECT} keeps the tensors {actual[:8]} bit for bit, expected {expected[:8]}.",
    )
    for index in expected:
        tensor, size = layout.tensors[index], len(stored.verbatim[index])
        if size != tensor.size_bytes:
            raise IntegrityError(
                f"tensor {tensor.key!r} has {size} bytes, expected {tensor.size_bytes}."
            )


def _verbatim(layout: Layout, lanes: Sequence[Lane], external: Collection[int]) -> list[int]:
    """Return the tensors that the object keeps bit for bit.

    Passengers and lossless factors that are not external. Raises IntegrityError.
    """
    whole, rest = set(layout.passengers), iter(lanes)
    for factor in layout.factors:
        coded = {lane.coded for lane in islice(rest, factor.experts)}
        if len(coded) != 1:
            raise IntegrityError(
                f"factor {factor.module!r} has some modules coded and some verbatim."
            )
        if coded == {False}:
            whole |= {factor.a, factor.b}
    require(
        whole.issuperset(external),
        f"{_SUBJECT} has external tensors that are coded or not in the layout.",
    )
    return sorted(whole.difference(external))
