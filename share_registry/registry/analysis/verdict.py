"""From figures to words.

Which adapters belong together, and whether they gain from sharing or from precision.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.overlap import connected_parts
from share_registry.values.analyses import Continued, Forecast, Kinship, LeaveOneOut, Statement
from share_registry.values.units import size

CONTINUES: Final = 0.5
"""Relative distance of dW below which an adapter looks trained on from another.

Measured .22 to .43 for continued ones, from .82 on for the same task anew.
"""
_SAME: Final = 1e-6
_SHARED: Final = 0.5
"""What is lost in the others' basis, over what a random basis loses.

Measured .81 and .76 for A and B of independent adapters, .53 and .76 from one start.
"""
_WORTH: Final = 0.03
"""A saving below this share of the bytes is none to speak of."""
_REFERENCE: Final = 0.05
"""Budget at which a verdict is given, or the nearest to it."""
_NAMED: Final = 3


def one_start(overlap: Tensor, chance: Tensor) -> Tensor:
    """Return which row spaces coincide more than half-way between chance and equality.

    Measured .81 to .88 from one start, .14 to .29 otherwise.
    """
    return (overlap > (1.0 + chance) / 2) & (chance > 0)


def kinships(
    names: Sequence[str],
    distance: Tensor,
    a: Tensor,
    b: Tensor,
    chance: Tensor,
    lost: Sequence[LeaveOneOut],
) -> tuple[Kinship, ...]:
    """Return the adapters from one start, and those that share directions on both sides.

    Continued versions alone are neither.

    Args:
        names: N names.
        distance: (N, N) relative distances of dW.
        a: (N, N) overlaps of the row spaces of A.
        b: (N, N) the same of B.
        chance: (N, N) what random row spaces have.
        lost: Leave-one-out errors, of all or some.
    """
    apart = torch.minimum(distance, distance.T) >= CONTINUES
    apart.fill_diagonal_(False)
    alike, sharing = one_start(a, chance) & apart, _sharing(names, distance, lost)
    found = [
        _kinship("one start", part, names, (a, b, chance), apart)
        for part in connected_parts(alike)
        if not set(part) <= set(sharing)
    ]
    if len(sharing) > 1:
        found.append(_kinship("shared directions", sharing, names, (a, b, chance), apart))
    return tuple(found)


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
        return (_alone(names, shown),)
    said = [*map(_of_continued, continued), *(_of_kinship(found, len(names)) for found in kin)]
    related = {name for statement in said for name in statement.adapters}
    rest = tuple(name for name in names if name not in related)
    if shown.saving >= _WORTH:
        said.append(_total(names, shown))
    if shown.saving < _WORTH or (related and rest):
        said.append(_precision(names, rest if related else tuple(names), lost, shown))
    return tuple(said)


def _sharing(
    names: Sequence[str], distance: Tensor, lost: Sequence[LeaveOneOut]
) -> tuple[int, ...]:
    """Return the adapters of which both sides are found in the others', though none of these is a version of it."""
    near = (torch.minimum(distance, distance.T) < CONTINUES).sum(1) > 1
    place = {name: number for number, name in enumerate(names)}
    found = [
        one
        for one in lost
        if one.error_a < _SHARED * one.chance_a and one.error_b < _SHARED * one.chance_b
    ]
    return tuple(place[one.adapter] for one in found if not bool(near[place[one.adapter]]))


def _kinship(
    kind: str,
    part: Sequence[int],
    names: Sequence[str],
    overlaps: tuple[Tensor, Tensor, Tensor],
    apart: Tensor,
) -> Kinship:
    index = torch.tensor(list(part), dtype=torch.int64, device="cpu")
    pairs = apart[index][:, index]
    a, b, chance = (
        float(values[index][:, index][pairs].mean()) if bool(pairs.any()) else 0.0
        for values in overlaps
    )
    return Kinship(
        kind=kind,
        adapters=tuple(names[number] for number in part),
        overlap_a=a,
        overlap_b=b,
        chance=chance,
    )


def _of_continued(found: Continued) -> Statement:
    if found.distance < _SAME:
        return Statement(
            kind="same",
            text=f"{found.adapter} is the same adapter as {found.previous}.",
            adapters=(found.adapter, found.previous),
        )
    text = f"{found.adapter} continues {found.previous} (dW differs by {found.distance:.2f}): commit it as the next version of one task."
    return Statement(kind="continued", text=text, adapters=(found.adapter, found.previous))


def _of_kinship(found: Kinship, count: int) -> Statement:
    share = f"all {count}" if len(found.adapters) == count else f"{len(found.adapters)} of {count}"
    who = f"{share} adapters ({_some(found.adapters)})"
    overlaps = f"overlap of A {found.overlap_a:.2f}, of B {found.overlap_b:.2f}, by chance {found.chance:.2f}"
    if found.kind == "one start":
        return Statement(
            kind=found.kind,
            text=f"A of {who} comes from one start: A shares, B does not ({overlaps}).",
            adapters=found.adapters,
        )
    return Statement(
        kind=found.kind,
        text=f"{who[0].upper()}{who[1:]} share directions on both sides ({overlaps}).",
        adapters=found.adapters,
    )


def _total(names: Sequence[str], shown: Forecast) -> Statement:
    best = min(shown.references, shown.joint)
    way = "a joint basis" if shown.joint < shown.references else "references to earlier adapters"
    text = f"At a budget of {100 * shown.budget:g} % sharing saves {100 * shown.saving:.0f} %: {size(best)} by {way} instead of {size(shown.alone)} alone."
    return Statement(kind="saving", text=text, adapters=tuple(names))


def _precision(
    names: Sequence[str], rest: tuple[str, ...], lost: Sequence[LeaveOneOut], shown: Forecast
) -> Statement:
    """Say who gains from precision alone."""
    who = (
        "These gain"
        if len(rest) == len(names)
        else f"The other {len(rest)} ({_some(rest)}) gain{'s' if len(rest) == 1 else ''}"
        if rest
        else "All gain"
    )
    mine = [one for one in lost if one.adapter in rest]
    left = f": in the basis of the others {_mean(one.error for one in mine):.2f} of dW is lost (a random basis loses {_mean(one.chance for one in mine):.2f})"
    coded = (
        f"{shown.bits_alone:.2f} bits per parameter alone (Gaussian bound {shown.bits_bound:.2f})"
    )
    saves = f" Sharing saves {100 * max(shown.saving, 0.0):.0f} %." if shown.saving < _WORTH else ""
    text = f"{who} from precision, not from sharing{left if mine else ''}; a budget of {100 * shown.budget:g} % takes {coded}.{saves}"
    return Statement(kind="precision", text=text, adapters=rest)


def _alone(names: Sequence[str], shown: Forecast) -> Statement:
    text = f"One adapter has nothing to share with: it gains from precision, {shown.bits_alone:.2f} bits per parameter at a budget of {100 * shown.budget:g} %."
    return Statement(kind="one adapter", text=text, adapters=tuple(names))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_NAMED])} and {more} more"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
