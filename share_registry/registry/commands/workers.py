"""Processes that prepare adapters side by side, each with the registry open.

What is called takes a registry and returns a value; an error is a value too, so that one adapter
that cannot be used stops nobody. A process that ends in the middle of a call (it is killed, or
takes too much memory) is started again and asked once more.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from share_registry.errors import RefusedError, ShareRegistryError
from share_registry.outside.processes import ProcessEndedError, WorkerProcess
from share_registry.registry.context import Context, Location, reopen

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
    context: Context, function: Callable[..., _T], arguments: Sequence[Any]
) -> "_T | ShareRegistryError":
    """Return what a function returns or raises."""
    try:
        return function(context, *arguments)
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


class WorkerProcesses:
    """Several processes of this machine; a context manager, they end with it.

    Args:
        place: The registry that each opens.
        count: How many there are.
        device: Where they compute.
        preload: Module that has what they are to call.
    """

    def __init__(self, place: Location, count: int, *, device: str, preload: str) -> None:
        self.count = count
        self._place = place
        self._device = device
        self._preload = preload
        self._idle: SimpleQueue[WorkerProcess] = SimpleQueue()
        self._all: set[WorkerProcess] = set()
        self._threads = ThreadPoolExecutor(count)
        self._futures: list[Future[Any]] = []
        self._starting = Lock()
        self._ends = False
        for _ in range(count):
            self._idle.put(self._start())

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
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in list(self._all):
            process.close()
        self._threads.shutdown()

    def run(
        self, function: Callable[..., _T], calls: Sequence[tuple[Any, ...]]
    ) -> "Iterator[_T | ShareRegistryError]":
        """Yield what a function returns for every call, in order; all are begun at once."""
        self._futures = [
            self._threads.submit(self._call, function, arguments) for arguments in calls
        ]
        return (future.result() for future in self._futures)

    def give_up(self) -> None:
        """Begin none of the calls any more that were given last."""
        for future in self._futures:
            future.cancel()

    def _start(self) -> WorkerProcess:
        with self._starting:
            if self._ends:
                raise ProcessEndedError("nobody waits for what it does")
            process = WorkerProcess(reopen, self._place, self._device, preload=self._preload)
            self._all.add(process)
        return process

    def _call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        process = self._idle.get()
        ended: object = None
        try:
            for _ in range(_TRIES):
                try:
                    return process.call(attempt, function, arguments)
                except ProcessEndedError as error:
                    ended = error
                    self._all.discard(process)
                    process.close()
                    process = self._start()
                    _LOG.warning("a worker ended (%s): it was started again", ended)
        finally:
            self._idle.put(process)
        return RefusedError(
            f"the process that prepared it ended {_TRIES} times ({ended}).",
            hint="It may need more memory than there is: give fewer workers, or commit it alone.",
        )
