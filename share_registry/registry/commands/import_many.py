"""Import many adapters: read all of them, prepare them side by side, publish them in records.

First every adapter is read and checked: what cannot be used is known before anything is committed,
and what its task has a version of already is left out. So an import that was killed is simply run
again. What is left goes in waves (`import_order`): workers prepare a wave, this process publishes
it, one record for the adapters of one space and message.

An adapter that is refused stops nobody else unless it is asked to; a store or a catalog that fails
does, as all others would fail alike.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Protocol

from share_registry.catalog.queries import lookups
from share_registry.errors import (
    CatalogError,
    CommitStateUnknownError,
    FormatError,
    IntegrityError,
    RefusedError,
    ShareRegistryError,
    StoreError,
)
from share_registry.exchange.import_list import collect_sources
from share_registry.names import SpaceName, TaskName, parse_reference
from share_registry.outside.files import Outside
from share_registry.registry.arguments import CommitOptions, Progress
from share_registry.registry.commands.commit import check_first, commit_sources
from share_registry.registry.commands.import_estimate import estimate
from share_registry.registry.commands.import_order import ImportRow, next_wave
from share_registry.registry.commands.import_refits import RefitsBeside
from share_registry.registry.commands.import_request import STOP, ImportRequest
from share_registry.registry.commands.import_work import (
    Surveyed,
    name_of,
    survey,
)
from share_registry.registry.commands.prepare import Prepared, publish_prepared
from share_registry.registry.commands.workers import Workers
from share_registry.registry.context import Context
from share_registry.values.commits import Commit
from share_registry.values.imports import (
    ImportOutcome,
    ImportReport,
    ImportSource,
    ImportStatus,
)
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
# What one adapter cannot be blamed for
_OF_ALL: Final = (StoreError, CatalogError, CommitStateUnknownError, FormatError, IntegrityError)


class RunWave(Protocol):
    """Who prepares the adapters of a wave, and hands all results to what publishes them."""

    def __call__(
        self,
        calls: Callable[[], Sequence[tuple[Any, ...]]],
        publish: Callable[[Iterable["Prepared | ShareRegistryError"]], None],
    ) -> None:
        """Call `prepare_one(context, *call)` for every call, then `publish` with the results.

        What `calls` returns is as of now: it is asked again after a refit.
        """
        ...


def check_first_import(
    sources: Iterable[Any],
    from_file: Path | None,
    space: str | None,
    *,
    format: str | None,
    outside: Outside,
) -> None:
    """Check that an import can begin a registry that is not there yet: one adapter can be used.

    Raises what the first one is refused for where none can.
    """
    refused: ShareRegistryError | None = None
    for item in collect_sources(sources, from_file, outside):
        if isinstance(item, ImportSource):
            try:
                check_first(
                    [(item.task, item.adapter)],
                    item.space or space,
                    adapter_name=None,
                    format=item.format or format,
                    outside=outside,
                )
            except ShareRegistryError as error:
                refused = refused or error.amended(prefix=f"{name_of(item)}: ")
            else:
                return
        else:
            refused = refused or RefusedError(f"{item.source}: {item.reason}", hint=item.hint)
    if refused is not None:
        raise refused


class Import:
    """One import: what became of each adapter so far."""

    def __init__(
        self,
        context: Context,
        items: Sequence[ImportSource | ImportOutcome],
        request: ImportRequest,
        progress: Progress | None,
        refits: RefitsBeside,
    ) -> None:
        self._context = context
        self._items = items
        self._request = request
        self._progress = progress
        self._refits = refits
        self._begun_s = context.outside.monotonic()
        self._outcomes: dict[int, ImportOutcome] = {}
        self._commits = 0

    def run(self, workers: Workers, run_wave: RunWave) -> ImportReport:
        """Import everything. Raises where `on_error` says so, or what would meet every adapter."""
        sources = self._sources()
        self._context.catch_up()
        surveyed = self._survey(sources, workers)
        if self._request.dry_run:
            reading_s = self._elapsed_s()
            estimated = estimate(sources, surveyed, self._request, workers, progress=self._progress)
            for number, error in estimated.refused.items():
                self._refuse(number, error)
            self._outcomes |= estimated.outcomes
            return self._report(reading_s + estimated.seconds, workers)
        rows = self._rows(surveyed)
        while rows:
            wave = self._wave(rows)
            self._commit_wave(wave, surveyed, run_wave)
            done = {row.number for row in wave}
            rows = [row for row in rows if row.number not in done]
            self._say("importing", len(self._outcomes), len(self._items))
        self._refits.end()
        return self._report(self._elapsed_s(), workers)

    def _sources(self) -> dict[int, ImportSource]:
        sources = {}
        for number, item in enumerate(self._items):
            if isinstance(item, ImportSource):
                sources[number] = item
                continue
            if self._request.on_error == STOP:
                raise RefusedError(f"{item.source}: {item.reason}", hint=item.hint)
            self._outcomes[number] = item
        return sources

    def _survey(self, sources: Mapping[int, ImportSource], workers: Workers) -> dict[int, Surveyed]:
        surveyed: dict[int, Surveyed] = {}
        times: Counter[tuple[str, str, str]] = Counter()
        results = workers.run(survey, [(source, self._request) for source in sources.values()])
        for done, (number, result) in enumerate(zip(sources, results, strict=True), start=1):
            self._say("reading adapters", done, len(sources))
            if isinstance(result, CatalogError):
                raise result
            if isinstance(result, ShareRegistryError):
                self._refuse(number, result)
                continue
            # of equal adapters of a task, as many are there as the task has such versions
            key = (result.space, result.task, result.source_digest)
            times[key] += 1
            if times[key] <= len(result.versions):
                self._leave(number, result.versions[times[key] - 1])
            else:
                surveyed[number] = result
        return surveyed

    def _rows(self, surveyed: Mapping[int, Surveyed]) -> list[ImportRow]:
        rows = []
        for number, item in surveyed.items():
            refs = self._request.options_of(self._source(number)).derived_from
            parents = [parse_reference(ref) for ref in refs]
            rows.append(
                ImportRow(
                    number=number,
                    space=item.space,
                    task=item.task,
                    parents=frozenset(
                        str(parent.task) for parent in parents if parent.space in (None, item.space)
                    ),
                    stands_alone=item.stands_alone,
                )
            )
        return rows

    def _wave(self, rows: Sequence[ImportRow]) -> list[ImportRow]:
        with self._context.reading() as session:
            tasks = {
                space: lookups.live_tasks(session, space) for space in {row.space for row in rows}
            }
        return next_wave(rows, tasks)

    def _commit_wave(
        self, wave: Sequence[ImportRow], surveyed: Mapping[int, Surveyed], run_wave: RunWave
    ) -> None:
        apart = [row for row in wave if not surveyed[row.number].is_joint]

        def calls() -> list[tuple[Any, ...]]:
            with self._context.reading() as session:
                heads = lookups.heads(session)
            at = {space: head.number for space, head in heads.items()}
            return [(self._source(row.number), self._request, at.get(row.space)) for row in apart]

        def publish(results: Iterable[Prepared | ShareRegistryError]) -> None:
            prepared = []
            for row, result in zip(apart, results, strict=True):
                if isinstance(result, _OF_ALL):
                    raise result.amended(hint="Run the import again: it goes on where it was.")
                if isinstance(result, ShareRegistryError):
                    self._refuse(row.number, result)
                else:
                    prepared.append((row, result))
                done = len(self._outcomes) + len(prepared)
                self._say("importing", done, len(self._items))
            self._publish(prepared)

        if apart:
            run_wave(calls, publish)
        for row in wave:
            if surveyed[row.number].is_joint:
                self._commit_alone(row)

    def _publish(self, prepared: Sequence[tuple[ImportRow, Prepared]]) -> None:
        """Publish a wave: a record for those of one space and message that follow one another."""
        committed: dict[SpaceName, frozenset[TaskName]] = {}
        try:
            for space in dict.fromkeys(row.space for row, _ in prepared):
                of_space = [(row, item) for row, item in prepared if row.space == space]
                for _, run in groupby(of_space, key=lambda pair: pair[1].options.message):
                    tasks = self._publish_run(list(run))
                    committed[space] = committed.get(space, frozenset()) | tasks
        finally:
            # what is committed calls for them, whatever became of the rest
            self._refits.begin(committed)

    def _publish_run(self, run: Sequence[tuple[ImportRow, Prepared]]) -> frozenset[TaskName]:
        """Publish adapters in one record; return the tasks that got a version."""
        options = CommitOptions(
            message=run[0][1].options.message, author=self._request.options.author
        )
        try:
            commit = publish_prepared(
                self._context, [item for _, item in run], options, refit=False
            )
        except _OF_ALL:
            raise
        except ShareRegistryError as error:
            if len(run) == 1:
                self._refuse(run[0][0].number, error)
                return frozenset()
            # one of them keeps all from being committed
            return frozenset().union(*(self._publish_run([pair]) for pair in run))
        for row, item in run:
            self._note(row, commit, item.report.raw_bytes)
        self._commits += commit.created
        return frozenset(row.task for row, _ in run if commit.created and row.task in commit.refs)

    def _commit_alone(self, row: ImportRow) -> None:
        source = self._source(row.number)
        try:
            commit = commit_sources(
                self._context,
                [(source.task, source.adapter)],
                self._request.space_of(source),
                self._request.options_of(source),
            )
        except _OF_ALL:
            raise
        except ShareRegistryError as error:
            self._refuse(row.number, error)
            return
        self._note(row, commit, 0)
        self._commits += commit.created

    def _note(self, row: ImportRow, commit: Commit, raw_bytes: int) -> None:
        ref, report = commit.refs.get(row.task), commit.reports.get(row.task)
        if ref is None or report is None or not commit.created:
            name = f"{row.space}/{row.task}@"
            left = (each for each in (*commit.unchanged, ref or "") if each.startswith(name))
            status, ref, report = ImportStatus.UNCHANGED, next(left, None), None
        else:
            status = ImportStatus.COMMITTED
        self._outcomes[row.number] = ImportOutcome(
            source=self._name(row.number),
            status=status,
            ref=ref,
            error=report.error if report is not None else None,
            bytes_added=report.bytes_added if report is not None else 0,
            raw_bytes=report.raw_bytes if report is not None else raw_bytes,
        )

    def _leave(self, number: int, version: TaskVersion) -> None:
        self._outcomes[number] = ImportOutcome(
            source=self._name(number),
            status=ImportStatus.UNCHANGED,
            ref=version.ref,
            error=version.error,
            raw_bytes=version.raw_bytes,
        )

    def _refuse(self, number: int, error: ShareRegistryError) -> None:
        if self._request.on_error == STOP:
            raise error.amended(prefix=f"{self._name(number)}: ")
        _LOG.info("refused %s: %s", self._name(number), error)
        self._outcomes[number] = ImportOutcome(
            source=self._name(number),
            status=ImportStatus.REFUSED,
            reason=error.message,
            hint=error.hint,
        )

    def _report(self, seconds: float, workers: Workers) -> ImportReport:
        return ImportReport(
            outcomes=tuple(outcome for _, outcome in sorted(self._outcomes.items())),
            commits=self._commits,
            seconds=seconds,
            workers=workers.count,
            dry_run=self._request.dry_run,
        )

    def _elapsed_s(self) -> float:
        return self._context.outside.monotonic() - self._begun_s

    def _say(self, doing: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(doing, done, total)

    def _source(self, number: int) -> ImportSource:
        source = self._items[number]
        assert isinstance(source, ImportSource)
        return source

    def _name(self, number: int) -> str:
        return name_of(self._source(number))
