"""The verdict: which adapters belong together, and whether sharing or precision pays for them."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.comparison import connected_parts
from share_registry.look.units import size
from share_registry.names import first_and_more
from share_registry.values.analyses import (
    WORTH,
    Continued,
    Forecast,
    Kinship,
    LeaveOneOut,
    Statement,
)

# Distance of dW, relative to the larger, below which one looks trained on from the other.
# Measured .22 to .43 for continued ones, from .82 on for the same task anew.
CONTINUES: Final = 0.5
_SAME: Final = 1e-6
# What is lost in the others' basis, over what a random basis loses. Measured .81 and .76 for A
# and B of independent adapters, .53 and .76 from one start.
_SHARED: Final = 0.5
# Budget at which a verdict is given, or the nearest to it.
_REFERENCE: Final = 0.05
_NAMED: Final = 3
# (N, N) overlaps of row spaces, and what random ones have
_Overlap = tuple[Tensor, Tensor]


def to_larger(distance: Tensor) -> Tensor:
    """Return distances relative to the larger of two adapters: alike both ways.

    One that was trained on grows, so that seen from the smaller it is far away.
    """
    return torch.minimum(distance, distance.T)


def kin_of(a: _Overlap, b: _Overlap) -> tuple[Tensor, Tensor]:
    """Return which pairs come from one start, and which share directions on both sides.

    From one start the row spaces of A coincide and those of B do not.
    """
    shares_a, shares_b = _coincide(*a), _coincide(*b)
    return shares_a & ~shares_b, shares_a & shares_b


def kinships(
    names: Sequence[str],
    distance: Tensor,
    a: _Overlap,
    b: _Overlap,
    lost: Sequence[LeaveOneOut],
) -> tuple[Kinship, ...]:
    """Return the adapters from one start, and those that share directions on both sides.

    Continued versions alone are neither.

    Args:
        names: N names.
        distance: (N, N) distances of dW relative to the larger.
        a: Overlaps of the row spaces of A, and what random row spaces have.
        b: The same of B.
        lost: Leave-one-out errors, of all or some.
    """
    apart = distance >= CONTINUES
    apart.fill_diagonal_(False)
    overlaps = (a[0], b[0], a[1])
    starts, both = kin_of(a, b)
    sharing = _sharing(names, distance, lost)
    kin = [
        _kinship("one start", part, names, overlaps, apart)
        for part in connected_parts(starts & apart)
        if not set(part) <= set(sharing)
    ]
    if len(sharing) > 1:
        kin.append(_kinship("shared directions", sharing, names, overlaps, apart))
    kin += [
        _kinship("shared directions", part, names, overlaps, apart)
        for part in connected_parts(both & apart)
        if not set(part) & set(sharing)
    ]
    return tuple(kin)


def statements(
    names: Sequence[str],
    kin: Sequence[Kinship],
    continued: Sequence[Continued],
    lost: Sequence[LeaveOneOut],
    forecasts: Sequence[Forecast],
) -> tuple[Statement, ...]:
    """Return the verdict, sentence by sentence."""
    shown = min(forecasts, key=lambda forecast: abs(forecast.budget - _REFERENCE))
    if len(names) < 2:
        text = (
            "One adapter has nothing to share with: it gains from precision, "
            f"{shown.bits_alone:.2f} bits per parameter at a budget of {100 * shown.budget:g} %."
        )
        return (Statement(kind="one adapter", text=text, adapters=tuple(names)),)
    verdict = [*map(_on_continued, continued), *(_on_kinship(each, len(names)) for each in kin)]
    related = {name for statement in verdict for name in statement.adapters}
    rest = tuple(name for name in names if name not in related)
    if shown.saving >= WORTH:
        verdict.append(_on_saving(names, shown))
    if shown.saving < WORTH or (related and rest):
        verdict.append(_on_precision(names, rest if related else tuple(names), lost, shown))
    return tuple(verdict)


def _sharing(
    names: Sequence[str], distance: Tensor, lost: Sequence[LeaveOneOut]
) -> tuple[int, ...]:
    """Return the adapters whose directions, on both sides, lie in those of the others.

    Adapters that are versions of another in the collection do not count.
    """
    is_version = (distance < CONTINUES).sum(1) > 1
    places = [
        names.index(left.adapter)
        for left in lost
        if left.error_a < _SHARED * left.chance_a and left.error_b < _SHARED * left.chance_b
    ]
    return tuple(place for place in places if not bool(is_version[place]))


def _coincide(overlap: Tensor, chance: Tensor) -> Tensor:
    """Return which row spaces coincide more than half-way between chance and equality.

    Measured .81 to .88 from one start, .14 to .29 otherwise.
    """
    return (overlap > (1.0 + chance) / 2) & (chance > 0)


def _kinship(
    kind: str,
    part: Sequence[int],
    names: Sequence[str],
    overlaps: tuple[Tensor, Tensor, Tensor],
    apart: Tensor,
) -> Kinship:
    index = torch.tensor(list(part), dtype=torch.int64, device="cpu")
    pairs = apart[index][:, index]
    means = [0.0, 0.0, 0.0]
    if bool(pairs.any()):
        means = [float(values[index][:, index][pairs].mean()) for values in overlaps]
    return Kinship(
        kind=kind,
        adapters=tuple(names[number] for number in part),
        overlap_a=means[0],
        overlap_b=means[1],
        chance=means[2],
    )


def _on_continued(pair: Continued) -> Statement:
    adapters = (pair.adapter, pair.previous)
    if pair.distance < _SAME:
        text = f"{pair.adapter} is the same adapter as {pair.previous}."
        return Statement(kind="same", text=text, adapters=adapters)
    text = (
        f"{pair.adapter} continues {pair.previous} (dW differs by {pair.distance:.2f}): "
        "commit it as the next version of one task."
    )
    return Statement(kind="continued", text=text, adapters=adapters)


def _on_kinship(kin: Kinship, count: int) -> Statement:
    share = f"all {count}" if len(kin.adapters) == count else f"{len(kin.adapters)} of {count}"
    who = f"{share} adapters ({first_and_more(kin.adapters, _NAMED)})"
    overlaps = (
        f"overlap of A {kin.overlap_a:.2f}, of B {kin.overlap_b:.2f}, by chance {kin.chance:.2f}"
    )
    text = f"{who[0].upper()}{who[1:]} share directions on both sides ({overlaps})."
    if kin.kind == "one start":
        text = f"A of {who} comes from one start: A shares, B does not ({overlaps})."
    return Statement(kind=kin.kind, text=text, adapters=kin.adapters)


def _on_saving(names: Sequence[str], shown: Forecast) -> Statement:
    best = min(shown.references, shown.joint)
    way = "a joint basis" if shown.joint < shown.references else "references to earlier adapters"
    text = (
        f"At a budget of {100 * shown.budget:g} % sharing saves {100 * shown.saving:.0f} %: "
        f"{size(best)} by {way} instead of {size(shown.alone)} alone."
    )
    return Statement(kind="saving", text=text, adapters=tuple(names))


def _on_precision(
    names: Sequence[str], rest: tuple[str, ...], lost: Sequence[LeaveOneOut], shown: Forecast
) -> Statement:
    who = "All gain"
    if len(rest) == len(names):
        who = "These gain"
    elif rest:
        verb = "gains" if len(rest) == 1 else "gain"
        who = f"The other {len(rest)} ({first_and_more(rest, _NAMED)}) {verb}"
    text = f"{who} from precision, not from sharing"
    own = [left for left in lost if left.adapter in rest]
    if own:
        error = sum(left.error for left in own) / len(own)
        chance = sum(left.chance for left in own) / len(own)
        text += (
            f": in the basis of the others {error:.2f} of dW is lost "
            f"(a random basis loses {chance:.2f})"
        )
    text += (
        f"; a budget of {100 * shown.budget:g} % takes {shown.bits_alone:.2f} bits per parameter "
        f"alone (Gaussian bound {shown.bits_bound:.2f})."
    )
    if shown.saving < WORTH:
        text += f" Sharing saves {100 * max(shown.saving, 0.0):.0f} %."
    return Statement(kind="precision", text=text, adapters=rest)
