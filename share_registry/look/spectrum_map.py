"""Spectra of modules as a heat map: the share of the energy that the first k directions hold."""

from collections.abc import Sequence
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING, Final

from share_registry.look.heat_map import HeatCell, HeatMap, draw_heat_map, without_shared_beginning
from share_registry.look.units import count, percent

if TYPE_CHECKING:
    from share_registry.values.analyses import Spectrum

_MOST_ROWS: Final = 120


def spectrum_map(spectra: "Sequence[Spectrum]", side: str, *, of: str = "") -> str:
    """Draw the explained variance of every module of a side, at powers of two.

    Args:
        spectra: Of an analysis.
        side: "a" or "b".
        of: What the spectra are of; empty for that side.
    """
    name = of or side.upper()
    listed = [spectrum for spectrum in spectra if spectrum.side == side]
    drawn = listed[:_MOST_ROWS]
    largest = max((spectrum.rows for spectrum in drawn), default=1)
    ks = [2**power for power in range(16) if 2**power < 2 * largest]
    notes = ["framed: the first with 90 %"]
    if len(drawn) < len(listed):
        notes.append(f"the first {len(drawn)} of {count(len(listed), 'module')}")
    return draw_heat_map(
        HeatMap(
            title=f"explained variance of {name}",
            description=_describe(listed, name),
            corner="module, k",
            unit=f"% of the energy of {name} in its first k directions",
            rows=without_shared_beginning([spectrum.module for spectrum in drawn]),
            columns=[str(k) for k in ks],
            cells=[[_cell(spectrum, k) for k in ks] for spectrum in drawn],
            low=0.0,
            high=1.0,
            ends=("0", "100"),
            notes=notes,
        ),
        look="spectra",
    )


def _cell(spectrum: "Spectrum", k: int) -> HeatCell | None:
    if k >= 2 * spectrum.rows:
        return None
    share = _share(spectrum, min(k, spectrum.rows))
    return HeatCell(
        value=share,
        text=f"{int(100 * share + 1e-9)}",
        tip=f"{spectrum.module}: {percent(share)} in {count(min(k, spectrum.rows), 'direction')}; "
        f"90 % in {spectrum.k90}, effective rank {spectrum.effective_rank:.1f}",
        marked=k // 2 < spectrum.k90 <= k,
    )


def _share(spectrum: "Spectrum", k: int) -> float:
    """Return the share of the energy in the first k directions, between those that are known."""
    if k <= spectrum.explained[0][0]:
        return spectrum.explained[0][1]
    for (below, low), (above, high) in pairwise(spectrum.explained):
        if below <= k <= above:
            return low + (high - low) * (log(k) - log(below)) / (log(above) - log(below))
    return spectrum.explained[-1][1]


def _describe(spectra: "Sequence[Spectrum]", name: str) -> str:
    if not spectra:
        return f"No module has a spectrum of {name}."
    ranks = sorted(spectrum.effective_rank for spectrum in spectra)
    k90 = sorted(spectrum.k90 for spectrum in spectra)
    return (
        f"{count(len(spectra), 'module')} of {name}: effective rank {ranks[0]:.1f} to "
        f"{ranks[-1]:.1f}; 90 % of the energy in {k90[0]} to {k90[-1]} directions."
    )
