"""Real processes that are really killed."""

import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from typing import Final

WATCHDOG_S: Final = 120


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a child and return its number; the child never comes back into the test."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # newer Pythons warn of threads in the parent; these children need none
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


def wait_for(child: int) -> int:
    """Wait for a child and return its exit code, negative for a signal."""
    deadline = time.monotonic() + WATCHDOG_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"process {child} hung")


def wait_for_all(children: Iterable[int]) -> list[int]:
    """Wait for children and return their exit codes."""
    return [wait_for(child) for child in list(children)]


def kill_at(point: str, nth: int = 1) -> Callable[[str], None]:
    """Return a hook that kills its process at the n-th passage of a point."""
    passed = 0

    def hook(passing: str) -> None:
        nonlocal passed
        passed += passing == point
        if passing == point and passed == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
