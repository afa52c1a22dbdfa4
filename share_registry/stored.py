"""What one stored adapter is, in integers: the value that the algebra makes and the format writes.

For one module and side, with r rows of width m:

    X = previous + diag(scales) @ (sum_t 2**exponent_t * coefficients_t @ rows_t + own)

Every step is a float64 operation on single elements, in this order: the exact integer product of
each term times its power of two, the terms added up in order of source, the own rows added to that,
times the row's scale, and the previous factor plus that, rounded once to float32 (spec DEC-01 to
DEC-07). Only the products are sums, and bits(coefficients) + bits(rows) + ceil(log2 k) is at most
45, so they are exact in any order, and exact again once multiplied with a scale of 8 bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from share_registry.names import Digest, Side

Ints: TypeAlias = NDArray[np.int32] | NDArray[np.int16] | NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Coefficients over the integer rows of one block.

    Attributes:
        source: Position of the block's adapter or basis object in `StoredAdapter.sources`.
        exponent: Power of two that the integer product is multiplied with.
        coefficients: int32 or int16 (r, k); k is the number of rows of the block for the same
            module and side.
    """

    source: int
    exponent: int
    coefficients: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSide:
    """One factor.

    Attributes:
        previous: Whether the decoded factor of `StoredAdapter.previous` enters.
        terms: Blocks referred to, in order of `source`.
        scales: float32 (r,), each a bfloat16 value, at least 0.
        own: int32, int16 or int8 (r, m): own rows, the block that later adapters may refer to.
    """

    previous: bool
    terms: tuple[Term, ...]
    scales: NDArray[np.float32]
    own: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModule:
    """Both factors of a module, and its relative error of dW as recorded (0 where dW is 0)."""

    a: StoredSide
    b: StoredSide
    error: float

    def side(self, side: Side) -> StoredSide:
        """Return one factor."""
        return self.a if side is Side.A else self.b


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBasis:
    """Rows fitted to be shared: a block for every module and side that later adapters refer to.

    Attributes:
        modules: By module name in order: (k_a, in) and (k_b, out), int32 or int16. A row is a
            direction of an orthonormal basis times a factor of its own, rounded.
    """

    modules: Mapping[str, tuple[Ints, Ints]]

    def rows(self, module: str, side: Side) -> Ints | None:
        """Return the block of a module and side, None where the basis has no such module."""
        blocks = self.modules.get(module)
        return None if blocks is None else blocks[0 if side is Side.A else 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAdapter:
    """One adapter object.

    Attributes:
        layout: Digest of the layout object.
        previous: Adapter object whose decoded factors enter where a side says so.
        sources: Adapter and basis objects whose blocks are referred to.
        modules: By position in `Layout.modules()`; None: the module's tensors are kept verbatim.
        verbatim: Little-endian bytes of tensors kept bit for bit, by position in `Layout.tensors`:
            passengers and the tensors of lossless factor pairs.
        external: Tensors kept bit for bit in an object of their own, by position in
            `Layout.tensors`.
        heads: Whether floats kept bit for bit, here or in objects of their own, are split into
            heads and tails.
    """

    layout: Digest
    previous: Digest | None
    sources: tuple[Digest, ...]
    modules: tuple[StoredModule | None, ...]
    verbatim: Mapping[int, bytes]
    external: Mapping[int, Digest]
    heads: bool = False
