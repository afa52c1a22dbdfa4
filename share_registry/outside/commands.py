"""Run a command of the caller's and read the end of what it prints."""

import subprocess
from collections.abc import Sequence
from typing import Final

_KEPT_BYTES: Final = 64 << 10
_PIECE_BYTES: Final = 16 << 10


def run_command(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command without a shell and without input.

    Returns:
        Its exit status (negative: the signal that ended it), and the end of its output and errors.

    Raises OSError where it cannot be started.
    """
    with subprocess.Popen(
        [*arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        kept = b""
        try:
            while piece := process.stdout.read(_PIECE_BYTES):
                kept = (kept + piece)[-_KEPT_BYTES:]
        except BaseException:
            process.kill()
            raise
    return process.returncode, kept.decode("utf-8", "replace")
