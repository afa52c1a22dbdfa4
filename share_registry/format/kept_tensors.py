"""Tensors kept bit for bit in the part `planes` (spec FRM-07 to FRM-12).

Either byte plane after byte plane, or floats in groups of like ones, split into heads and tails
(see `heads.py`). Only an adapter object whose description says so has groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from share_registry.format.adapter_table import FloatTable
from share_registry.format.canonical import require
from share_registry.format.frames import (
    from_planes,
    pack_stream,
    piece_sizes,
    planes,
    unpack_streams,
)
from share_registry.format.heads import SPLITS, find_base, join, split, stream_sizes
from share_registry.format.layout import DType, Layout
from share_registry.names import Side

# Numbers from which on a group ends: the compressor makes a table of codes for each 128 KiB
_GROUP: Final = 1 << 17
# Groups are fewer than the table can number
_MOST_GROUPS: Final = 64
_SUBJECT: Final = "tensors kept bit for bit"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTensors:
    """The part `planes`: its pieces, and what the table says of floats that are split.

    The pieces are given up to the file that is made of them.
    """

    pieces: list[bytes | memoryview]
    floats: FloatTable | None


def pack_kept(verbatim: Mapping[int, bytes], layout: Layout, *, heads: bool) -> KeptTensors:
    """Pack tensors by position in the layout, floats split into heads and tails or not."""
    positions = sorted(verbatim)
    bases = {
        position: find_base(verbatim[position], dtype=layout.tensors[position].dtype)
        for position in positions
        if heads and layout.tensors[position].dtype in SPLITS
    }
    groups = _group(bases, layout)
    split_groups = [
        split(
            [verbatim[position] for position in group],
            [bases[position] for position in group],
            dtype=layout.tensors[group[0]].dtype,
        )
        for group in groups
    ]
    group_of = {position: at for at, group in enumerate(groups, 1) for position in group}
    whole = [position for position in positions if position not in bases]
    streams: list[bytes | memoryview] = [
        plane
        for position in whole
        for plane in planes(verbatim[position], layout.tensors[position].dtype.size_bytes)
    ]
    streams += [stream for parts in split_groups for stream in parts.streams]
    floats = FloatTable(
        groups=tuple(group_of.get(position, 0) for position in positions),
        bases=tuple(bases.values()),
        escapes=tuple(parts.escapes for parts in split_groups),
    )
    return KeptTensors(
        pieces=[piece for stream in streams for piece in pack_stream(stream)],
        floats=floats if heads else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPlan:
    """Where the tensors of a part `planes` stand in it.

    Attributes:
        whole: Positions of those in byte planes.
        groups: Positions of those that are split, group by group, and their bases.
        sizes: Of each stream.
        layout: Of the adapter.
    """

    whole: tuple[int, ...]
    groups: tuple[tuple[tuple[int, int], ...], ...]
    sizes: tuple[int, ...]
    layout: Layout

    @property
    def pieces(self) -> int:
        """How many pieces the streams are cut into."""
        return sum(len(piece_sizes(size)) for size in self.sizes)

    def unpack(self, content: memoryview, lengths: Sequence[int]) -> dict[int, bytes]:
        """Return the tensors by position. Raises IntegrityError."""
        tensors = self.layout.tensors
        streams = iter(unpack_streams(content, self.sizes, lengths, subject=_SUBJECT))
        kept = {
            position: from_planes(list(islice(streams, tensors[position].dtype.size_bytes)))
            for position in self.whole
        }
        for group in self.groups:
            dtype = tensors[group[0][0]].dtype
            counts = [tensors[position].elements for position, _ in group]
            parts = list(islice(streams, len(stream_sizes(counts, 0, dtype=dtype))))
            joined = join(parts, [base for _, base in group], counts, dtype=dtype)
            kept |= {position: part for (position, _), part in zip(group, joined, strict=True)}
        return kept


def plan_kept(positions: Sequence[int], layout: Layout, floats: FloatTable | None) -> KeptPlan:
    """Find out how tensors stand in the part `planes`, from what the table says of them.

    Raises IntegrityError where a group has more escapes than numbers (spec LIM-25).
    """
    tensors = layout.tensors
    if floats is None:
        floats = FloatTable(groups=(0,) * len(positions), bases=(), escapes=())
    placed = list(zip(floats.groups, positions, strict=True))
    whole = tuple(at for group, at in placed if not group)
    members: list[list[tuple[int, int]]] = [[] for _ in floats.escapes]
    in_groups = (place for place in placed if place[0])
    for (group, at), base in zip(in_groups, floats.bases, strict=True):
        members[group - 1].append((at, base))
    sizes = [tensors[at].elements for at in whole for _ in range(tensors[at].dtype.size_bytes)]
    for group_members, escapes in zip(members, floats.escapes, strict=True):
        counts = [tensors[at].elements for at, _ in group_members]
        require(
            escapes <= sum(counts),
            f"a group of {sum(counts)} floats has {escapes} escapes, expected fewer.",
        )
        sizes += stream_sizes(counts, escapes, dtype=tensors[group_members[0][0]].dtype)
    groups = tuple(map(tuple, members))
    return KeptPlan(whole=whole, groups=groups, sizes=tuple(sizes), layout=layout)


def _group(bases: Mapping[int, int], layout: Layout) -> list[list[int]]:
    """Choose which floats share a table of codes.

    Those of one element type and one side; where there are many, those whose median stands at the
    same place of an octave, by which alone codes of Gaussian numbers differ.
    """
    tensors = layout.tensors
    sides = {factor.a: Side.A for factor in layout.factors}
    sides |= {factor.b: Side.B for factor in layout.factors}
    alike: dict[tuple[DType, Side | None], list[int]] = {}
    for position in bases:
        alike.setdefault((tensors[position].dtype, sides.get(position)), []).append(position)
    full = max(_GROUP, sum(tensors[position].elements for position in bases) // _MOST_GROUPS)
    groups: list[list[int]] = []
    for (dtype, _), positions in alike.items():
        octave, size = SPLITS[dtype].octave, full
        for position in sorted(positions, key=lambda position: bases[position] % octave):
            if size >= full:
                groups.append([])
                size = 0
            groups[-1].append(position)
            size += tensors[position].elements
    return [sorted(group) for group in groups]
