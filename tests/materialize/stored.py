"""Random stored adapters of every kind in memory.

Chains, terms over bases and over adapters, own rows or none, modules kept bit for bit, mixed ranks
and element types.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from share_registry.errors import NotFoundError
from share_registry.format import adapter_object, basis_object
from share_registry.format.canonical import sha256
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec
from share_registry.names import Digest, Side
from share_registry.stored import StoredAdapter, StoredBasis, StoredModule, StoredSide, Term

if TYPE_CHECKING:
    from share_registry.stored import Ints

WIDTHS = ((24, 16), (24, 16), (40, 24), (24, 24), (40, 24))
"""(in, out) of the modules."""
_LARGEST = (3, 100, 3000, 200_000)
"""Of integers: each narrower type, and one beyond."""


@dataclass
class Memory:
    """A store: objects by digest."""

    objects: dict[Digest, bytes] = field(default_factory=dict)

    def put(self, content: bytes) -> Digest:
        digest = sha256(content)
        self.objects[digest] = content
        return digest

    def get_or_spare(self, digest: Digest, *, limit: int = 0) -> bytes:
        if digest not in self.objects:
            raise NotFoundError(f"object {digest} is not there.")
        return self.objects[digest]

    def size(self, digest: Digest) -> int | None:
        return len(self.objects.get(digest, b""))


class Maker:
    """Makes adapters into a store; the same seed makes the same."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.memory = Memory()
        self.layouts: dict[Digest, Layout] = {}
        self.stored: dict[Digest, StoredAdapter] = {}
        self.bases: dict[Digest, StoredBasis] = {}

    def basis(self, *, uniform: bool) -> Digest:
        """Add a basis for all modules but perhaps some sides, which have rows of zeros."""
        modules = {}
        for number, widths in enumerate(WIDTHS):
            k = 6 if uniform else int(self.rng.integers(1, 7))
            a, b = (self.ints(k, width) for width in widths)
            modules[f"m{number}"] = (a, b * 0 if self.chance(0.1) else b)
        digest = self.memory.put(basis_object.encode(StoredBasis(modules=modules)))
        self.bases[digest] = StoredBasis(modules=modules)
        return digest

    def adapter(
        self, *, sources: Sequence[Digest] = (), previous: Digest | None = None, own: float = 0.7
    ) -> Digest:
        """Add an adapter over some of the sources, upon a previous version where it has the rank.

        It has own rows in this share of the factors.
        """
        layout = self._layout(previous)
        modules: list[StoredModule | None] = []
        for shape in layout.modules():
            kept = self.chance(0.15)
            sides = [
                self._side(shape.module, side, shape.rank, width, sources, previous, own)
                for side, width in ((Side.A, shape.in_), (Side.B, shape.out))
            ]
            modules.append(None if kept else StoredModule(a=sides[0], b=sides[1], error=0.0))
        return self._put(layout, modules, sources, previous)

    def ints(self, rows: int, width: int, largest: int | None = None) -> NDArray[np.int32]:
        """Return random integers, some of them zero."""
        bound = largest if largest is not None else int(self.rng.choice(_LARGEST))
        integers: NDArray[np.int32] = self.rng.integers(
            -bound, bound + 1, (rows, width), dtype=np.int32
        )
        return integers

    def chance(self, share: float) -> bool:
        """Tell true in this share of the cases."""
        return bool(self.rng.random() < share)

    def block(self, source: Digest, module: str, side: Side) -> "Ints | None":
        """Return the rows that a source offers for a factor."""
        if source in self.bases:
            return self.bases[source].rows(module, side)
        position = [shape.module for shape in self.layouts[source].modules()].index(module)
        stored = self.stored[source].modules[position]
        return None if stored is None else stored.side(side).own

    def _layout(self, previous: Digest | None) -> Layout:
        if previous is not None:
            return self.layouts[previous]
        dtypes = [DType.F32, DType.F32, DType.F32, DType.BF16, DType.F16]
        tensors, factors = [TensorSpec(key="head", dtype=DType.F32, shape=[3, 5])], []
        for number, (width, out) in enumerate(WIDTHS):
            rank, dtype = (
                (4 if self.chance(0.7) else int(self.rng.integers(1, 6))),
                dtypes[int(self.rng.integers(len(dtypes)))],
            )
            tensors += [
                TensorSpec(key=f"m{number}.A", dtype=dtype, shape=[rank, width]),
                TensorSpec(key=f"m{number}.B", dtype=dtype, shape=[out, rank]),
            ]
            factors.append(
                FactorSpec(
                    module=f"m{number}", form=Form.LINEAR, a=len(tensors) - 2, b=len(tensors) - 1
                )
            )
        return Layout(metadata=[], tensors=tensors, factors=factors)

    def _side(
        self,
        module: str,
        side: Side,
        rank: int,
        width: int,
        sources: Sequence[Digest],
        previous: Digest | None,
        own: float,
    ) -> StoredSide:
        terms = []
        for number, source in enumerate(sources):
            block = self.block(source, module, side)
            if block is not None and len(block) and self.chance(0.8):
                terms.append(
                    Term(
                        source=number,
                        exponent=int(self.rng.integers(-26, -13)),
                        coefficients=self.ints(rank, len(block), 5000),
                    )
                )
        scales = (2.0 ** self.rng.integers(-12, -6, rank)).astype(np.float32) * np.float32(1.5)
        rows = self.ints(rank, width) if self.chance(own) else np.zeros((rank, width), np.int32)
        return StoredSide(
            previous=previous is not None and self.chance(0.8),
            terms=tuple(terms),
            scales=scales,
            own=rows,
        )

    def _put(
        self,
        layout: Layout,
        modules: list[StoredModule | None],
        sources: Sequence[Digest],
        previous: Digest | None,
    ) -> Digest:
        sides = [side for module in modules if module is not None for side in (module.a, module.b)]
        used = sorted({term.source for side in sides for term in side.terms})
        renamed = [
            None
            if module is None
            else StoredModule(
                a=_rename_sources(module.a, used), b=_rename_sources(module.b, used), error=0.0
            )
            for module in modules
        ]
        kept = layout.passengers + [
            position
            for factor, module in zip(layout.factors, modules, strict=True)
            if module is None
            for position in (factor.a, factor.b)
        ]
        value = StoredAdapter(
            layout=self.memory.put(layout.to_bytes()),
            previous=previous if any(side.previous for side in sides) else None,
            sources=tuple(sources[number] for number in used),
            modules=tuple(renamed),
            verbatim={
                position: self._content(layout.tensors[position]) for position in sorted(kept)
            },
            external={},
        )
        digest = self.memory.put(adapter_object.encode(value, layout))
        self.layouts[digest], self.stored[digest] = layout, value
        return digest

    def _content(self, spec: TensorSpec) -> bytes:
        values = (self.rng.standard_normal(spec.elements) * 0.1).astype(np.float32)
        if spec.dtype is DType.F16:
            return values.astype(np.float16).tobytes()
        return (
            values.view(np.uint32).astype(np.uint32).__rshift__(16).astype(np.uint16).tobytes()
            if spec.dtype is DType.BF16
            else values.tobytes()
        )


def _rename_sources(side: StoredSide, used: Sequence[int]) -> StoredSide:
    terms = tuple(
        Term(source=used.index(term.source), exponent=term.exponent, coefficients=term.coefficients)
        for term in side.terms
    )
    return StoredSide(previous=side.previous, terms=terms, scales=side.scales, own=side.own)


def family(seed: int) -> tuple[Maker, list[Digest]]:
    """Return adapters that refer to each other in every way, and versions of one of them."""
    maker = Maker(seed)
    bases = [maker.basis(uniform=maker.chance(0.5)) for _ in range(2)]
    first = maker.adapter()
    adapters = [
        first,
        maker.adapter(sources=bases),
        maker.adapter(sources=bases, own=0.0),
        maker.adapter(sources=bases[:1], own=0.0),
    ]
    version = adapters[1]
    for _ in range(3):
        version = maker.adapter(
            sources=[bases[0], first][: int(maker.rng.integers(0, 3))], previous=version
        )
        adapters.append(version)
    adapters.append(maker.adapter(sources=[bases[1], first, bases[0]]))
    return maker, adapters
