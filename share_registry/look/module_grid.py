"""Where modules stand in a table of layers and projections, and what a report says of each."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from share_registry.look.heat_map import without_shared_beginning

if TYPE_CHECKING:
    from share_registry.values.cost_reports import AdapterReport, ModuleReport

# A number of a layer, the last before the projection: `layers.3.self_attn.q_proj`
_LAYER: Final = re.compile(r"(?P<layer>(?:.*\.)?\d+)\.(?P<projection>[^.].*)")
_NUMBER: Final = re.compile(r"\d+")
# The name of the column of modules that are no projection of a layer
_WHOLE: Final = "whole"
# Cells to a module up to which modules are a table: of more nearly all would be empty
_MOST_CELLS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleGrid:
    """Modules by layer and projection; None where a layer has no such module."""

    rows: Sequence[str]
    columns: Sequence[str]
    modules: Sequence[Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a module stands; no projection where it is none of a layer."""

    layer: str
    projection: str


def grid_of(modules: Iterable[str]) -> ModuleGrid:
    """Return modules as a table, each once; names without what all of them begin with.

    Where hardly any layer has a projection of another, modules are one column.
    """
    names = [*dict.fromkeys(modules)]
    by_spot = {spot: module for module, spot in _spots(names).items()}
    columns = list(dict.fromkeys(spot.projection for spot in by_spot))
    layers = {spot.layer for spot in by_spot}
    if len(layers) * len(columns) > _MOST_CELLS * len(names):
        short = without_shared_beginning(names)
        by_spot = {_Spot(name, ""): module for name, module in zip(short, names, strict=True)}
        columns, layers = [""], {*short}
    rows = sorted(layers, key=_place)
    return ModuleGrid(
        rows=rows,
        columns=[column or _WHOLE for column in columns],
        modules=[[by_spot.get(_Spot(row, column)) for column in columns] for row in rows],
    )


def sides_of(report: "AdapterReport") -> "Mapping[str, Sequence[ModuleReport]]":
    """Return the factors of each module."""
    sides: dict[str, list[ModuleReport]] = defaultdict(list)
    for module in report.modules:
        sides[module.module].append(module)
    return sides


def errors_of(report: "AdapterReport") -> dict[str, float]:
    """Return the relative error of dW of each module."""
    return {module: reports[0].error for module, reports in sides_of(report).items()}


def bits_of(report: "AdapterReport") -> dict[str, float]:
    """Return the bits per parameter of both factors of each module together."""
    return {module: _bits(reports) for module, reports in sides_of(report).items()}


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


def _spots(modules: Sequence[str]) -> dict[str, _Spot]:
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


def _place(layer: str) -> list[tuple[int, int, str]]:
    """Return what a layer is sorted by: its numbers as numbers."""
    return [
        (0, int(part), "") if _NUMBER.fullmatch(part) else (1, 0, part) for part in layer.split(".")
    ]
