"""Forks and the transactions of other threads.

SQLite counts in memory which locks its process has. A child that is forked while a thread of its
parent is in a transaction inherits the count, and not the lock: it would wait for nobody and read
what is half-written. So a fork waits until those transactions have ended; where one takes too long,
the child is refused that file, and may use every other.
"""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from share_registry.errors import CatalogError, ensure

_PATIENCE_S: Final = 10.0


class _Transactions:
    """The transactions that threads of this process have on SQLite files."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        # by thread and file
        self.open: Counter[tuple[int, str]] = Counter()
        self.inherited: set[str] = set()
        self.forks = 0
        # the thread that forks at this moment, once it has the condition
        self.forking: int | None = None

    def begin(self, file: str) -> None:
        """Count a transaction, behind the forks that wait unless it is inside another one."""
        this = threading.get_ident()
        with self.condition:
            self.condition.wait_for(
                lambda: not self.forks or any(thread == this for thread, _ in self.open)
            )
            self.open[this, file] += 1

    def end(self, file: str) -> None:
        """Count a transaction no more."""
        key = threading.get_ident(), file
        with self.condition:
            self.open[key] -= 1
            if self.open[key] <= 0:
                del self.open[key]
            self.condition.notify_all()

    def before_fork(self) -> None:
        """Wait for other threads, and let none begin until the fork is done."""
        this = threading.get_ident()
        self.condition.acquire()
        # an interrupt before this line leaves nothing for the hook behind the fork to undo
        self.forks, self.forking = self.forks + 1, this
        self.condition.wait_for(
            lambda: all(thread == this for thread, _ in self.open), timeout=_PATIENCE_S
        )

    def after_fork_in_parent(self) -> None:
        """Let the other threads go on."""
        if self.forking != threading.get_ident():
            return
        self.forks, self.forking = self.forks - 1, None
        self.condition.notify_all()
        self.condition.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: the threads are gone, and with them who would release the lock."""
        self.condition, self.forks, self.forking = threading.Condition(), 0, None
        self.inherited |= {file for _, file in self.open}
        self.open.clear()


_transactions: Final = _Transactions()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_transactions.before_fork,
        after_in_parent=_transactions.after_fork_in_parent,
        after_in_child=_transactions.after_fork_in_child,
    )


@contextmanager
def transaction_on(file: str) -> Iterator[None]:
    """Count a block as a transaction on a SQLite file.

    Raises CatalogError where a fork in the middle of another one has spoilt the file for this
    process.
    """
    ensure(
        file not in _transactions.inherited,
        CatalogError(
            f"catalog {file} cannot be used in this process: it was forked in the middle of a "
            "transaction of its parent.",
            hint="Fork before other threads commit, or start the process anew ('spawn').",
        ),
    )
    _transactions.begin(file)
    try:
        yield
    finally:
        _transactions.end(file)
