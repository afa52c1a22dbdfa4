"""Processes that prepare adapters side by side, each with the registry open.

What is called takes a registry and returns a value; an error is a value too, so that one adapter
that cannot be used stops nobody. A process that ends in the middle of a call (it is killed, or
takes too much memory) is started again and asked once more.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import MappingProxyType, TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from share_registry.errors import RefusedError, ShareRegistryError
from share_registry.outside.processes import ProcessEndedError, WorkerProcess
from share_registry.registry.admission import NamedCheck
from share_registry.registry.context import Context
from share_registry.registry.location import Location
from share_registry.registry.opening import reopen

_LOG: Final = logging.getLogger(__name__)
_TRIES: Final = 2
_T = TypeVar("_T")


class Workers(Protocol):
    """Who does the work of an import."""

    count: int

    def run(
        self, function: Callable[..., _T], calls: Sequence[tuple[Any, ...]]
    ) -> "Iterator[_T | ShareRegistryError]":
        """Yield what `function(context, *call)` returns for every call, in order."""
        ...


def attempt(
    opened: object, function: Callable[..., _T], arguments: Sequence[Any]
) -> "_T | ShareRegistryError":
    """Return what a function of what is open, and of arguments, returns or raises."""
    try:
        return function(opened, *arguments)
    except ShareRegistryError as error:
        return error
    # whatever one adapter meets, the others go on
    except Exception as error:  # noqa: BLE001
        _LOG.exception("unexpected")
        return RefusedError(
            f"an unexpected {type(error).__name__}: {error}",
            hint="This is a defect: please report it.",
        )


class ThisProcess:
    """The caller's own process, one call after another."""

    count = 1

    def __init__(self, context: Context) -> None:
        self._context = context

    def run(
        self, function: Callable[..., _T], calls: Sequence[tuple[Any, ...]]
    ) -> "Iterator[_T | ShareRegistryError]":
        """Yield what a function returns for every call."""
        return (attempt(self._context, function, arguments) for arguments in calls)

    def give_up(self) -> None:
        """Do nothing: a call begins when its result is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A call that a worker is to make, and where its outcome goes."""

    number: int
    function: Callable[..., Any]
    arguments: Sequence[Any]
    outcomes: "SimpleQueue[tuple[int, Any]]"


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


class WorkerProcesses:
    """Several processes of this machine; a context manager, they end with it.

    Each has a thread here. Threads and the caller meet in queues alone, which an interrupt of the
    caller leaves as they are.

    Args:
        place: The registry that each opens.
        count: How many there are.
        device: Where they compute.
        preload: Module that has what they are to call.
        checks: What they run on adapters before they code them.
    """

    def __init__(
        self,
        place: Location,
        count: int,
        *,
        device: str,
        preload: str,
        checks: Mapping[str, NamedCheck] = MappingProxyType({}),
    ) -> None:
        self.count = count
        self._place = place
        self._device, self._checks = device, dict(checks)
        self._preload = preload
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._all: set[WorkerProcess] = set()
        self._starting = Lock()
        self._ends = False
        self._threads = [
            Thread(target=self._serve, args=(self._start(),), daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        with self._starting:
            self._ends = True
        self.give_up()
        for _thread in self._threads:
            self._calls.put(None)
        for process in list(self._all):
            process.close()
        for thread in self._threads:
            thread.join()

    def run(
        self, function: Callable[..., _T], calls: Sequence[tuple[Any, ...]]
    ) -> "Iterator[_T | ShareRegistryError]":
        """Yield what a function returns for every call, in order; all are asked for at once."""
        outcomes: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        for number, arguments in enumerate(calls):
            self._calls.put(
                _Call(number=number, function=function, arguments=arguments, outcomes=outcomes)
            )
        return _in_order(outcomes, len(calls))

    def give_up(self) -> None:
        """Begin none of the calls any more that were given last."""
        with suppress(Empty):
            while True:
                self._calls.get_nowait()

    def _start(self) -> WorkerProcess:
        with self._starting:
            if self._ends:
                raise ProcessEndedError("nobody waits for what it does")
            process = WorkerProcess(
                reopen, self._place, self._device, self._checks, preload=self._preload
            )
            self._all.add(process)
        return process

    def _serve(self, process: WorkerProcess) -> None:
        """Have a process make calls until there are no more."""
        while (call := self._calls.get()) is not None:
            try:
                process, outcome = self._make(process, call)
            # it is raised where the outcome is asked for
            except BaseException as error:  # noqa: BLE001
                outcome = _Raised(error)
            call.outcomes.put((call.number, outcome))

    def _make(self, process: WorkerProcess, call: _Call) -> tuple[WorkerProcess, Any]:
        """Return the outcome of a call, and the process that is there after it."""
        ended: object = None
        for _ in range(_TRIES):
            try:
                return process, process.call(attempt, call.function, call.arguments)
            except ProcessEndedError as error:
                ended = error
                self._all.discard(process)
                process.close()
                process = self._start()
                _LOG.warning("a worker ended (%s): it was started again", ended)
        return process, RefusedError(
            f"the process that prepared it ended {_TRIES} times ({ended}).",
            hint="It may need more memory than there is: give fewer workers, or commit it alone.",
        )


def _in_order(outcomes: "SimpleQueue[tuple[int, Any]]", count: int) -> Iterator[Any]:
    """Yield outcomes as they were asked for. Raises what a call raised."""
    there: dict[int, Any] = {}
    for number in range(count):
        while number not in there:
            there.update([outcomes.get()])
        outcome = there.pop(number)
        if isinstance(outcome, _Raised):
            raise outcome.error
        yield outcome
