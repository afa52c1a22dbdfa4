"""Decode adapter objects into tensors: the exact path (spec DEC-01 to DEC-12).

An object is read, hashed, then parsed from that same buffer. Blocks and decoded factors that later
adapters refer to are kept within a byte bound.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, islice
from typing import Final, Protocol

import torch

from share_registry.algebra.decode import decode_side, is_bounded
from share_registry.algebra.threads import one_thread
from share_registry.errors import IntegrityError, NotFoundError, ShareRegistryError
from share_registry.exchange.tensors import (
    TORCH,
    Rows,
    TensorGroup,
    all_finite,
    empty_tensors,
    rows_of,
    tensor_of,
)
from share_registry.format import adapter_object, basis_object
from share_registry.format.adapter_object import PackedAdapter
from share_registry.format.layout import FactorSpec, Layout, ModuleShape, TensorSpec
from share_registry.format.safetensors_file import Item
from share_registry.format.tensor_object import decode_tensor
from share_registry.materialize.lru import ByteBoundedCache
from share_registry.names import Digest, Side
from share_registry.parallel import side_by_side
from share_registry.stored import StoredAdapter, StoredBasis, StoredModule, StoredSide

MAX_OBJECT_BYTES: Final = 4 << 30
MAX_LAYOUT_BYTES: Final = 16 << 20
# Longest chain of previous versions (spec DEC-09).
MAX_CHAIN: Final = 8
CACHE_BYTES: Final = 512 << 20

# Size of remembering that an object is no basis.
_NO_BASIS_BYTES: Final = 512
# Size of one factor in memory, besides its numbers.
_SIDE_BYTES: Final = 1024
# Size of one tensor's description in memory.
_TENSOR_BYTES: Final = 2048
# Size of an object from which on a second thread takes less than it saves. Most of its work is
# the first touch of memory.
_SPREAD_BYTES: Final = 1 << 20
# The modules of a factor pair, None where they are kept verbatim.
StoredModules = Sequence[StoredModule | None]
# A factor pair with its modules.
_Pair = tuple[FactorSpec, list[ModuleShape], StoredModules]
# Returns modules with their own rows, from one position to another.
_Expand = Callable[[int, int], StoredModules]
# Returns the factors of one module, written into rows where some are given.
_Decode = Callable[[ModuleShape, StoredModule | None, Rows | None], Rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A verified, parsed adapter object."""

    stored: StoredAdapter
    layout: Layout
    modules: dict[str, int]
    size_bytes: int

    def module(self, name: str) -> StoredModule | None:
        """Return a coded module by name, None where it is not there or kept verbatim."""
        position = self.modules.get(name)
        return None if position is None else self.stored.modules[position]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedAdapter:
    """An adapter object that is decoded some tensors at a time, on the CPU.

    Attributes:
        stored: The adapter; where its own rows are not kept, they are zeros here.
        layout: Its layout.
        modules: Returns the modules of a group with their own rows; called by one thread at a time,
            for the groups in order: then everything is expanded once.
        tensors: Returns a group's tensors of the adapter file, as `Reader.tensors` does, from its
            modules; called by any thread. Nothing is kept of them.
    """

    stored: StoredAdapter
    layout: Layout
    modules: Callable[[TensorGroup], Sequence[StoredModules]]
    tensors: Callable[[TensorGroup, Sequence[StoredModules]], dict[str, torch.Tensor]]


class _Objects(Protocol):
    def get_or_spare(self, digest: Digest, *, limit: int = ...) -> bytes:
        """Return an object, verified, from its second copy where it is damaged or gone."""

    def size(self, digest: Digest) -> int | None:
        """Return the size of an object in bytes, None where there is none."""


class Reader:
    """Reads adapter objects of one store and rebuilds their tensors.

    Its caches may be shared by threads: a race costs a second decoding, never a wrong value.

    Args:
        store: Where the objects are.
        cache_bytes: Bound on what is kept of parsed objects and decoded factors.
    """

    def __init__(self, store: _Objects, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._beside: Mapping[Digest, bytes] = {}
        self._cache_bytes = cache_bytes
        self._opened = ByteBoundedCache[Digest, Opened](cache_bytes // 2)
        self._decoded = ByteBoundedCache[tuple[Digest, str], tuple[Rows, ...]](cache_bytes // 2)
        self._bases = ByteBoundedCache[Digest, StoredBasis | None](cache_bytes // 4)
        self._layouts = ByteBoundedCache[Digest, Layout](cache_bytes // 16)

    def beside(self, objects: Mapping[Digest, bytes]) -> "Reader":
        """Return a reader that also finds objects in memory; it shares the caches of this one."""
        reader = copy(self)
        reader._beside = {**self._beside, **objects}
        return reader

    def has(self, digest: Digest) -> bool:
        """Tell whether an object is there now, whatever is remembered of it."""
        return digest in self._beside or self._store.size(digest) is not None

    def open(self, digest: Digest) -> Opened:
        """Return an adapter object, verified. Raises IntegrityError."""
        return self._opened.get_or_make(
            digest, lambda: self._parse(self._read(digest, MAX_OBJECT_BYTES)), _opened_bytes
        )

    def layout(self, digest: Digest) -> Layout:
        """Return a layout object, verified. Raises IntegrityError."""
        return self._layouts.get_or_make(
            digest, lambda: Layout.from_bytes(self._read(digest, MAX_LAYOUT_BYTES)), _layout_bytes
        )

    def is_basis(self, digest: Digest) -> bool:
        """Tell whether an object is a basis object and no adapter object.

        Raises IntegrityError where it is neither.
        """
        return self._basis(digest) is not None

    def basis(self, digest: Digest) -> StoredBasis:
        """Return a basis object, verified. Raises IntegrityError."""
        basis = self._basis(digest)
        if basis is None:
            raise IntegrityError(
                f"object {digest} is no basis object, though something refers to it as one."
            )
        return basis

    def chain(self, digest: Digest) -> list[Digest]:
        """Return an object and the previous versions that its decoding passes through.

        Raises IntegrityError beyond the limit.
        """
        return self._chain(digest, self.open(digest).stored)

    def has_heads(self, stored: StoredAdapter) -> bool:
        """Tell whether decoding an adapter reads an object with split floats (spec REC-21)."""
        earlier = [] if stored.previous is None else self.chain(stored.previous)
        for each in (stored, *(self.open(digest).stored for digest in earlier)):
            sources = (source for source in each.sources if not self.is_basis(source))
            if each.heads or any(self.open(source).stored.heads for source in sources):
                return True
        return False

    def rows(self, digest: Digest, device: str = "cpu") -> tuple[Rows, ...]:
        """Return the decoded float32 factors by position in `Layout.modules()`, on a device."""
        self.chain(digest)
        return self._decoded.get_or_make(
            (digest, device), lambda: tuple(self._rows(self.open(digest), device)), _rows_bytes
        )

    def tensors(self, digest: Digest, device: str = "cpu") -> dict[str, torch.Tensor]:
        """Return every tensor of the adapter file under its key, in file order and element type.

        Factors are decoded in float64, rounded once to float32 and then to the tensor's dtype, all
        to nearest even (spec DEC-06, DEC-08). Nothing is kept of them.
        """
        opened = self.open(digest)
        self.chain(digest)
        layout, decoded = opened.layout, self._decoded.get((digest, device))
        decode = self._decoding(opened, device) if decoded is None else _copying(opened, decoded)
        coded = [pair for pair in _by_factor(opened) if pair[2][0] is not None]
        tensors = _empty_factors(layout, coded, device)
        inference = torch.is_inference_mode_enabled()

        def fill(pairs: Sequence[_Pair]) -> None:
            # each thread has a mode of its own, and tensors made in it are written in no other;
            # it begins with as many threads as a caller's would
            with torch.inference_mode(inference), one_thread():
                _fill(layout, pairs, decode, tensors)

        side_by_side(fill, [coded[::2], coded[1::2]] if _is_spread(opened, device) else [coded])
        for position, spec in enumerate(layout.tensors):
            if spec.key not in tensors:
                tensors[spec.key] = self.verbatim(opened, position).to(device)
        return {spec.key: tensors[spec.key] for spec in layout.tensors}

    def in_groups(self, digest: Digest, *, keep: bool = True) -> GroupedAdapter:
        """Return an adapter object to be decoded some tensors at a time.

        Args:
            digest: The object.
            keep: Whether it is expanded as a whole and kept, unless it is larger than all that is
                kept of such objects.

        Raises:
            IntegrityError: it is damaged or gone.
        """
        opened, expand = self._open_in_parts(digest, keep=keep)
        self._chain(digest, opened.stored)
        layout, decode = opened.layout, self._decoding(opened, "cpu")
        starts = list(accumulate((factor.experts for factor in layout.factors), initial=0))

        def modules(group: TensorGroup) -> list[StoredModules]:
            expanded: list[StoredModules] = []
            # neighbours together, of which each number is one above the one before
            for _, run in groupby(enumerate(group.factors), lambda pair: pair[1] - pair[0]):
                numbers = [number for _, number in run]
                rest = iter(expand(starts[numbers[0]], starts[numbers[-1] + 1]))
                expanded += [list(islice(rest, layout.factors[i].experts)) for i in numbers]
            return expanded

        def tensors(
            group: TensorGroup, modules: Sequence[StoredModules]
        ) -> dict[str, torch.Tensor]:
            factors = [layout.factors[number] for number in group.factors]
            coded = [
                (factor, layout.modules_of(factor), each)
                for factor, each in zip(factors, modules, strict=True)
                if each[0] is not None
            ]
            decoded = _empty_factors(layout, coded, "cpu")
            _fill(layout, coded, decode, decoded)
            for index in group.tensors_in(layout):
                if layout.tensors[index].key not in decoded:
                    decoded[layout.tensors[index].key] = self.verbatim(opened, index)
            return decoded

        return GroupedAdapter(stored=opened.stored, layout=layout, modules=modules, tensors=tensors)

    def verbatim(self, opened: Opened, position: int) -> torch.Tensor:
        """Return a tensor that is kept bit for bit, by its position in the layout."""
        spec = opened.layout.tensors[position]
        content = opened.stored.verbatim.get(position)
        if content is None:
            if position not in opened.stored.external:
                raise IntegrityError(f"tensor {spec.key!r} is neither coded nor kept.")
            coded = self._read(opened.stored.external[position], MAX_OBJECT_BYTES)
            content = decode_tensor(
                coded, dtype=spec.dtype, size=spec.size_bytes, heads=opened.stored.heads
            )
        return tensor_of(
            Item(key=spec.key, dtype=spec.dtype, shape=tuple(spec.shape), content=content)
        )

    def _chain(self, digest: Digest, stored: StoredAdapter) -> list[Digest]:
        chain = [digest]
        while (previous := stored.previous) is not None:
            if len(chain) > MAX_CHAIN:
                raise IntegrityError(
                    f"adapter object {digest}:"
                    f" chain of previous versions is deeper than {MAX_CHAIN}."
                )
            chain.append(previous)
            stored = self.open(previous).stored
        return chain

    def _read(self, digest: Digest, limit: int) -> bytes:
        """Return an object that something refers to: that it is gone is damage."""
        if digest in self._beside:
            return self._beside[digest]
        try:
            return self._store.get_or_spare(digest, limit=limit)
        except NotFoundError as error:
            raise IntegrityError(
                f"object {digest} is not in the store, though a version needs it.",
                hint="Bring it back from a copy of the store.",
            ) from error

    def _size(self, digest: Digest) -> int:
        beside = self._beside.get(digest)
        return len(beside) if beside is not None else self._store.size(digest) or 0

    def _parse(self, content: bytes) -> Opened:
        return _expanded(*self._unpack(content))

    def _unpack(self, content: bytes) -> tuple[Opened, PackedAdapter]:
        """Return an adapter object without its own rows, and what has them."""
        packed = adapter_object.parse(content, self.layout, self._size)
        shapes = packed.layout.modules()
        opened = Opened(
            stored=packed.stored,
            layout=packed.layout,
            modules={shape.module: position for position, shape in enumerate(shapes)},
            size_bytes=len(content),
        )
        return opened, packed

    def _open_in_parts(self, digest: Digest, *, keep: bool) -> tuple[Opened, _Expand]:
        """Return an adapter object, and what gives its modules from one position to another.

        It is without its own rows where they are not to be kept, or too large for it.
        """
        opened = self._opened.get(digest)
        if opened is None:
            opened, packed = self._unpack(self._read(digest, MAX_OBJECT_BYTES))
            if not keep or packed.rows.size_bytes > self._cache_bytes // 2:
                return opened, packed.modules
            opened = self._opened.get_or_make(
                digest, lambda: _expanded(opened, packed), _opened_bytes
            )
        modules = opened.stored.modules
        return opened, lambda start, stop: modules[start:stop]

    def _basis(self, digest: Digest) -> StoredBasis | None:
        """Return a basis object; None for an adapter object, which is kept as such."""

        def read() -> StoredBasis | None:
            content = self._read(digest, MAX_OBJECT_BYTES)
            if basis_object.is_basis(content):
                return basis_object.decode(content)
            self._opened.get_or_make(digest, lambda: self._parse(content), _opened_bytes)
            return None

        if digest in self._opened:
            return None
        return self._bases.get_or_make(digest, read, _basis_bytes)

    def _read_ahead(self, opened: Opened) -> None:
        """Open what an adapter object refers to, several objects at a time.

        What cannot be read is reported where it is needed.
        """

        def read(digest: Digest) -> None:
            with suppress(ShareRegistryError):
                self.is_basis(digest)

        side_by_side(
            read,
            [
                digest
                for digest in (*opened.stored.sources, opened.stored.previous)
                if digest is not None and digest not in self._opened and digest not in self._bases
            ],
        )

    def _rows(self, opened: Opened, device: str) -> Iterator[Rows]:
        """Yield the decoded factors of each module; those kept bit for bit in float32."""
        decode = self._decoding(opened, device)
        for factor, shapes, modules in _by_factor(opened):
            if modules[0] is not None:
                for shape, module in zip(shapes, modules, strict=True):
                    yield decode(shape, module, None)
                continue
            tensors = {
                opened.layout.tensors[index].key: self.verbatim(opened, index)
                for index in (factor.a, factor.b)
            }
            for a, b in rows_of(opened.layout, factor, tensors):
                yield a.to(device, torch.float32), b.to(device, torch.float32)

    def _decoding(self, opened: Opened, device: str) -> _Decode:
        """Return what decodes the modules of an adapter object; what it refers to is read first."""
        self._read_ahead(opened)
        digest = opened.stored.previous
        previous = None if digest is None else self.rows(digest, device)
        # once: where the cache is full, each opening would read the object again
        positions = {} if digest is None else self.open(digest).modules

        def decode_factor(
            name: str, rank: int, stored: StoredSide, side: Side, out: torch.Tensor | None
        ) -> torch.Tensor:
            before, width = None, stored.own.shape[1]
            if stored.previous:
                before = _before(digest, positions, previous, name, side)
                if before.shape != (rank, width):
                    raise IntegrityError(
                        f"module {name!r} side {side}:"
                        f" previous version has shape {tuple(before.shape)}."
                    )
            return decode_side(
                stored,
                previous=before,
                blocks=[
                    self._block(opened.stored.sources[term.source], name, side, width).to(device)
                    for term in stored.terms
                ],
                device=device,
                out=out,
            )

        def decode(shape: ModuleShape, module: StoredModule | None, out: Rows | None) -> Rows:
            # the format codes the modules of a factor pair together
            assert module is not None
            a, b = out or (None, None)
            return (
                decode_factor(shape.module, shape.rank, module.a, Side.A, a),
                decode_factor(shape.module, shape.rank, module.b, Side.B, b),
            )

        return decode

    def _block(self, source: Digest, module: str, side: Side, width: int) -> torch.Tensor:
        """Return the rows of a basis or an earlier adapter that a term refers to."""
        basis = self._basis(source)
        if basis is not None:
            rows = basis.rows(module, side)
        else:
            stored = self.open(source).module(module)
            rows = None if stored is None else stored.side(side).own
        if rows is None or rows.shape[1] != width:
            raise IntegrityError(
                f"object {source} has no block for module {module!r} side {side} of width {width}."
            )
        return torch.from_numpy(rows)


def _expanded(opened: Opened, packed: PackedAdapter) -> Opened:
    return replace(opened, stored=packed.expand())


def _before(
    digest: Digest | None,
    positions: Mapping[str, int],
    previous: Sequence[Rows] | None,
    module: str,
    side: Side,
) -> torch.Tensor:
    if previous is None:
        raise IntegrityError(f"module {module!r} refers to a previous version that is not named.")
    if module not in positions:
        raise IntegrityError(
            f"adapter object {digest}: module {module!r} is not there,"
            " though a later version refers to it."
        )
    return previous[positions[module]][0 if side is Side.A else 1]


def _by_factor(opened: Opened) -> Iterator[_Pair]:
    position = 0
    for factor in opened.layout.factors:
        end = position + factor.experts
        yield factor, opened.layout.modules_of(factor), opened.stored.modules[position:end]
        position = end


def _empty_factors(layout: Layout, pairs: Sequence[_Pair], device: str) -> dict[str, torch.Tensor]:
    return empty_tensors(
        [layout.tensors[index] for factor, *_ in pairs for index in (factor.a, factor.b)], device
    )


def _fill(
    layout: Layout, pairs: Sequence[_Pair], decode: _Decode, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Decode factor pairs into their tensors. Raises IntegrityError."""
    for factor, shapes, modules in pairs:
        places = rows_of(layout, factor, tensors)
        for shape, module, place in zip(shapes, modules, places, strict=True):
            decode(shape, module, place)
        for side, index in ((Side.A, factor.a), (Side.B, factor.b)):
            _check_finite(layout.tensors[index], modules, side, tensors)


def _check_finite(
    spec: TensorSpec,
    modules: Sequence[StoredModule | None],
    side: Side,
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Raise IntegrityError where a value is more than the element type holds (spec DEC-08).

    Own rows alone, with scales so small that no symbol could give such a value, need no look.
    """
    dtype = TORCH[spec.dtype]
    if all(module is not None and is_bounded(module.side(side), dtype) for module in modules):
        return
    if not all_finite(tensors[spec.key]):
        raise IntegrityError(f"tensor {spec.key!r} has a value that {spec.dtype} does not hold.")


def _is_spread(opened: Opened, device: str) -> bool:
    """Tell whether two threads write the tensors.

    They are large, and numpy makes them: products would wake torch's own threads.
    """
    return (
        device == "cpu"
        and opened.size_bytes >= _SPREAD_BYTES
        and not opened.stored.sources
        and opened.stored.previous is None
    )


def _copying(opened: Opened, rows: Sequence[Rows]) -> _Decode:

    def copy_rows(shape: ModuleShape, _: StoredModule | None, out: Rows | None) -> Rows:
        decoded = rows[opened.modules[shape.module]]
        for place, values in zip(out or (), decoded, strict=False):
            place.copy_(values)
        return out or decoded

    return copy_rows


def _opened_bytes(opened: Opened) -> int:
    rows = sum(
        (side.own.nbytes if any(side.own.strides) else 0)
        + _SIDE_BYTES
        + sum(term.coefficients.nbytes for term in side.terms)
        for module in opened.stored.modules
        if module is not None
        for side in (module.a, module.b)
    )
    return rows + sum(map(len, opened.stored.verbatim.values()))


def _layout_bytes(layout: Layout) -> int:
    return _TENSOR_BYTES * len(layout.tensors)


def _basis_bytes(basis: StoredBasis | None) -> int:
    return (
        _NO_BASIS_BYTES
        if basis is None
        else sum(block.nbytes for blocks in basis.modules.values() for block in blocks)
    )


def _rows_bytes(rows: Sequence[Rows]) -> int:
    return sum(tensor.numel() * tensor.element_size() for pair in rows for tensor in pair)
