"""From adapter objects to tensors: the exact path (spec DEC-01 to DEC-12).

An object is read, hashed, then parsed from that same buffer. Blocks and decoded factors that later
adapters refer to are kept within a byte bound.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import torch

from share_registry.algebra.decode import decode_side, is_bounded
from share_registry.errors import IntegrityError, NotFoundError, ShareRegistryError
from share_registry.exchange.factor_pairs import Rows, rows_of
from share_registry.exchange.tensors import TORCH, all_finite, empty_tensors, tensor_of
from share_registry.format import adapter_object, basis_object
from share_registry.format.layout import DType, FactorSpec, Layout, ModuleShape, TensorSpec
from share_registry.format.parallel import side_by_side
from share_registry.format.safetensors_file import Item
from share_registry.format.symbols import Ints
from share_registry.format.tensor_object import decode_tensor
from share_registry.materialize.lru import Bounded
from share_registry.names import Digest, Side
from share_registry.stored import StoredAdapter, StoredBasis, StoredModule, StoredSide

MAX_OBJECT_BYTES: Final = 4 << 30
MAX_LAYOUT_BYTES: Final = 16 << 20
MAX_CHAIN: Final = 8
"""Longest chain of previous versions (spec DEC-09)."""
CACHE_BYTES: Final = 512 << 20

_NO_BASIS_BYTES: Final = 512
"""Of remembering that an object is none."""
_SIDE_BYTES: Final = 1024
"""Of one factor in memory, besides its numbers."""
_TENSOR_BYTES: Final = 2048
"""Of one tensor's description in memory."""
_SPREAD_BYTES: Final = 1 << 20
"""Size of an object from which on a second thread takes less than it saves.

Most of its work is the first touch of memory.
"""
_Before = Callable[[str, Side], torch.Tensor]
"""The decoded factor of the previous version."""
_Coded = tuple[FactorSpec, list[ModuleShape], Sequence[StoredModule | None]]
"""A factor pair with its modules."""
_Decode = Callable[[ModuleShape, StoredModule | None, Rows | None], Rows]
"""Decodes one module, into rows that are given or new ones."""
_T = TypeVar("_T")


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


class _Objects(Protocol):
    """The one method of a store that a reader needs."""

    def get(self, digest: Digest, *, limit: int = ...) -> bytes:
        """Return an object, verified."""
        ...


@dataclass(frozen=True, slots=True)
class _Overlay:
    objects: Mapping[Digest, bytes]
    store: _Objects

    def get(self, digest: Digest, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return (
            self.objects[digest] if digest in self.objects else self.store.get(digest, limit=limit)
        )


class Reader:
    """Reads adapter objects of one store and rebuilds their tensors.

    Its caches may be shared by threads: a race costs a second decoding, never a wrong value.

    Args:
        store: Where the objects are.
        cache_bytes: Bound on what is kept of parsed objects and decoded factors.
    """

    def __init__(self, store: _Objects, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._opened: Bounded[Opened] = Bounded(cache_bytes // 2)
        self._decoded: Bounded[tuple[Rows, ...]] = Bounded(cache_bytes // 2)
        self._bases: Bounded[StoredBasis | None] = Bounded(cache_bytes // 4)
        self._layouts: Bounded[Layout] = Bounded(cache_bytes // 16)

    def beside(self, objects: Mapping[Digest, bytes]) -> "Reader":
        """Return a reader that also finds objects in memory.

        What is kept is shared (objects never change).
        """
        other = Reader(_Overlay(objects, self._store))
        other._opened, other._decoded, other._bases, other._layouts = (
            self._opened,
            self._decoded,
            self._bases,
            self._layouts,
        )
        return other

    def forget_decoded(self) -> None:
        """Drop decoded factors, not parsed objects: the next reading decodes again."""
        self._decoded.clear()

    def open(self, digest: Digest) -> Opened:
        """Return an adapter object, verified. Raises IntegrityError."""
        return self._opened.get(
            digest, lambda: self._open(self._read(digest, MAX_OBJECT_BYTES)), _opened_bytes
        )

    def layout(self, digest: Digest) -> Layout:
        """Return a layout object, verified. Raises IntegrityError."""
        return self._layouts.get(
            digest, lambda: Layout.from_bytes(self._read(digest, MAX_LAYOUT_BYTES)), _layout_bytes
        )

    def is_basis(self, digest: Digest) -> bool:
        """Tell whether an object is a basis object and no adapter object.

        Raises IntegrityError where it is neither.
        """
        return (
            digest not in self._opened
            and self._bases.get(digest, lambda: self._basis(digest), _basis_bytes) is not None
        )

    def basis(self, digest: Digest) -> StoredBasis:
        """Return a basis object, verified. Raises IntegrityError."""
        found = self._bases.get(digest, lambda: self._basis(digest), _basis_bytes)
        if found is None:
            raise IntegrityError(
                f"object {digest} is no basis object, though something refers to it as one."
            )
        return found

    def chain(self, digest: Digest) -> int:
        """Return how many previous versions an object's decoding passes through.

        Raises IntegrityError beyond the limit.
        """
        depth = 0
        previous = self.open(digest).stored.previous
        while previous is not None:
            depth += 1
            if depth > MAX_CHAIN:
                raise IntegrityError(
                    f"adapter object {digest}: chain of previous versions is deeper than {MAX_CHAIN}."
                )
            previous = self.open(previous).stored.previous
        return depth

    def rows(self, digest: Digest, device: str = "cpu") -> tuple[Rows, ...]:
        """Return the decoded float32 factors by position in `Layout.modules()`, on a device."""
        self.chain(digest)
        return self._decoded.get(
            f"{digest}:{device}", lambda: tuple(self._rows(self.open(digest), device)), _rows_bytes
        )

    def tensors(self, digest: Digest, device: str = "cpu") -> dict[str, torch.Tensor]:
        """Return every tensor of the adapter file under its key, in file order, in the file's dtypes; nothing is kept of them.

        Factors are decoded in float64, rounded once to float32 and then to the tensor's dtype, all
        to nearest even (spec DEC-06, DEC-08).
        """
        opened = self.open(digest)
        self.chain(digest)
        layout, kept = opened.layout, self._decoded.kept(f"{digest}:{device}")
        decode = self._decoding(opened, device) if kept is None else _copying(opened, kept)
        coded = [of_factor for of_factor in _by_factor(opened) if of_factor[2][0] is not None]
        made = empty_tensors(
            (layout.tensors[index] for factor, *_ in coded for index in (factor.a, factor.b)),
            device,
        )
        inference = torch.is_inference_mode_enabled()

        def fill(part: Sequence[_Coded]) -> None:
            with torch.inference_mode(
                inference
            ):  # each thread has a mode of its own, and tensors made in it are written in no other
                for factor, shapes, modules in part:
                    for shape, module, place in zip(
                        shapes, modules, rows_of(layout, factor, made), strict=True
                    ):
                        decode(shape, module, place)
                    for spec, side in (
                        (layout.tensors[factor.a], Side.A),
                        (layout.tensors[factor.b], Side.B),
                    ):
                        if not (
                            _are_bounded(modules, side, spec.dtype) or all_finite(made[spec.key])
                        ):  # spec DEC-08
                            raise IntegrityError(
                                f"tensor {spec.key!r} has a value that {spec.dtype} does not hold."
                            )

        side_by_side(fill, [coded[::2], coded[1::2]] if _is_spread(opened, device) else [coded])
        for position, spec in enumerate(layout.tensors):
            if spec.key not in made:
                made[spec.key] = self._kept(opened, position).to(device)
        return {spec.key: made[spec.key] for spec in layout.tensors}

    def _read(self, digest: Digest, limit: int) -> bytes:
        """Return an object that something refers to: that it is gone is damage."""
        try:
            return self._store.get(digest, limit=limit)
        except NotFoundError as error:
            raise IntegrityError(
                f"object {digest} is not in the store, though a version needs it.",
                hint="Bring it back from a copy of the store.",
            ) from error

    def _open(self, content: bytes) -> Opened:
        stored, layout = adapter_object.parse(content, self.layout)
        names = {shape.module: position for position, shape in enumerate(layout.modules())}
        return Opened(stored=stored, layout=layout, modules=names, size_bytes=len(content))

    def _read_ahead(self, opened: Opened) -> None:
        """Open what an adapter object refers to, several objects at a time.

        What cannot be read is reported where it is needed.
        """
        wanted = [
            *opened.stored.sources,
            *([opened.stored.previous] if opened.stored.previous else []),
        ]
        side_by_side(
            self._try,
            [
                digest
                for digest in wanted
                if digest not in self._opened and digest not in self._bases
            ],
        )

    def _try(self, digest: Digest) -> None:
        with suppress(ShareRegistryError):
            self.is_basis(digest)

    def _kept(self, opened: Opened, position: int) -> torch.Tensor:
        """Return a tensor that is kept bit for bit."""
        spec = opened.layout.tensors[position]
        if position in opened.stored.verbatim:
            return _tensor(spec, opened.stored.verbatim[position])
        if position not in opened.stored.external:
            raise IntegrityError(f"tensor {spec.key!r} is neither coded nor kept.")
        return _tensor(
            spec,
            decode_tensor(
                self._read(opened.stored.external[position], MAX_OBJECT_BYTES),
                dtype=spec.dtype,
                size=spec.size_bytes,
            ),
        )

    def _rows(self, opened: Opened, device: str) -> Iterator[Rows]:
        """Yield the decoded factors of each module; those that are kept bit for bit in float32."""
        decode = self._decoding(opened, device)
        for factor, shapes, modules in _by_factor(opened):
            if modules[0] is not None:
                yield from (
                    decode(shape, module, None)
                    for shape, module in zip(shapes, modules, strict=True)
                )
            else:
                tensors = {
                    opened.layout.tensors[index].key: self._kept(opened, index)
                    for index in (factor.a, factor.b)
                }
                yield from (
                    (a.to(device, torch.float32), b.to(device, torch.float32))
                    for a, b in rows_of(opened.layout, factor, tensors)
                )

    def _decoding(self, opened: Opened, device: str) -> _Decode:
        """Return what decodes the modules of an adapter object; what it refers to is read first."""
        self._read_ahead(opened)
        previous = self._previous(opened, device)

        def decode(shape: ModuleShape, module: StoredModule | None, out: Rows | None) -> Rows:
            assert module is not None  # the format codes the modules of a factor pair together
            a, b = out or (None, None)
            return self._side(opened, shape, module.a, Side.A, previous, device, a), self._side(
                opened, shape, module.b, Side.B, previous, device, b
            )

        return decode

    def _side(
        self,
        opened: Opened,
        shape: ModuleShape,
        stored: StoredSide,
        side: Side,
        previous: _Before | None,
        device: str,
        out: torch.Tensor | None,
    ) -> torch.Tensor:
        before = None
        if stored.previous:
            if previous is None:
                raise IntegrityError(
                    f"module {shape.module!r} refers to a previous version that is not named."
                )
            before = previous(shape.module, side)
            if before.shape != (shape.rank, stored.own.shape[1]):
                raise IntegrityError(
                    f"module {shape.module!r} side {side}: previous version has shape {tuple(before.shape)}."
                )
        blocks = [
            self._block(
                opened.stored.sources[term.source], shape.module, side, stored.own.shape[1], device
            )
            for term in stored.terms
        ]
        return decode_side(stored, previous=before, blocks=blocks, device=device, out=out)

    def _block(
        self, source: Digest, module: str, side: Side, width: int, device: str
    ) -> torch.Tensor:
        rows = (
            self.basis(source).rows(module, side)
            if self.is_basis(source)
            else self._own_rows(source, module, side)
        )
        if rows is None or rows.shape[1] != width:
            raise IntegrityError(
                f"object {source} has no block for module {module!r} side {side} of width {width}."
            )
        return torch.from_numpy(rows).to(device)

    def _own_rows(self, source: Digest, module: str, side: Side) -> Ints | None:
        found = self.open(source).module(module)
        return None if found is None else found.side(side).own

    def _basis(self, digest: Digest) -> StoredBasis | None:
        content = self._read(digest, MAX_OBJECT_BYTES)
        if basis_object.is_basis(content):
            return basis_object.decode(content)
        self._opened.get(digest, lambda: self._open(content), _opened_bytes)
        return None

    def _previous(self, opened: Opened, device: str) -> _Before | None:
        digest = opened.stored.previous
        if digest is None:
            return None
        names, rows = self.open(digest).modules, self.rows(digest, device)

        def of(module: str, side: Side) -> torch.Tensor:
            if module not in names:
                raise IntegrityError(
                    f"adapter object {digest}: module {module!r} is not there, though a later version refers to it."
                )
            return rows[names[module]][0 if side is Side.A else 1]

        return of


def _by_factor(opened: Opened) -> Iterator[_Coded]:
    """Yield each factor pair with its modules."""
    position = 0
    for factor in opened.layout.factors:
        yield (
            factor,
            opened.layout.modules_of(factor),
            opened.stored.modules[position : position + factor.experts],
        )
        position += factor.experts


def _are_bounded(modules: Sequence[StoredModule | None], side: Side, dtype: DType) -> bool:
    """Tell whether one factor of each module is own rows alone, with scales so small that no symbol could make a number that an element type does not hold."""
    return all(
        module is not None and is_bounded(module.side(side), TORCH[dtype]) for module in modules
    )


def _is_spread(opened: Opened, device: str) -> bool:
    """Tell whether two threads write the tensors.

    They are large, and numpy makes them, since products wake threads of torch's.
    """
    return (
        device == "cpu"
        and opened.size_bytes >= _SPREAD_BYTES
        and not opened.stored.sources
        and opened.stored.previous is None
    )


def _copying(opened: Opened, rows: Sequence[Rows]) -> _Decode:
    """Return what writes decoded rows that are there already."""

    def copy(shape: ModuleShape, _: StoredModule | None, out: Rows | None) -> Rows:
        found = rows[opened.modules[shape.module]]
        for place, values in zip(out or (), found, strict=False):
            place.copy_(values)
        return out or found

    return copy


def _tensor(spec: TensorSpec, content: bytes) -> torch.Tensor:
    return tensor_of(Item(key=spec.key, dtype=spec.dtype, shape=tuple(spec.shape), content=content))


def _opened_bytes(opened: Opened) -> int:
    sides = [
        side
        for module in opened.stored.modules
        if module is not None
        for side in (module.a, module.b)
    ]
    rows = sum(
        (side.own.nbytes if any(side.own.strides) else 0)
        + _SIDE_BYTES
        + sum(term.coefficients.nbytes for term in side.terms)
        for side in sides
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
