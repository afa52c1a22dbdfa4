"""Checks that an adapter must pass before it is committed (spec COM-14).

A policy names them, and nothing else: what a name means is said by whoever commits, on the machine
that commits. So nobody who opens a registry runs what somebody wrote into it. Each check gets a
directory with the files that the registry would keep, written for it alone.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.escapes import one_line
from share_registry.kinds import member_of, shown, wrong_kind
from share_registry.names import NAME, TaskName, first_and_more
from share_registry.outside.commands import run_command
from share_registry.outside.files import Outside
from share_registry.values.text_table import shorten

if TYPE_CHECKING:
    from share_registry.exchange.adapter import Adapter
    from share_registry.format.notes import CheckEntry

# A function that gets the directory: it returns what is worth knowing or nothing, and raises where
# the adapter does not pass. Or a command, to which the directory is added: 0 passes.
Check = Callable[[Path], str | None] | Sequence[str]

VARIABLE: Final = "SHARE_REGISTRY_CHECKS"
_VERSION: Final = re.compile(r"[!-~]{1,64}")
_MAX_SUMMARY: Final = 512
_LAST_LINES: Final = 3
_HINT: Final = "Write modelscan=COMMAND, or modelscan@0.8.8=COMMAND to record a version."


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCheck:
    """A check as this process knows it.

    Attributes:
        name: What policies call it.
        version: Of the tool, as its user says; "" where that is not said.
        run: What it does.
    """

    name: str
    version: str
    run: Check

    @property
    def is_portable(self) -> bool:
        """Whether another process can run it: a function of the main module is not there."""
        return not callable(self.run) or member_of(self.run, "__module__") != "__main__"


def check_checks(name: str, value: Any) -> dict[str, Check]:
    """Check that checks are given by name. Raises InvalidInputError."""
    if not isinstance(value, Mapping):
        raise wrong_kind(name, value, "a mapping", "Give {'modelscan': ['modelscan', '-p']}.")
    for key, run in value.items():
        named(key, run)
    return dict(value)


def named(key: Any, run: Any) -> NamedCheck:
    """Return the check that `NAME` or `NAME@VERSION` calls so. Raises InvalidInputError."""
    text = key if isinstance(key, str) else ""
    name, at, version = text.partition("@")
    ensure(
        re.fullmatch(NAME.pattern, name) and (_VERSION.fullmatch(version) if at else True),
        InvalidInputError(f"check {shown(key)} is not NAME or NAME@VERSION.", hint=_HINT),
    )
    is_command = isinstance(run, list | tuple) and run and all(isinstance(x, str) for x in run)
    if not callable(run) and not is_command:
        raise wrong_kind(
            f"check {name}",
            run,
            "a function or a command",
            "Give a function of a directory, or a list such as ['modelscan', '-p'].",
        )
    return NamedCheck(name=name, version=version, run=run if callable(run) else tuple(run))


def parse_check(text: str) -> tuple[str, Check]:
    """Return name and command of `NAME=COMMAND`, as on a command line. Raises InvalidInputError."""
    key, equals, command = text.partition("=")
    try:
        arguments = shlex.split(command)
    except ValueError:
        arguments = []
    ensure(
        equals and arguments,
        InvalidInputError(f"check {shown(text)} is not NAME=COMMAND.", hint=_HINT),
    )
    return key.strip(), arguments


def parse_checks(texts: Iterable[str]) -> dict[str, Check]:
    """Return the commands of several `NAME=COMMAND` by name. Raises InvalidInputError."""
    checks: dict[str, Check] = {}
    for text in texts:
        key, command = parse_check(text)
        ensure(key not in checks, _given_twice(key))
        checks[key] = command
    return checks


def configured(checks: Mapping[str, Check] | None, outside: Outside) -> dict[str, NamedCheck]:
    """Return checks by name: those that are given, else those of the environment, one a line.

    Raises InvalidInputError.
    """
    if checks is None:
        lines = (outside.environment(VARIABLE) or "").splitlines()
        checks = parse_checks(line for line in lines if line.strip())
    by_name: dict[str, NamedCheck] = {}
    for key, run in checks.items():
        check = named(key, run)
        ensure(check.name not in by_name, _given_twice(check.name))
        by_name[check.name] = check
    return by_name


def run_checks(
    checks: Mapping[str, NamedCheck],
    required: Iterable[str],
    task: TaskName,
    adapter: "Adapter",
    outside: Outside,
) -> "list[CheckEntry]":
    """Run every check that is known here on an adapter.

    Args:
        checks: The checks by name.
        required: Those that must be among them.
        task: The task that the adapter is for.
        adapter: The adapter, as it would be committed.
        outside: Where its files are written for the checks.

    Returns:
        What a note says of them, by name.

    Raises RefusedError where one is not known, or does not pass.
    """
    missing = sorted(name for name in required if name not in checks)
    ensure(
        not missing,
        RefusedError(
            f"task {task}: the policy requires {first_and_more(missing)}, and what to run for that "
            "is not said here.",
            hint=f"Say it with `--check {missing[0] if missing else 'NAME'}=COMMAND` or "
            f"${VARIABLE}, in Python where the registry is opened: a registry names checks, it "
            "never says what they run.",
        ),
    )
    if not checks:
        return []
    from share_registry.exchange.export_files import CardFacts, files_of, place

    files, _ = files_of(adapter, profile="native", card=CardFacts.of(adapter))
    folder = outside.temporary_directory("share-registry-check-")
    try:
        directory, _ = place(
            {**files, **adapter.original}, folder, "adapter", overwrite=False, outside=outside
        )
        return [_run(checks[name], task, directory) for name in sorted(checks)]
    finally:
        outside.remove_tree(folder)


def require_checked(
    required: Iterable[str], entries: "Mapping[TaskName, Sequence[CheckEntry]]"
) -> None:
    """Check that adapters have passed what a policy requires. Raises RefusedError."""
    for task, passed in entries.items():
        missing = sorted({*required} - {entry.name for entry in passed})
        ensure(
            not missing,
            RefusedError(
                f"task {task} has not passed {first_and_more(missing)}, which the policy requires.",
                hint="Prepare it again, with the check.",
            ),
        )


def _given_twice(name: str) -> InvalidInputError:
    return InvalidInputError(f"check {name} is given twice.", hint="Give it once.")


def _run(check: NamedCheck, task: TaskName, directory: Path) -> "CheckEntry":
    from share_registry.format.notes import CheckEntry

    try:
        summary = _call(check, directory)
    # whatever somebody else's code raises: only what is seen to pass passes
    except Exception as error:
        reason = _cleaned(str(error)) or type(error).__name__
        raise RefusedError(
            f"task {task}: the adapter does not pass check {check.name}: {reason}",
            hint="Nothing was committed. Look at what the check found.",
        ) from error
    return CheckEntry(name=check.name, version=check.version or None, summary=summary or None)


def _call(check: NamedCheck, directory: Path) -> str:
    """Return the summary of a check that passes; raises where it does not."""
    if callable(check.run):
        return _cleaned(check.run(directory) or "")
    status, output = run_command([*check.run, str(directory)])
    summary = _cleaned(output.replace(str(directory), "ADAPTER"))
    if status != 0:
        raise ValueError(f"exit status {status}{f': {summary}' if summary else ''}")
    return summary


def _cleaned(text: str) -> str:
    """Return the last lines of a text as one short line without control characters."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    # half a character is no text
    whole = " / ".join(lines[-_LAST_LINES:]).encode("utf-8", "replace").decode()
    return shorten(one_line(whole), _MAX_SUMMARY)
