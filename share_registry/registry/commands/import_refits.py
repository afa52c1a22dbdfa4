"""The refits that an import calls for, tried while workers prepare what comes next.

Whether a basis pays is found out after a wave is published, by this process alone, while its
workers would have nothing to do. So they begin with the next wave meanwhile. It is coded as of the
wave before, which is as if the refit had been waited for: where a basis was made, the import begins
that wave again. Such are few. Ray's tasks, which begin only when all of a wave is stated, wait.
"""

from collections.abc import Mapping
from queue import SimpleQueue
from threading import Thread

from share_registry.names import SpaceName, TaskName
from share_registry.registry.arguments import CommitOptions
from share_registry.registry.context import Context
from share_registry.values.policy import overridden


class RefitsBeside:
    """Tries refits in a thread of its own. They are not interrupted: `close` waits."""

    def __init__(self, context: Context, options: CommitOptions) -> None:
        self._context = context
        self._options = options
        self._thread: Thread | None = None
        self._refitted: SimpleQueue[bool] = SimpleQueue()

    def close(self) -> None:
        """Wait for the last one."""
        if self._thread is not None:
            self._thread.join()

    def begin(self, committed: Mapping[SpaceName, frozenset[TaskName]]) -> None:
        """Begin with the refits that tasks call for which were committed to some spaces."""
        self._thread = Thread(target=self._refit, args=(committed,))
        self._thread.start()

    def end(self) -> bool:
        """Wait for those that were begun; tell whether a basis was made."""
        if self._thread is None:
            return False
        refitted = self._refitted.get()
        self._thread = None
        return refitted

    def _refit(self, committed: Mapping[SpaceName, frozenset[TaskName]]) -> None:
        from share_registry.algebra.threads import one_thread
        from share_registry.registry.commands.auto_refit import (
            apart_from_commit,
            refit_after_commit,
        )
        from share_registry.registry.commands.spaces import existing_target

        refitted = False
        try:
            for space, tasks in committed.items():
                with one_thread(), apart_from_commit(space):
                    with self._context.reading() as session:
                        policy = existing_target(session, space).policy
                    refitted |= refit_after_commit(
                        self._context,
                        space,
                        overridden(policy, budget=self._options.budget, keep_original=None),
                        self._context.author_of(self._options.author),
                        basis=None,
                        committed=tasks,
                    )
        finally:
            self._refitted.put(refitted)
