"""The report of an adapter as heat maps: bits and error by layer and projection."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from share_registry.look.heat_map import (
    HeatCell,
    HeatMap,
    draw_heat_map,
    ends_of,
    without_shared_beginning,
)
from share_registry.look.units import count, percent, size

if TYPE_CHECKING:
    from share_registry.values.commits import AdapterReport, ModuleReport

# A number of a layer, the last before the projection: `layers.3.self_attn.q_proj`
_LAYER: Final = re.compile(r"(?P<layer>(?:.*\.)?\d+)\.(?P<projection>[^.].*)")
_NUMBER: Final = re.compile(r"\d+")
# Of the colours, about the middle
_LEAST_SPREAD: Final = 0.1
# Above the column of modules that are no projection of a layer
_WHOLE: Final = "whole"


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a module stands; no projection where it is none of a layer."""

    layer: str
    projection: str


def bits_map(report: "AdapterReport") -> str:
    """Draw the bits per parameter of both factors of each module, by layer and projection.

    Args:
        report: With its modules, as `show` and `commit` return it.
    """
    sides = _by_module(report)
    values = {module: _bits(reports) for module, reports in sides.items()}
    tips = {
        module: "; ".join(
            f"{each.side.upper()} {each.bits_per_parameter:.2f} bits per parameter, "
            f"{size(each.bytes)}, {each.reference}"
            for each in reports
        )
        for module, reports in sides.items()
    }
    return _draw(values, tips, write="{:.2f}".format, unit="bits per parameter", look="bits")


def error_map(report: "AdapterReport") -> str:
    """Draw the relative error of dW of each module, by layer and projection; as `bits_map`."""
    values = {module: reports[0].error for module, reports in _by_module(report).items()}
    tips = {module: f"error {percent(value)}" for module, value in values.items()}
    return _draw(values, tips, write=_percents, unit="% of |dW|, relative error", look="errors")


def change_map(changes: Mapping[str, float]) -> str:
    """Draw by how much dW of each module changed, relative to before; as `bits_map`.

    Args:
        changes: Module -> |change of dW| / |dW|.
    """
    tips = {module: f"changed by {percent(change)}" for module, change in changes.items()}
    return _draw(changes, tips, write=_percents, unit="% of |dW|, change", look="changes")


def _by_module(report: "AdapterReport") -> "Mapping[str, Sequence[ModuleReport]]":
    sides: dict[str, list[ModuleReport]] = defaultdict(list)
    for module in report.modules:
        sides[module.module].append(module)
    return sides


def _bits(reports: "Sequence[ModuleReport]") -> float:
    """Return the bits per parameter of both factors together.

    Parameters are not in a report, so they are counted from the bits of each factor.
    """
    parameters = [
        8 * report.bytes / report.bits_per_parameter if report.bits_per_parameter else 0.0
        for report in reports
    ]
    if not all(parameters):
        return sum(report.bits_per_parameter for report in reports) / len(reports)
    return 8 * sum(report.bytes for report in reports) / sum(parameters)


def _percents(value: float) -> str:
    return percent(value).removesuffix(" %")


def _draw(
    values: Mapping[str, float],
    tips: Mapping[str, str],
    *,
    write: Callable[[float], str],
    unit: str,
    look: str,
) -> str:
    spots = _spots(values)
    by_spot = {spot: module for module, spot in spots.items()}
    rows = _in_order(spot.layer for spot in spots.values())
    columns = list(dict.fromkeys(spot.projection for spot in spots.values()))
    cells = [
        [_cell(by_spot.get(_Spot(row, column)), values, tips, write) for column in columns]
        for row in rows
    ]
    low, high = ends_of([*values.values()] or [0.0], least=_LEAST_SPREAD)
    extremes = sorted(values, key=lambda module: values[module])
    said = [f"{count(len(values), 'module')} by layer and projection"]
    if extremes:
        least, most = extremes[0], extremes[-1]
        said.append(
            f"least {write(values[least])} in {least}, most {write(values[most])} in {most}"
        )
    return draw_heat_map(
        HeatMap(
            title=f"{unit} of each module",
            description=f"{'; '.join(said)}.",
            corner="layer",
            unit=unit,
            rows=rows,
            columns=[column or _WHOLE for column in columns],
            cells=cells,
            low=low,
            high=high,
            ends=(write(max(low, 0.0)), write(high)),
        ),
        look=look,
    )


def _cell(
    module: str | None,
    values: Mapping[str, float],
    tips: Mapping[str, str],
    write: Callable[[float], str],
) -> HeatCell | None:
    if module is None:
        return None
    value = values[module]
    return HeatCell(value=value, text=write(value), tip=f"{module}: {tips[module]}")


def _spots(modules: Iterable[str]) -> dict[str, _Spot]:
    """Return the layer and the projection of each module, without what all begin with."""
    matches = {module: _LAYER.fullmatch(module) for module in modules}
    layers = {match["layer"]: "" for match in matches.values() if match}
    projections = {match["projection"]: "" for match in matches.values() if match}
    for names in (layers, projections):
        names |= zip(names, without_shared_beginning([*names]), strict=True)
    return {
        module: _Spot(layers[match["layer"]], projections[match["projection"]])
        if match
        else _Spot(module, "")
        for module, match in matches.items()
    }


def _in_order(layers: Iterable[str]) -> list[str]:
    """Return layers once each, their numbers as numbers."""

    def key(layer: str) -> list[tuple[int, int, str]]:
        return [
            (0, int(part), "") if _NUMBER.fullmatch(part) else (1, 0, part)
            for part in layer.split(".")
        ]

    return sorted({*layers}, key=key)
