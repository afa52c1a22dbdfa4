"""Standard streams that can be written to, whatever a process was started with.

A stream that was closed (`>&-`) is no object in Python, and the next file gets its descriptor:
what a library writes for a terminal would land in a database. And a letter that the encoding does
not have would end the verb.
"""

import codecs
import os
import sys
from io import TextIOWrapper
from typing import Final, TextIO

# Reading stdin and writing stdout fail, as where they are closed; messages that nobody can read do
# not stop the work
_CLOSED: Final = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)
# How an error handler of this module is called in Python's table of them
_LOOKALIKES: Final = "share_registry.lookalikes"
_ASCII: Final = dict(zip("─│├┤┬┴┼╭╮╯╰└◆○●…", "-|+++++++++`*o@~", strict=True))


def complete_streams() -> None:
    """Make standard streams of those that are closed, and let stdout write any letter."""
    for descriptor, flags in enumerate(_CLOSED):
        try:
            os.fstat(descriptor)
        except OSError:
            # gets the lowest that is free: this one
            os.open(os.devnull, flags)
    if sys.stdout is None:
        sys.stdout = _open(1)
    if sys.stderr is None:
        sys.stderr = _open(2)
    codecs.register_error(_LOOKALIKES, _with_lookalikes)
    # what stderr cannot encode are escapes already
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors=_LOOKALIKES)


def has_every_letter(stream: TextIO) -> bool:
    """Tell whether the encoding of a stream has all of Unicode."""
    return codecs.lookup(stream.encoding or "utf-8").name.startswith("utf")


def _open(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def _with_lookalikes(error: UnicodeError) -> tuple[str, int]:
    """Replace letters one for one, so that columns stay: lines of drawings by those of ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_ASCII.get(letter, "?") for letter in letters), error.end
