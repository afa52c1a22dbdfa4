"""Moments of the tasks that a refit has seen, kept beside the catalog.

The next refit of the space reads only the tasks that came since, however many came before. Moments
follow from the objects alone and are an index like the catalog: deleting them costs time and
nothing else, and no promise of a commit rests on them.

Per module and side they are the objects whose rows are in use, what turns these rows into
orthonormal directions (L^+), and the second moments G in those directions, as `fit` defines them. A
module with more rows in use than it is wide has none.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from share_registry.errors import IntegrityError, NotFoundError, StoreError
from share_registry.names import Digest
from share_registry.registry.context import Context

# Larger moments are not kept: reading them would take as long as what they save.
_MOST_BYTES: Final = 256 << 20
# Tasks from which on it pays. Fewer are read again in about the time of their moments, whose file
# is large.
FEWEST: Final = 64
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSide:
    """One side of one module.

    Attributes:
        blocks: The objects whose rows R (K, m) are in use, in order, with how many of each.
        back: (q, K) float64: back @ R are orthonormal directions.
        moments: (q, q) float64 in them.
    """

    blocks: Mapping[Digest, int]
    back: Tensor
    moments: Tensor

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


def load(context: Context, space: str, weighting: str, keys: Sequence[str]) -> KeptMoments | None:
    """Return what the last refit of a space has seen.

    None where it is not there, damaged, or of a task that is no longer among `keys`.
    """
    path = _path(context, space, weighting)
    try:
        content = context.outside.read(path, limit=_MOST_BYTES) if path is not None else b""
        kept = _parse(memoryview(content), weighting) if content else None
    except (NotFoundError, IntegrityError, StoreError, ValueError, KeyError, TypeError):
        return None
    return kept if kept is not None and kept.seen <= set(keys) else None


def save(context: Context, space: str, kept: KeptMoments) -> None:
    """Keep moments for the next refit, where there is a place for them.

    Where they cannot be kept, nothing is raised.
    """
    path = _path(context, space, kept.weighting)
    if path is None or not context.writable or len(kept.seen) < FEWEST:
        return
    content = _serialize(kept)
    if len(content) > _MOST_BYTES:
        return
    new = path.with_name(f"{path.name}.{context.outside.token()[:8]}")
    try:
        context.outside.write_new(new, content)
        context.outside.replace(new, path)
    except StoreError:
        return


def _path(context: Context, space: str, weighting: str) -> Path | None:
    name = f"catalog.sqlite-moments-{space}-{weighting}"
    return context.beside / name if context.beside is not None else None


def _serialize(kept: KeptMoments) -> bytes:
    """Return the digest of what follows, the header's length, the header, and float64 arrays."""
    modules = sorted(kept.modules.items())
    header = json.dumps(
        {
            "weighting": kept.weighting,
            "seen": sorted(kept.seen),
            "modules": {
                name: [
                    {
                        "blocks": list(side.blocks),
                        "rows": list(side.blocks.values()),
                        "q": len(side.moments),
                    }
                    for side in pair
                ]
                for name, pair in modules
            },
        }
    ).encode()
    arrays = [array for _, pair in modules for side in pair for array in (side.back, side.moments)]
    body = b"".join(
        [
            len(header).to_bytes(8, "little"),
            header,
            *(array.contiguous().numpy().astype("<f8", copy=False).tobytes() for array in arrays),
        ]
    )
    return sha256(body).digest() + body


def _parse(content: memoryview, weighting: str) -> KeptMoments | None:
    body = content[_DIGEST_BYTES:]
    if sha256(body).digest() != content[:_DIGEST_BYTES]:
        return None
    size = int.from_bytes(body[:8], "little")
    header = json.loads(bytes(body[8 : 8 + size]))
    if header["weighting"] != weighting:
        return None
    pairs = sorted(header["modules"].items())
    sizes = [
        side["q"] * columns
        for _, pair in pairs
        for side in pair
        for columns in (sum(side["rows"]), side["q"])
    ]
    numbers = np.frombuffer(body, "<f8", offset=8 + size).astype(np.float64)
    arrays = iter(torch.split(torch.from_numpy(numbers), sizes))
    return KeptMoments(
        weighting=weighting,
        seen=frozenset(header["seen"]),
        modules={name: (_parse_side(a, arrays), _parse_side(b, arrays)) for name, (a, b) in pairs},
    )


def _parse_side(entry: Mapping[str, Any], arrays: Iterator[Tensor]) -> KeptSide:
    q, counts = entry["q"], entry["rows"]
    return KeptSide(
        blocks=dict(zip(map(Digest, entry["blocks"]), counts, strict=True)),
        back=next(arrays).view(q, sum(counts)),
        moments=next(arrays).view(q, q),
    )
