"""What an import is given: directories that hold adapters, or a list in a CSV file.

Below a directory every folder with an `adapter_config.json` is an adapter, and so is what another
program wrote, by its content (`importers.search`). Its task has the name of its folder or file or,
where that says nothing (`checkpoint-500`, `final`), of the nearest folder above it that does. Of
several of one name, those in folders `v1`, `v2`, ... are its versions in that order; others are
refused, as which of them is the later version is not known. A list says it: one row an adapter, in
the order of their versions.
"""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ensure
from share_registry.exchange.base_model import derive_task, derive_task_of_folders
from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.places import SCHEME, SourcePlace, is_directory
from share_registry.kinds import FilePath
from share_registry.outside.files import Kind, Outside
from share_registry.values.imports import ImportOutcome, ImportSource, ImportStatus

_MAX_LIST_BYTES: Final = 1 << 28
_COLUMNS: Final = (
    *(
        "source",
        "task",
        "space",
        "message",
        "labels",
        "metrics",
        "source_time",
        "derived_from",
        "format",
    ),
)
_VERSION: Final = re.compile(r"v([1-9][0-9]{0,8})", re.IGNORECASE)
_NAME_IT: Final = "Name its task in a list: from_file=."
# Columns of one label or metric: label.team, metric.accuracy
_NAMED: Final = {"label": "labels", "metric": "metrics"}
_HINT: Final = (
    f"The first row names the columns: source, and any of {', '.join(_COLUMNS[1:])}, label.NAME, "
    "metric.NAME."
)


def collect_sources(
    sources: Any, from_file: FilePath | None, outside: Outside
) -> list[ImportSource | ImportOutcome]:
    """Return every adapter of a list of sources and a file, and those that cannot be named.

    Raises InvalidInputError, NotFoundError, StoreError.
    """
    items = [item for source in sources for item in expand(source, outside=outside)]
    if from_file is not None:
        items += read_list(Path(from_file), outside=outside)
    ensure(
        items,
        InvalidInputError(
            "there is nothing to import.", hint="Give directories of adapters, or from_file=."
        ),
    )
    return items


def expand(source: Any, *, outside: Outside) -> list[ImportSource | ImportOutcome]:
    """Return the adapters at a source: itself, or those below a directory that is none.

    Those without a name are refused, and those of which it is not known whether they are of one
    task or of several.

    Raises NotFoundError where there are none, StoreError.
    """
    # formats load torch, which a list alone does not need
    from share_registry.exchange.importers.search import places_below, refusal_of

    if isinstance(source, ImportSource):
        return [source]
    ensure(
        not (is_directory(source) and not os.fspath(source)),
        InvalidInputError("a source is an empty text.", hint="Give . for this directory."),
    )
    folder = Path(source) if is_directory(source) else None
    if folder is None or outside.kind(folder) is not Kind.DIRECTORY:
        return [ImportSource(adapter=source)]
    places = places_below(folder, outside=outside)
    ensure(
        places,
        NotFoundError(
            f"there is no adapter in {folder} or below it: no {CONFIG_FILE}, and no file of another"
            " program's adapter.",
            hint="Give a directory of adapters, or a list with from_file=.",
        ),
    )
    if [Path(place) for place in places] == [folder] and places[0].part is None:
        return [ImportSource(adapter=source)]
    names = {place: _name_below(folder, place) for place in places}
    # what is refused whatever it is called takes no name from others
    refusals = {place: refusal_of(place, outside=outside) for place in places}
    refused = {place: error for place, error in refusals.items() if error is not None}
    times = Counter(name for place, name in names.items() if place not in refused)
    # of files of one name in several folders, the folders say more
    names |= {
        place: derive_task_of_folders(Path(place).parent.relative_to(folder).parts) or name
        for place, name in names.items()
        if times[name] > 1 and place.part is None and outside.kind(Path(place)) is Kind.FILE
    }
    usable = {place: name for place, name in names.items() if place not in refused}
    times, versions = Counter(usable.values()), _versions_of(usable)
    first = {name: number for number, name in reversed([*enumerate(names.values())])}
    in_order = sorted(names, key=lambda place: (first[names[place]], versions.get(place, 0)))
    return [
        _refused(place, refused[place])
        if place in refused
        else _named(place, names[place], 1 if place in versions else times[names[place]])
        for place in in_order
    ]


def _versions_of(names: Mapping[SourcePlace, str | RefusedError]) -> dict[SourcePlace, int]:
    """Return the numbers of the folders `v1`, `v2`, ... of one task that are side by side."""
    series: dict[str | RefusedError, dict[SourcePlace, int]] = defaultdict(dict)
    for place, name in names.items():
        number = _VERSION.fullmatch(Path(place).name) if place.part is None else None
        if number:
            series[name][place] = int(number[1])
    return {
        place: number
        for numbers in series.values()
        if len({Path(place).parent for place in numbers}) == 1
        and len({*numbers.values()}) == len(numbers)
        for place, number in numbers.items()
    }


def read_list(path: Path, *, outside: Outside) -> list[ImportSource]:
    """Return the adapters of a CSV file; its relative paths begin at its own directory.

    Columns: source, and any of task, space, message, labels and metrics (`name=value`, several
    parted by `;`), label.NAME, metric.NAME, source_time, derived_from (several parted by `;`),
    format.

    Raises InvalidInputError, NotFoundError, StoreError.
    """
    ensure(
        outside.exists(path),
        NotFoundError(f"the list {path} is not there.", hint="Give the path of a CSV file."),
    )
    ensure(
        outside.kind(path) is Kind.FILE,
        InvalidInputError(f"the list {path} is no file.", hint="Give the path of a CSV file."),
    )
    content = outside.read(path, limit=_MAX_LIST_BYTES)
    try:
        # as spreadsheets write it, with a mark in front
        text = content.decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(
            f"the list {path} is not a CSV file in UTF-8: {error}.", hint=_HINT
        ) from error
    ensure(rows, InvalidInputError(f"the list {path} has no row.", hint=_HINT))
    _check_columns(path, reader.fieldnames or ())
    return [
        _source_of(row, f"{path}, row {number}", path.parent)
        for number, row in enumerate(rows, start=2)
    ]


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    unknown = [
        column
        for column in columns
        if column not in _COLUMNS
        and not (column.partition(".")[0] in _NAMED and column.partition(".")[2])
    ]
    twice = next((column for column in columns if columns.count(column) > 1), None)
    ensure(
        twice is None,
        InvalidInputError(f"the list {path} has column {twice!r} more than once.", hint=_HINT),
    )
    ensure(
        "source" in columns and not unknown,
        InvalidInputError(
            f"the list {path} has "
            + (f"the unknown column {unknown[0]!r}." if unknown else "no column 'source'."),
            hint=_HINT,
        ),
    )


def _source_of(row: Mapping[str | None, Any], where: str, folder: Path) -> ImportSource:
    # the key None has cells behind the last column, a value None is a cell that is not there
    ensure(
        None not in row and None not in row.values(),
        InvalidInputError(
            f"{where} has another number of cells than the first row, which has "
            f"{sum(column is not None for column in row)}.",
            hint="Cells are parted by commas; put a text with a comma between double quotes.",
        ),
    )
    cells = {str(column): str(cell).strip() for column, cell in row.items()}
    place = cells["source"]
    ensure(place, InvalidInputError(f"{where} names no source.", hint=_HINT))
    pairs: dict[str, dict[str, str]] = {
        members: dict(_pairs(cells.get(members, ""), where)) for members in _NAMED.values()
    }
    for column, cell in cells.items():
        kind, _, name = column.partition(".")
        if kind in _NAMED and name and cell:
            pairs[_NAMED[kind]][name] = cell
    return ImportSource(
        adapter=place if place.startswith(SCHEME) else folder / place,
        task=cells.get("task") or None,
        space=cells.get("space") or None,
        message=cells.get("message", ""),
        labels=pairs["labels"],
        metrics={name: _number(name, value, where) for name, value in pairs["metrics"].items()},
        derived_from=tuple(filter(None, map(str.strip, cells.get("derived_from", "").split(";")))),
        source_time=cells.get("source_time") or None,
        format=cells.get("format") or None,
    )


def _pairs(cell: str, where: str) -> Iterator[tuple[str, str]]:
    for pair in filter(None, map(str.strip, cell.split(";"))):
        name, equals, value = pair.partition("=")
        ensure(
            equals and name,
            InvalidInputError(f"{where}: {pair!r} is not NAME=VALUE.", hint=_HINT),
        )
        yield name.strip(), value.strip()


def _number(name: str, value: str, where: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise InvalidInputError(
            f"{where}: metric {name}={value!r} is not a number.", hint="Make it a label."
        ) from error


def _name_below(folder: Path, place: SourcePlace) -> str | RefusedError:
    """Return the name of an adapter below a directory; where no folder says one, why not."""
    path = Path(place)
    try:
        return derive_task(place.part or path.as_posix())
    except RefusedError as error:
        return derive_task_of_folders(path.relative_to(folder).parts) or error


def _named(
    place: SourcePlace, name: str | RefusedError, times: int
) -> ImportSource | ImportOutcome:
    """Return an adapter under its name, refused where it has none or is one of several."""
    if isinstance(name, RefusedError):
        return _refused(place, RefusedError(name.message, hint=_NAME_IT))
    if times == 1:
        adapter = Path(place) if place.part is None else place
        return ImportSource(adapter=adapter, task=name, is_derived=True)
    error = RefusedError(
        f"{times} adapters would be of task {name!r}, and their order is not known.",
        hint="Name their tasks in a list, in the order of their versions: from_file=.",
    )
    return _refused(place, error)


def _refused(place: SourcePlace, error: RefusedError) -> ImportOutcome:
    return ImportOutcome(
        source=str(place),
        status=ImportStatus.REFUSED,
        reason=error.message,
        hint=error.hint,
    )
