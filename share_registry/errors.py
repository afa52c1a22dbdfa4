"""Every error the library raises, with the exit code the command line gives it.

One family, one table: an error says what went wrong, with which thing, what was found and what was
expected; `hint` says what to do next.
"""

from collections.abc import Mapping
from copy import copy
from typing import ClassVar, Self

from share_registry.escapes import printable


class ShareRegistryError(Exception):
    """Base of every error of this library.

    Args:
        message: What happened, to which thing, what was found and what was expected.
        hint: The next step for the reader, as a full sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def public_name(self) -> str:
        """Name of its class; of one that a module keeps for itself, that of the one it is of."""
        return next(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)

    def __str__(self) -> str:
        return printable(f"{self.message} {self.hint}".rstrip())

    def amended(self, *, prefix: str = "", hint: str = "") -> Self:
        """Return the same error with a prefix to its message, and a hint where it has none."""
        amended = copy(self)
        amended.message = f"{prefix}{self.message}"
        amended.hint = self.hint or hint
        amended.args = (amended.message,)
        return amended

    def __reduce__(self) -> tuple[object, ...]:
        # past `__init__`, whose arguments have names
        return (type(self).__new__, (type(self), *self.args), self.__dict__)


class InvalidInputError(ShareRegistryError):
    """What was given cannot be used: the adapter, a name, an option."""

    exit_code = 2


class NotFoundError(ShareRegistryError):
    """A space, task, version, alias, tag, object or file is not there."""

    exit_code = 3


class ConflictError(ShareRegistryError):
    """Somebody else changed what this call built upon; a retry may help."""

    exit_code = 4


class ConnectionLostError(ConflictError):
    """The database server ended the connection; a retry with the same idempotency key is safe."""


class IntegrityError(ShareRegistryError):
    """Bytes are not what their digest or the specification says."""

    exit_code = 5


class FormatError(ShareRegistryError):
    """The store or an object is of a format this release cannot read or write."""

    exit_code = 6


class CatalogError(ShareRegistryError):
    """The catalog cannot be used: unreachable, too old, too new."""

    exit_code = 6


class RefusedError(ShareRegistryError):
    """The request is understood and not done, for a stated reason."""

    exit_code = 7


class BudgetExceededError(RefusedError):
    """The error budget cannot be met."""


class CommitStateUnknownError(ShareRegistryError):
    """Whether the commit was published is not known; retry with `key`.

    Args:
        key: The idempotency key: a retry with it never makes a second commit.
    """

    exit_code = 8

    def __init__(self, message: str, *, key: str, hint: str = "") -> None:
        super().__init__(
            message,
            hint=hint or f"Retry with idempotency_key={key!r}: it never makes a second commit.",
        )
        self.key = key


class CommitInterrupted(KeyboardInterrupt):
    """A verb that commits was interrupted, as by Ctrl-C: what it had committed by then.

    What `landed` does not have was not committed, unless it is `unknown`. What has landed is
    durable, and the catalog follows at the next opening.

    Args:
        message: What became of the commits.
        landed: Commits that stand, such as "minilm/@c7", by idempotency key.
        unknown: The key of a commit that could not be looked up; a retry with it never makes a
            second commit.
    """

    def __init__(
        self, message: str, *, landed: Mapping[str, str], unknown: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.landed = dict(landed)
        self.unknown = unknown

    @property
    def hint(self) -> str:
        """How to see it, or to go on."""
        if self.unknown is not None:
            return f"Retry with idempotency_key={self.unknown!r}: it never makes a second commit."
        if self.landed:
            return f"See it with `share-registry show {[*self.landed.values()][-1]}`."
        return "Run it again."


class StoreError(ShareRegistryError):
    """The store could not be read or written: full disk, permissions, I/O."""

    exit_code = 1


# Exit code -> the errors that give it; 0 is success
EXIT_CODES: dict[int, tuple[type[ShareRegistryError], ...]] = {
    1: (StoreError, ShareRegistryError),
    2: (InvalidInputError,),
    3: (NotFoundError,),
    4: (ConflictError, ConnectionLostError),
    5: (IntegrityError,),
    6: (FormatError, CatalogError),
    7: (RefusedError, BudgetExceededError),
    8: (CommitStateUnknownError,),
}


def ensure(condition: object, error: ShareRegistryError) -> None:
    """Raise an error unless a condition holds.

    The error is made either way: where something is checked for every value, an `if` is faster.
    """
    if not condition:
        raise error
