"""Moments of the tasks that a refit has seen, kept beside the catalog.

The next refit of the space reads only the tasks that came since, however many came before. Moments
follow from the objects alone and are an index like the catalog: deleting them costs time and
nothing else, and no promise of a commit rests on them.

Per module and side they are the objects whose rows are in use, what turns these rows into
orthonormal directions (L^+), and the second moments G in those directions, as `fit` defines them.
Where there are more rows in use than columns, they are the moments seen from the axes.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors
from torch import Tensor

from share_registry.errors import IntegrityError, NotFoundError, StoreError
from share_registry.names import Digest
from share_registry.registry.context import Context
from share_registry.store.head_notes import CATALOG
from share_registry.values.policy import ENERGY, UNIT

# Larger moments are not kept: reading them would take as long as what they save.
_MOST_BYTES: Final = 256 << 20
# Tasks from which on it pays. Fewer are read again in about the time of their moments, whose file
# is large.
FEWEST: Final = 64
_DIGEST_BYTES: Final = 32
# Columns from which on moments seen from the axes are of float32
WIDE: Final = 512
# Of the file's layout; others are not read
_VERSION: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSide:
    """One side of one module.

    Attributes:
        blocks: The objects whose rows R (K, m) are in use, in order, with how many of each; none
            where the moments are seen from the axes.
        back: (q, K) float64: back @ R are orthonormal directions; empty from the axes.
        moments: (q, q) float64 in them; from the axes the upper triangle of (m, m) alone, in
            float32 where it is large.
    """

    blocks: Mapping[Digest, int]
    back: Tensor
    moments: Tensor

    @classmethod
    def of_axes(cls, moments: Tensor) -> "KeptSide":
        """Return a side whose moments (m, m) are seen from the axes."""
        rows, columns = _upper(len(moments))
        upper = moments.cpu()[rows, columns]
        # float32 holds squares of such a size, with all their digits
        is_coarse = len(moments) >= WIDE and 1e-25 < float(moments.trace()) < 1e25
        return cls(
            blocks={},
            back=upper.new_empty((0, 0)),
            moments=upper.to(torch.float32) if is_coarse else upper,
        )

    def on_axes(self, width: int) -> Tensor:
        """Return the moments (m, m) float64 of a side that is seen from the axes."""
        moments = self.moments.new_zeros((width, width), dtype=torch.float64)
        rows, columns = _upper(width)
        moments[rows, columns] = moments[columns, rows] = self.moments.double()
        return moments

    @property
    def size_bytes(self) -> int:
        """What is kept of it."""
        return self.back.nbytes + self.moments.nbytes

    def to(self, device: str) -> "KeptSide":
        """Return the same on a device."""
        return replace(self, back=self.back.to(device), moments=self.moments.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptMoments:
    """What a refit has seen.

    Attributes:
        weighting: How much each task counts.
        seen: Keys of the tasks: what their part follows from.
        modules: Side A and side B of every module whose moments are kept.
    """

    weighting: str
    seen: frozenset[str]
    modules: Mapping[str, tuple[KeptSide, KeptSide]]


def _upper(width: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(width, width, dtype=torch.int64, device="cpu")
    return rows, columns


def load(context: Context, space: str, weighting: str, keys: Sequence[str]) -> KeptMoments | None:
    """Return what the last refit of a space has seen.

    None where it is not there, damaged, or of a task that is no longer among `keys`.
    """
    path = _path(context, space, weighting)
    try:
        content = context.outside.read(path, limit=_MOST_BYTES) if path is not None else b""
        kept = _parse(memoryview(content), weighting) if content else None
    except (NotFoundError, IntegrityError, StoreError, SafetensorError, ValueError, KeyError):
        return None
    return kept if kept is not None and kept.seen <= set(keys) else None


def save(context: Context, space: str, kept: KeptMoments) -> None:
    """Keep moments for the next refit, where there is a place for them.

    Where they cannot be kept, nothing is raised.
    """
    path = _path(context, space, kept.weighting)
    if path is None or not context.writable or len(kept.seen) < FEWEST:
        return
    if sum(side.size_bytes for pair in kept.modules.values() for side in pair) > _MOST_BYTES:
        return
    with suppress(StoreError):
        context.outside.rewrite(path, _serialize(kept))


def forget(context: Context, space: str) -> None:
    """Remove what refits of a space have seen, of whichever task."""
    for weighting in (UNIT, ENERGY):
        path = _path(context, space, weighting)
        if path is not None and context.outside.exists(path):
            context.outside.remove(path)


def _path(context: Context, space: str, weighting: str) -> Path | None:
    name = f"{CATALOG}-moments-{space}-{weighting}"
    return context.beside / name if context.beside is not None else None


def _serialize(kept: KeptMoments) -> bytes:
    """Return the digest of what follows, a safetensors file: the header in JSON, and the arrays."""
    modules = sorted(kept.modules.items())
    header = {
        "version": _VERSION,
        "weighting": kept.weighting,
        "seen": sorted(kept.seen),
        "modules": {
            name: [
                {"blocks": list(side.blocks), "rows": list(side.blocks.values())} for side in pair
            ]
            for name, pair in modules
        },
    }
    tensors = {
        f"{kind}.{number}.{place}": array.contiguous()
        for number, (_, pair) in enumerate(modules)
        for place, side in enumerate(pair)
        for kind, array in (("back", side.back), ("moments", side.moments))
    }
    tensors["header"] = torch.frombuffer(bytearray(json.dumps(header).encode()), dtype=torch.uint8)
    body = save_tensors(tensors)
    return sha256(body).digest() + body


def _parse(content: memoryview, weighting: str) -> KeptMoments | None:
    body = content[_DIGEST_BYTES:]
    if sha256(body).digest() != content[:_DIGEST_BYTES]:
        return None
    tensors = load_tensors(bytes(body))
    header = json.loads(tensors["header"].numpy().tobytes())
    if (header["version"], header["weighting"]) != (_VERSION, weighting):
        return None

    def side(entry: Mapping[str, Any], number: int, place: int) -> KeptSide:
        return KeptSide(
            blocks=dict(zip(map(Digest, entry["blocks"]), entry["rows"], strict=True)),
            back=tensors[f"back.{number}.{place}"],
            moments=tensors[f"moments.{number}.{place}"],
        )

    return KeptMoments(
        weighting=weighting,
        seen=frozenset(header["seen"]),
        modules={
            name: (side(a, number, 0), side(b, number, 1))
            for number, (name, (a, b)) in enumerate(sorted(header["modules"].items()))
        },
    )
