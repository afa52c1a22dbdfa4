"""Say what an import will take: from a few adapters of each space, coded and not stored.

Each is coded against what its space holds now. What the others will share with one another is not
known, so that the bytes are rather too many.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final

from share_registry.errors import ShareRegistryError
from share_registry.names import parse_reference
from share_registry.registry.arguments import Progress
from share_registry.registry.commands.import_request import ImportRequest
from share_registry.registry.commands.import_work import Surveyed, measure, name_of
from share_registry.registry.commands.workers import Workers
from share_registry.values.imports import ImportOutcome, ImportSource, ImportStatus

# Adapters of a space that are coded
_SAMPLE: Final = 8


@dataclass(slots=True, kw_only=True)
class _Measured:
    """Adapters of one space: what they had and added, and how long that took."""

    raw_bytes: int = 0
    added_bytes: int = 0
    seconds: float = 0.0

    def per_byte(self, amount: float) -> float:
        """Return an amount for each byte of the tensor files."""
        return amount / self.raw_bytes if self.raw_bytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportEstimate:
    """What an import will come to, by the number of each adapter."""

    outcomes: Mapping[int, ImportOutcome]
    refused: Mapping[int, ShareRegistryError]
    seconds: float


def estimate(
    sources: Mapping[int, ImportSource],
    surveyed: Mapping[int, Surveyed],
    request: ImportRequest,
    workers: Workers,
    *,
    progress: Progress | None,
) -> ImportEstimate:
    """Code a sample of the adapters that were surveyed, and say what all of them will take."""
    surveyed = dict(surveyed)
    outcomes = {
        number: ImportOutcome(
            source=name_of(sources[number]),
            status=ImportStatus.UNCHANGED,
            ref=f"{item.space}/{item.task}",
            raw_bytes=item.raw_bytes,
        )
        for number, item in _repeated(surveyed)
    }
    for number in outcomes:
        del surveyed[number]
    spaces = dict.fromkeys(item.space for item in surveyed.values())
    sample = [
        number
        for space in spaces
        for number in _spread([each for each, item in surveyed.items() if item.space == space])
    ]
    measured = {space: _Measured() for space in spaces}
    refused: dict[int, ShareRegistryError] = {}
    tasks = {(item.space, item.task) for item in surveyed.values()}
    calls = [
        (_without_parents(sources[number], surveyed[number].space, tasks), request)
        for number in sample
    ]
    results = workers.run(measure, calls)
    for done, (number, result) in enumerate(zip(sample, results, strict=True), start=1):
        if progress is not None:
            progress("coding a sample", done, len(sample))
        if isinstance(result, ShareRegistryError):
            refused[number] = result
            continue
        of_space = measured[surveyed[number].space]
        of_space.raw_bytes += surveyed[number].raw_bytes
        of_space.added_bytes += result[0]
        of_space.seconds += result[1]
    seconds = 0.0
    for number, item in surveyed.items():
        if number in refused:
            continue
        of_space = measured[item.space]
        seconds += of_space.per_byte(of_space.seconds) * item.raw_bytes
        outcomes[number] = ImportOutcome(
            source=name_of(sources[number]),
            status=ImportStatus.NEW,
            ref=f"{item.space}/{item.task}",
            bytes_added=round(of_space.per_byte(of_space.added_bytes) * item.raw_bytes),
            raw_bytes=item.raw_bytes,
        )
    return ImportEstimate(outcomes=outcomes, refused=refused, seconds=seconds / workers.count)


def _repeated(surveyed: Mapping[int, Surveyed]) -> Iterator[tuple[int, Surveyed]]:
    """Yield adapters that are the one before them of their task."""
    latest: dict[tuple[str, str], str] = {}
    for number, item in surveyed.items():
        key = (item.space, item.task)
        if latest.get(key) == item.source_digest:
            yield number, item
        latest[key] = item.source_digest


def _without_parents(source: ImportSource, space: str, tasks: Set[tuple[str, str]]) -> ImportSource:
    """Return a source that is not derived from what comes with the same import."""
    parents = [(ref, parse_reference(ref)) for ref in source.derived_from]
    others = [ref for ref, parent in parents if (parent.space or space, parent.task) not in tasks]
    return replace(source, derived_from=tuple(others))


def _spread(numbers: Sequence[int]) -> list[int]:
    count = min(len(numbers), _SAMPLE)
    return [numbers[index * len(numbers) // count] for index in range(count)]
