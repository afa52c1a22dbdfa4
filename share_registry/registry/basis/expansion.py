"""A stored adapter as coefficients over the rows it is made of: a refit forms no adapter.

For one module and side, with the rows R_o of every object o in use, X = sum_o K_o R_o: own rows
enter with their scales, terms with scale and power of two, a previous version with its own
expansion. The one rounding to float32 is left out: it is 2**-24 of an element.
"""

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from share_registry.materialize.decoder import Reader
from share_registry.names import Digest, Side
from share_registry.stored import StoredSide

# Coefficients float64 (r, k) over the k rows of each object
Factor = Mapping[Digest, Tensor]


class Expansions:
    """Expansions of adapter objects and the rows they are over, each made once.

    Args:
        reader: Reads the objects.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.factor = lru_cache(maxsize=4096)(self._factor)

    def rows(self, digest: Digest, module: str, side: Side) -> Tensor:
        """Return the rows (k, m) float64 that an object offers.

        Integers, or the decoded factor of a module that is kept bit for bit.
        """
        if self._reader.is_basis(digest):
            block = self._reader.basis(digest).rows(module, side)
            # a term refers to it, and the reader has checked that
            assert block is not None
            return torch.from_numpy(block).to(torch.float64)
        stored = self._reader.open(digest).module(module)
        if stored is None:
            return self._decoded(digest, module, side)
        return torch.from_numpy(stored.side(side).own).to(torch.float64)

    def _factor(self, digest: Digest, module: str, side: Side) -> Factor:
        opened = self._reader.open(digest)
        stored = opened.module(module)
        if stored is None:
            rank = len(self._decoded(digest, module, side))
            return {digest: torch.eye(rank, dtype=torch.float64, device="cpu")}
        expanded: dict[Digest, Tensor] = {}
        if stored.side(side).previous and opened.stored.previous is not None:
            expanded |= self.factor(opened.stored.previous, module, side)
        for source, K in _own_terms(stored.side(side), digest, opened.stored.sources).items():
            expanded[source] = expanded[source] + K if source in expanded else K
        return expanded

    def _decoded(self, digest: Digest, module: str, side: Side) -> Tensor:
        pair = self._reader.rows(digest)[self._reader.open(digest).modules[module]]
        return pair[0 if side is Side.A else 1].to(torch.float64)


def _own_terms(
    stored: StoredSide, digest: Digest, sources: tuple[Digest, ...]
) -> dict[Digest, Tensor]:
    scales = torch.from_numpy(stored.scales).to(torch.float64)
    terms = {
        sources[term.source]: scales[:, None]
        * 2.0**term.exponent
        * torch.from_numpy(term.coefficients).to(torch.float64)
        for term in stored.terms
    }
    # rows of zeros share one number, which has no stride
    if not terms or (any(stored.own.strides) and stored.own.any()):
        terms[digest] = torch.diag(scales)
    return terms
