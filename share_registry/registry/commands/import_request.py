"""What an import is asked for."""

from dataclasses import dataclass, replace
from typing import Final

from share_registry.catalog.queries.as_of import instant
from share_registry.errors import InvalidInputError, ensure
from share_registry.kinds import FilePath
from share_registry.registry.arguments import CommitOptions
from share_registry.values.imports import ImportSource

SKIP: Final = "skip"
STOP: Final = "stop"
_TIME_LABEL: Final = "source.time"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What an import is asked for; see `Registry.import_many`."""

    options: CommitOptions
    space: str | None = None
    from_file: FilePath | None = None
    workers: int | None = None
    on_error: str = SKIP
    dry_run: bool = False

    def __post_init__(self) -> None:
        ensure(
            self.on_error in (SKIP, STOP),
            InvalidInputError(
                f"on_error {self.on_error!r} is not {SKIP!r} or {STOP!r}.",
                hint=f"{SKIP!r} reports what is refused and goes on, {STOP!r} ends the import.",
            ),
        )

    def options_of(self, source: ImportSource) -> CommitOptions:
        """Return what is asked for one adapter. Raises InvalidInputError."""
        labels = {**self.options.labels, **source.labels}
        if source.source_time is not None:
            labels[_TIME_LABEL] = instant(source.source_time, end=False)
        return replace(
            self.options,
            message=source.message or self.options.message,
            labels=labels,
            metrics={**self.options.metrics, **source.metrics},
            derived_from=tuple(source.derived_from) or self.options.derived_from,
            format=source.format or self.options.format,
        )

    def space_of(self, source: ImportSource) -> str | None:
        """Return the space that is named for one adapter."""
        return source.space or self.space
