"""Moments of the tasks that a refit has seen, kept beside the catalog.

The next refit of the space reads only the tasks that came since, however many there are.

They follow from the objects alone and are an index like the catalog: deleting them costs time and
nothing else, and what a commit promises never rests on them. Per module and side: the objects whose
rows are in use, what turns these rows into orthonormal directions, and the second moments in those
directions. A module with more rows in use than it is wide is not carried.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from share_registry.errors import IntegrityError, NotFoundError, StoreError
from share_registry.names import Digest

if TYPE_CHECKING:
    from share_registry.registry.context import Context

_MOST_BYTES: Final = 256 << 20
"""Larger moments are not kept: reading them would take as long as what they save."""
FEWEST: Final = 64
"""Tasks from which on it pays.

Fewer are read again in about the time of their moments, whose file is large.
"""
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedSide:
    """One side of one module.

    Attributes:
        blocks: The objects whose rows R (K, m) are in use, in order.
        rows: How many of each.
        back: (q, K) float64: back @ R are orthonormal directions.
        moments: (q, q) float64 in them.
    """

    blocks: tuple[Digest, ...]
    rows: tuple[int, ...]
    back: Tensor
    moments: Tensor

    def to(self, device: str) -> "CarriedSide":
        """Return the same on a device."""
        return replace(self, back=self.back.to(device), moments=self.moments.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a refit has seen.

    Attributes:
        weighting: How much each task counts.
        seen: Keys of the tasks: what their part follows from.
        modules: Side A and side B of every module that is carried.
    """

    weighting: str
    seen: frozenset[str]
    modules: Mapping[str, tuple[CarriedSide, CarriedSide]]


def load(context: "Context", space: str, weighting: str, keys: Sequence[str]) -> Carried | None:
    """Return what the last refit of a space has seen, None where that is not there, damaged, or of a task that is no longer among `keys`."""
    path = _path(context, space, weighting)
    try:
        content = context.outside.read(path, limit=_MOST_BYTES) if path is not None else b""
        found = _parsed(memoryview(content), weighting) if content else None
    except (NotFoundError, IntegrityError, StoreError, ValueError, KeyError, TypeError):
        return None
    return found if found is not None and found.seen <= set(keys) else None


def save(context: "Context", space: str, carried: Carried) -> None:
    """Keep moments for the next refit, where there is a place for them.

    That they cannot be kept is no error.
    """
    path = _path(context, space, carried.weighting)
    if path is None or not context.writable or len(carried.seen) < FEWEST:
        return
    content = _bytes(carried)
    if len(content) > _MOST_BYTES:
        return
    new = path.with_name(f"{path.name}.{context.outside.token()[:8]}")
    try:
        context.outside.write_new(new, content)
        context.outside.replace(new, path)
    except StoreError:
        return


def _path(context: "Context", space: str, weighting: str) -> Path | None:
    return (
        None
        if context.beside is None
        else context.beside / f"catalog.sqlite-moments-{space}-{weighting}"
    )


def _bytes(carried: Carried) -> bytes:
    modules = {
        name: [{"blocks": side.blocks, "rows": side.rows, "q": len(side.moments)} for side in sides]
        for name, sides in sorted(carried.modules.items())
    }
    header = json.dumps(
        {"weighting": carried.weighting, "seen": sorted(carried.seen), "modules": modules}
    ).encode()
    arrays = (
        part
        for _, sides in sorted(carried.modules.items())
        for side in sides
        for part in (side.back, side.moments)
    )
    body = b"".join(
        [
            len(header).to_bytes(8, "little"),
            header,
            *(part.contiguous().numpy().astype("<f8", copy=False).tobytes() for part in arrays),
        ]
    )
    return sha256(body).digest() + body


def _parsed(content: memoryview, weighting: str) -> Carried | None:
    body = content[_DIGEST_BYTES:]
    if sha256(body).digest() != content[:_DIGEST_BYTES]:
        return None
    size = int.from_bytes(body[:8], "little")
    header = json.loads(bytes(body[8 : 8 + size]))
    if header["weighting"] != weighting:
        return None
    arrays = _arrays(
        torch.from_numpy(np.frombuffer(body, "<f8", offset=8 + size).astype(np.float64)),
        header["modules"],
    )
    modules = {
        name: (_side(sides[0], arrays), _side(sides[1], arrays))
        for name, sides in sorted(header["modules"].items())
    }
    return Carried(weighting=weighting, seen=frozenset(header["seen"]), modules=modules)


def _arrays(
    numbers: Tensor, modules: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Iterator[Tensor]:
    """Yield back and moments of every side, in the order they were written."""
    at = 0
    for _, sides in sorted(modules.items()):
        for side in sides:
            for columns in (sum(side["rows"]), side["q"]):
                yield numbers[at : at + side["q"] * columns].view(side["q"], columns)
                at += side["q"] * columns


def _side(said: Mapping[str, Any], arrays: Iterator[Tensor]) -> CarriedSide:
    return CarriedSide(
        blocks=tuple(map(Digest, said["blocks"])),
        rows=tuple(said["rows"]),
        back=next(arrays),
        moments=next(arrays),
    )
