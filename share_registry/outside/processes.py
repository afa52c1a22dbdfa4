"""Processes of this interpreter that call functions for this one.

A process opens something once and then answers calls, one after another, until its input ends. The
caller's main module is not imported again, so that a script needs no guard; what a process prints
goes to stderr. Only what this package sends is unpickled, through pipes that nobody else has.
"""

import gc
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import import_module
from typing import Any, Final, Protocol

_SERVE: Final = "from share_registry.outside.processes import serve; serve()"


class Closeable(Protocol):
    """What a process opens."""

    def close(self) -> None:
        """Release it."""
        ...


class ProcessEndedError(Exception):
    """A process ended before it answered: killed, or out of memory."""


class WorkerProcess:
    """One process.

    Args:
        opened: Called there first, with `arguments`; what it returns is the first argument of every
            call.
        arguments: Must be picklable, as all that is called and returned.
        preload: Module that is imported there at once, before the first call.
    """

    def __init__(self, opened: Callable[..., Closeable], *arguments: object, preload: str) -> None:
        search_path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE, preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": search_path},
        )
        self._opening = (opened, arguments)
        self._opens = True

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Return what a function returns there.

        Raises ProcessEndedError; so does a function that raises.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            if self._opens:
                pickle.dump(self._opening, requests)
                self._opens = False
            pickle.dump((function, arguments), requests)
            requests.flush()
            return pickle.load(answers)  # noqa: S301
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise ProcessEndedError(how) from error

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_start() -> bool:
    """Tell whether the interpreter can be started again: one embedded in a program cannot."""
    return bool(sys.executable)


def serve() -> None:
    """Answer the calls that come in on stdin; what a process runs."""
    # an interrupt of the terminal reaches the process that waits for the answers, and ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # what is imported is there to stay: it is not looked through for garbage
    gc.disable()
    import_module(sys.argv[1])
    gc.freeze()
    gc.enable()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # who asked may be gone, killed in the middle of a call
    with suppress(EOFError, BrokenPipeError), requests, answers:
        opened, arguments = pickle.load(requests)  # noqa: S301
        with closing(opened(*arguments)) as resource:
            while True:
                function, arguments = pickle.load(requests)  # noqa: S301
                pickle.dump(function(resource, *arguments), answers)
                answers.flush()
