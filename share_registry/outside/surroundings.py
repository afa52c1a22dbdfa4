"""What a process finds around it but files: clocks, randomness, user, host and environment."""

import getpass
import os
import platform
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime


class Surroundings:
    """The real ones."""

    def now(self) -> datetime:
        """Return the wall clock, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds of a clock that only goes forward."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Do nothing for a while."""
        time.sleep(seconds)

    def token(self) -> str:
        """Return 32 random hexadecimal digits."""
        return secrets.token_hex(16)

    def environment(self, name: str) -> str | None:
        """Return an environment variable."""
        return os.environ.get(name)

    def user(self) -> str | None:
        """Return the name of the user of this process, None where the system knows none."""
        # a user without an entry, as in containers, is KeyError before Python 3.13
        with suppress(OSError, KeyError, ImportError):
            return getpass.getuser()
        return None

    def host(self) -> str:
        """Return the name of this machine in its network, "" where the system knows none."""
        return platform.node()
