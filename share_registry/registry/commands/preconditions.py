"""What must hold before a commit is made, and whether it is made already.

It is where its idempotency key was used before, or the same adapter is given again unchanged.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from sys import float_info
from typing import Any, Final

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.sql import Session
from share_registry.errors import ConflictError, InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.environment import environment_labels
from share_registry.format.canonical import sha256
from share_registry.format.layout import Entry
from share_registry.format.notes import Metric, Note, TaskNote
from share_registry.names import CommitNumber, SpaceName, TaskName, Version, first_and_more
from share_registry.outside.files import Outside
from share_registry.registry.arguments import CommitOptions, RefitOptions, check_distinct
from share_registry.registry.log_entries import read_note
from share_registry.store.protocol import Store
from share_registry.values.commits import Commit
from share_registry.values.task_version import TaskVersion

# Characters of a value that an error repeats
_SHOWN: Final = 80
_LOG: Final = logging.getLogger(__name__)


def check_options(options: CommitOptions, outside: Outside) -> dict[str, str]:
    """Check what a caller says of a commit; return its labels with those of the environment.

    Raises InvalidInputError.
    """
    check_labels(options.labels)
    check_metrics(options.metrics)
    check_texts(options)
    labels = environment_labels(outside) | dict(options.labels)
    check_distinct(labels, options.metrics)
    return labels


def check_texts(options: CommitOptions | RefitOptions) -> None:
    """Check that a message fits into a note. Raises InvalidInputError."""
    ensure(
        len(options.message) <= 16_384,
        InvalidInputError(
            "message has more than 16384 characters.",
            hint="Shorten it, or keep the text in a file of the adapter's directory.",
        ),
    )


def check_labels(labels: Mapping[str, str]) -> None:
    """Check label names and values. Raises InvalidInputError."""
    for name, value in labels.items():
        _check_name("label", name)
        ensure(
            isinstance(value, str) and len(value) <= 4096,
            InvalidInputError(
                f"label {_short(name)}={_short(value)} is not a text of at most 4096 characters.",
                hint="Shorten it, or keep the text in a file of the adapter's directory.",
            ),
        )


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Check metric names and values. Raises InvalidInputError."""
    for name, value in metrics.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # neither infinite, nor NaN, nor a whole number past float64
        is_finite = is_number and abs(value) <= float_info.max
        _check_name("metric", name)
        ensure(
            is_finite,
            InvalidInputError(
                f"metric {_short(name)}={_short(value)} is not a finite number.",
                hint="Leave it out, or say what happened in a label or the message.",
            ),
        )


def annotations(labels: Mapping[str, str], metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return labels and metrics as a note says them of a task."""
    return {
        "labels": [Entry(name=name, value=value) for name, value in sorted(labels.items())],
        "metrics": [
            Metric(name=name, value=repr(float(value))) for name, value in sorted(metrics.items())
        ],
    }


def next_version(
    session: Session,
    space: SpaceName,
    task: TaskName,
    latest: TaskVersion | None,
    *,
    expected: int | None,
) -> Version:
    """Return the version that follows the latest one of a task.

    Raises:
        RefusedError: the task has got another name meanwhile.
        ConflictError: it is not at version `expected`; 0 for absent.
    """
    check_name(session, space, task)
    present = latest.version if latest is not None else 0
    check_expected(task, present, expected)
    return Version(present + 1)


def check_name(session: Session, space: SpaceName, task: TaskName) -> None:
    """Check that a task has not got another name meanwhile. Raises RefusedError."""
    name = lookups.current_name(session, space, task)
    ensure(
        name in (None, task),
        RefusedError(
            f"task {space}/{task} was renamed to {name!r}; a name is never given to another task.",
            hint=f"Commit to {name!r}, or pick a new name.",
        ),
    )


def check_expected(task: str, latest: int, expected: int | None) -> None:
    """Check that a task is at the version that was expected; 0 for absent. Raises ConflictError."""
    if expected is not None and expected != latest:
        present = f"at v{latest}" if latest else "absent"
        raise ConflictError(
            f"task {task!r} is {present}, expected {f'v{expected}' if expected else 'absent'}.",
            hint="Look at what came in between (`log`), then commit upon it.",
        )


def commit_of_key(
    session: Session, space: SpaceName, key: str, adapters: Mapping[TaskName, Adapter] | None
) -> CommitNumber | None:
    """Return the commit made with an idempotency key.

    Raises ConflictError where it has other adapters than these, if any are given, and those that
    the tasks had already.
    """
    number = lookups.commit_of_key(session, space, key)
    if number is None or adapters is None:
        return number
    committed = version_lookups.sources_of_commit(session, space, number)
    sources = {str(task): str(adapter.source_digest) for task, adapter in sorted(adapters.items())}
    ensure(
        committed.items() <= sources.items()
        and (bool(committed) or not sources)
        and all(
            version_lookups.digests_before(session, space, task, number)
            & {each.source_digest, each.tensors_digest}
            for task, each in adapters.items()
            if task not in committed
        ),
        ConflictError(
            f"idempotency key {key!r} made c{number} of space {space!r} with "
            f"{_listed(committed)}; now it comes with {_listed(sources)}.",
            hint="A key stands for one commit: give another one.",
        ),
    )
    return number


def commit_of_unchanged(
    store: Store,
    space: SpaceName,
    adapters: "Mapping[TaskName, Adapter]",
    latest: Mapping[TaskName, TaskVersion | None],
    options: CommitOptions,
    each: Mapping[TaskName, CommitOptions],
) -> CommitNumber | None:
    """Return the last commit that made the newest versions of tasks, which are given unchanged.

    None where some are new, or are not kept as well as is asked for now. Raises ConflictError where
    a task is not at the version expected.
    """
    numbers = set()
    for task, adapter in adapters.items():
        version = latest[task]
        if version is None or not is_unchanged(store, task, version, adapter, each[task]):
            return None
        numbers.add(version.number)
    for version in filter(None, latest.values()):
        check_expected(version.task, version.version, options.expected)
    number = max(numbers)
    said = [(version, each[task]) for task, version in latest.items() if version is not None]
    lost = {name for version, own in said for name in _unrecorded(store, version, (options, own))}
    if lost:
        _LOG.warning(
            "%s/@c%d holds %s already: %s not recorded; annotate gives labels and metrics, "
            "allow_duplicate makes new versions",
            space,
            number,
            "this adapter" if len(said) == 1 else "these adapters",
            ", ".join(sorted(lost)),
        )
    return number


def is_unchanged(
    store: Store, task: TaskName, version: TaskVersion, adapter: "Adapter", options: CommitOptions
) -> bool:
    """Tell whether an adapter is what a live task's version was committed from, or is read as.

    A version that a refit or a restore made is not what was committed: its error is another.
    """
    if not version.live or version.task != task:
        return False
    if version.source_digest != adapter.source_digest:
        return _is_stored(store, version, adapter)
    return is_kept_as_asked(store, version, options)


def is_kept_as_asked(store: Store, version: TaskVersion, options: CommitOptions) -> bool:
    """Tell whether a version is what was committed, as near and as whole as is asked for."""
    if version.restored_from is not None or version.before is not None:
        return False
    if options.budget is not None and version.error > options.budget:
        return False
    return not options.keep_original or bool(_note_of(store, version).original)


def check_unchanged(
    session: Session, space: SpaceName, unchanged: Mapping[TaskName, TaskVersion]
) -> None:
    """Check that tasks left out of a commit are still at these versions. Raises ConflictError."""
    for task, version in unchanged.items():
        latest = version_lookups.latest_version(session, space, task)
        ensure(
            latest is not None
            and latest.live
            and (latest.task, latest.version) == (task, version.version),
            ConflictError(
                f"task {space}/{task} is not at v{version.version} any more.", hint="Run it again."
            ),
        )


def with_unchanged(commit: Commit, unchanged: Mapping[TaskName, TaskVersion]) -> Commit:
    """Return a commit that names the versions that it left as they are."""
    refs = (row.ref for task, row in sorted(unchanged.items()) if task not in commit.refs)
    return replace(commit, unchanged=tuple(refs))


def _check_name(kind: str, name: object) -> None:
    ensure(
        isinstance(name, str) and 1 <= len(name) <= 128,
        InvalidInputError(
            f"{kind} name {_short(name)} is not a text of 1 to 128 characters.",
            hint="Give it a short name.",
        ),
    )


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ..."


def _is_stored(store: Store, version: TaskVersion, adapter: "Adapter") -> bool:
    if (
        adapter.tensors_digest != version.tensors_digest
        or sha256(adapter.config_bytes) != version.config_digest
    ):
        return False
    kept = {entry.name: str(entry.object) for entry in _note_of(store, version).attachments}
    return kept == {name: sha256(content) for name, content in adapter.attachments.items()}


def _note_of(store: Store, version: TaskVersion) -> TaskNote:
    return (read_note(store, version.note_digest) or Note()).of(version.note_task)


def _unrecorded(store: Store, version: TaskVersion, said: Sequence[CommitOptions]) -> Iterator[str]:
    """Yield what is said of a version that is there already and is not recorded with it."""
    note = read_note(store, version.note_digest) or Note()
    own = note.of(version.note_task)
    labels = {each.name: each.value for each in own.labels}
    metrics = {each.name: float(each.value) for each in own.metrics}
    for options in said:
        if not options.labels.items() <= labels.items():
            yield "labels"
        if not options.metrics.items() <= metrics.items():
            yield "metrics"
        if options.message and options.message != note.message:
            yield "message"
        if options.author and options.author != note.author:
            yield "author"
        if options.derived_from:
            yield "derived_from"


def warn_left_out(
    space: SpaceName,
    unchanged: Mapping[TaskName, TaskVersion],
    each: Mapping[TaskName, CommitOptions],
) -> None:
    """Warn of what a commit says of its versions and not of the tasks given unchanged."""
    said = [each[task] for task in unchanged]
    unsaid = " and ".join(
        name for name in ("labels", "metrics") if any(getattr(options, name) for options in said)
    )
    if unchanged and unsaid:
        _LOG.warning(
            "%s: %s not recorded for %s, given unchanged; annotate them, or allow duplicates "
            "to make new versions",
            space,
            unsaid,
            first_and_more([version.ref for version in unchanged.values()]),
        )


def _listed(sources: Mapping[str, str]) -> str:
    return (
        ", ".join(f"{task} (source {digest[:8]})" for task, digest in sources.items())
        or "no adapter"
    )
