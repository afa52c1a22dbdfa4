"""From adapter objects to tensors: the exact path (spec DEC-01 to DEC-12).

An object is read, hashed, then parsed from that same buffer. Blocks and decoded factors that later adapters refer to are kept within a byte bound.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from share_registry.algebra.decode import decode_side
from share_registry.errors import Integrity, NotFound
from share_registry.exchange.pairs import Rows, rows_of, tensors_of
from share_registry.exchange.tensors import tensor_of
from share_registry.format import basis_object
from share_registry.format.adapter_object import decode as decode_object
from share_registry.format.adapter_object import header
from share_registry.format.layout import Layout, ModuleShape, TensorSpec
from share_registry.format.safetensors_file import Item
from share_registry.format.tensor_object import decode_tensor
from share_registry.names import Digest, Side
from share_registry.stored import StoredAdapter, StoredBasis, StoredModule

MAX_OBJECT_BYTES: Final = 4 << 30
MAX_LAYOUT_BYTES: Final = 16 << 20
MAX_CHAIN: Final = 8
"""Longest chain of previous versions (spec DEC-09)."""
CACHE_BYTES: Final = 512 << 20

_NO_BASIS_BYTES: Final = 512
"""Of remembering that an object is none."""
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
        return self.objects[digest] if digest in self.objects else self.store.get(digest, limit=limit)


class Reader:
    """Reads adapter objects of one store and rebuilds their tensors. Its caches may be shared by threads: a race costs a second decoding, never a wrong value.

    Args:
        store: Where the objects are.
        cache_bytes: Bound on what is kept of parsed objects and decoded factors.
    """

    def __init__(self, store: _Objects, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._opened: _Bounded[Opened] = _Bounded(cache_bytes // 2)
        self._decoded: _Bounded[tuple[Rows, ...]] = _Bounded(cache_bytes // 2)
        self._bases: _Bounded[StoredBasis | None] = _Bounded(cache_bytes // 4)

    def beside(self, objects: Mapping[Digest, bytes]) -> "Reader":
        """Return a reader that also finds objects in memory; what is kept is shared (objects never change)."""
        other = Reader(_Overlay(objects, self._store))
        other._opened, other._decoded, other._bases = self._opened, self._decoded, self._bases
        return other

    def forget_decoded(self) -> None:
        """Drop decoded factors, not parsed objects: the next reading decodes again."""
        self._decoded.clear()

    def open(self, digest: Digest) -> Opened:
        """Return an adapter object, verified. Raises Integrity."""
        return self._opened.get(digest, lambda: self._open(self._read(digest, MAX_OBJECT_BYTES)), _opened_bytes)

    def is_basis(self, digest: Digest) -> bool:
        """Tell whether an object is a basis object and no adapter object. Raises Integrity where it is neither."""
        return digest not in self._opened and self._bases.get(digest, lambda: self._basis(digest), _basis_bytes) is not None

    def basis(self, digest: Digest) -> StoredBasis:
        """Return a basis object, verified. Raises Integrity."""
        found = self._bases.get(digest, lambda: self._basis(digest), _basis_bytes)
        if found is None:
            raise Integrity(f"object {digest} is no basis object, though something refers to it as one.")
        return found

    def chain(self, digest: Digest) -> int:
        """Return how many previous versions an object's decoding passes through. Raises Integrity beyond the limit."""
        depth = 0
        previous = self.open(digest).stored.previous
        while previous is not None:
            depth += 1
            if depth > MAX_CHAIN:
                raise Integrity(f"adapter object {digest}: chain of previous versions is deeper than {MAX_CHAIN}.")
            previous = self.open(previous).stored.previous
        return depth

    def rows(self, digest: Digest, device: str = "cpu") -> tuple[Rows, ...]:
        """Return the decoded float32 factors by position in `Layout.modules()`, on a device."""
        self.chain(digest)
        return self._decoded.get(f"{digest}:{device}", lambda: self._rows(digest, device), _rows_bytes)

    def tensors(self, digest: Digest, device: str = "cpu") -> dict[str, torch.Tensor]:
        """Return every tensor of the adapter file under its key, in file order, in the file's dtypes.

        Factors are decoded in float64, rounded once to float32 and then to the tensor's dtype, all to nearest even (spec DEC-06, DEC-08).
        """
        opened = self.open(digest)
        coded = [module is not None for module in opened.stored.modules]
        rows = [pair if is_coded else None for pair, is_coded in zip(self.rows(digest, device), coded, strict=True)]
        made = {key: tensor.clone() for key, tensor in tensors_of(opened.layout, rows).items()}  # what is kept must not be the caller's
        for position, spec in enumerate(opened.layout.tensors):
            if spec.key not in made:
                made[spec.key] = self._kept(opened, position).to(device)
        return {spec.key: made[spec.key] for spec in opened.layout.tensors}

    def _read(self, digest: Digest, limit: int) -> bytes:
        """Return an object that something refers to: that it is gone is damage."""
        try:
            return self._store.get(digest, limit=limit)
        except NotFound as error:
            raise Integrity(f"object {digest} is not in the store, though a version needs it.", hint="Bring it back from a copy of the store.") from error

    def _open(self, content: bytes) -> Opened:
        layout = Layout.from_bytes(self._read(header(content).layout, MAX_LAYOUT_BYTES))
        names = {shape.module: position for position, shape in enumerate(layout.modules())}
        return Opened(stored=decode_object(content, layout), layout=layout, modules=names, size_bytes=len(content))

    def _kept(self, opened: Opened, position: int) -> torch.Tensor:
        """Return a tensor that is kept bit for bit."""
        spec = opened.layout.tensors[position]
        if position in opened.stored.verbatim:
            return _tensor(spec, opened.stored.verbatim[position])
        if position not in opened.stored.external:
            raise Integrity(f"tensor {spec.key!r} is neither coded nor kept.")
        return _tensor(spec, decode_tensor(self._read(opened.stored.external[position], MAX_OBJECT_BYTES), dtype=spec.dtype, size=spec.size_bytes))

    def _rows(self, digest: Digest, device: str) -> tuple[Rows, ...]:
        opened = self.open(digest)
        shapes = opened.layout.modules()
        kept = self._kept_rows(opened)
        previous = self._previous(opened, device)
        made: list[Rows] = []
        for position, (shape, module) in enumerate(zip(shapes, opened.stored.modules, strict=True)):
            if module is None:
                a, b = kept[position]
                made.append((a.to(device), b.to(device)))
            else:
                made.append((self._side(opened, shape, module, Side.A, previous, device), self._side(opened, shape, module, Side.B, previous, device)))
        return tuple(made)

    def _side(
        self, opened: Opened, shape: ModuleShape, module: StoredModule, side: Side, previous: "Callable[[str, Side], torch.Tensor] | None", device: str
    ) -> torch.Tensor:
        stored = module.side(side)
        before = None
        if stored.previous:
            if previous is None:
                raise Integrity(f"module {shape.module!r} refers to a previous version that is not named.")
            before = previous(shape.module, side)
            if before.shape != (shape.rank, stored.own.shape[1]):
                raise Integrity(f"module {shape.module!r} side {side}: previous version has shape {tuple(before.shape)}.")
        blocks = [self._block(opened.stored.sources[term.source], shape.module, side, stored.own.shape[1], device) for term in stored.terms]
        return decode_side(stored, previous=before, blocks=blocks, device=device)

    def _block(self, source: Digest, module: str, side: Side, width: int, device: str) -> torch.Tensor:
        rows = self.basis(source).rows(module, side) if self.is_basis(source) else self._own_rows(source, module, side)
        if rows is None or rows.shape[1] != width:
            raise Integrity(f"object {source} has no block for module {module!r} side {side} of width {width}.")
        return torch.from_numpy(rows).to(device)

    def _own_rows(self, source: Digest, module: str, side: Side) -> NDArray[np.int32] | None:
        found = self.open(source).module(module)
        return None if found is None else found.side(side).own

    def _basis(self, digest: Digest) -> StoredBasis | None:
        content = self._read(digest, MAX_OBJECT_BYTES)
        if basis_object.is_basis(content):
            return basis_object.decode(content)
        self._opened.get(digest, lambda: self._open(content), _opened_bytes)
        return None

    def _previous(self, opened: Opened, device: str) -> "Callable[[str, Side], torch.Tensor] | None":
        digest = opened.stored.previous
        if digest is None:
            return None
        names, rows = self.open(digest).modules, self.rows(digest, device)

        def of(module: str, side: Side) -> torch.Tensor:
            if module not in names:
                raise Integrity(f"adapter object {digest}: module {module!r} is not there, though a later version refers to it.")
            return rows[names[module]][0 if side is Side.A else 1]

        return of

    def _kept_rows(self, opened: Opened) -> dict[int, Rows]:
        """Return the rows of modules kept bit for bit, by position, as float32."""
        layout, found, position = opened.layout, dict[int, Rows](), 0
        for factor in layout.factors:
            if opened.stored.modules[position] is None:
                tensors = {layout.tensors[index].key: self._kept(opened, index) for index in (factor.a, factor.b)}
                for offset, (a, b) in enumerate(rows_of(layout, factor, tensors)):
                    found[position + offset] = (a.to(torch.float32), b.to(torch.float32))
            position += factor.experts
        return found


class _Bounded(Generic[_T]):
    """Keeps the values used last within a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._used = limit_bytes, 0
        self._kept: OrderedDict[str, tuple[_T, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str, make: Callable[[], _T], size_of: Callable[[_T], int]) -> _T:
        """Return what is kept under a key, or make and keep it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = make()
        with self._lock:
            self._keep(key, value, size_of(value))
        return value

    def __contains__(self, key: str) -> bool:
        """Tell whether a value is kept under a key."""
        with self._lock:
            return key in self._kept

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._used = 0

    def _keep(self, key: str, value: _T, size: int) -> None:
        self._used += size - self._kept.pop(key, (value, 0))[1]
        self._kept[key] = (value, size)
        while self._used > self._limit and len(self._kept) > 1:
            self._used -= self._kept.popitem(last=False)[1][1]


def _tensor(spec: TensorSpec, content: bytes) -> torch.Tensor:
    return tensor_of(Item(key=spec.key, dtype=spec.dtype, shape=tuple(spec.shape), content=content))


def _opened_bytes(opened: Opened) -> int:
    return opened.size_bytes * 8


def _basis_bytes(basis: StoredBasis | None) -> int:
    return _NO_BASIS_BYTES if basis is None else sum(block.nbytes for blocks in basis.modules.values() for block in blocks)


def _rows_bytes(rows: Sequence[Rows]) -> int:
    return sum(tensor.numel() * tensor.element_size() for pair in rows for tensor in pair)
