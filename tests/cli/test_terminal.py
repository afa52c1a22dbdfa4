"""On a terminal something moves and lines fit; anywhere else there is neither."""

import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cli.conftest import Runner
from tests.house.tree import ROOT


def _on_terminal(*arguments: object, columns: int = 60) -> tuple[str, str]:
    """Run the command line with stdout and stderr on terminals; return what each showed."""
    (out, out_side), (err, err_side) = pty.openpty(), pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "share_registry.cli.main", *map(str, arguments)],
        stdout=out_side,
        stderr=err_side,
        stdin=subprocess.DEVNULL,
        env=environment,
    )
    os.close(out_side)
    os.close(err_side)
    with ThreadPoolExecutor(2) as readers:
        shown = readers.map(_drain, (out, err))
    assert process.wait() == 0
    first, second = shown
    return first, second


def _drain(terminal: int) -> str:
    pieces = []
    with open(terminal, "rb", buffering=0) as stream:
        while piece := _read(stream.fileno()):
            pieces.append(piece)
    return b"".join(pieces).decode()


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 4096)
    except OSError:
        return b""


def test_a_long_verb_moves_on_stderr_only(run_empty: Runner, adapters: Path) -> None:
    out, err = _on_terminal("-R", run_empty.registry, "commit", adapters / "cola")
    assert "\x1b" in err
    assert "\x1b" not in out
    assert "cola@v1" in out


def test_quiet_moves_nothing(run_empty: Runner, adapters: Path) -> None:
    _, err = _on_terminal("-q", "-R", run_empty.registry, "commit", adapters / "cola")
    assert err == ""


def test_lines_fit_the_terminal(template: Path) -> None:
    for columns in (40, 60, 80):
        out, _ = _on_terminal("-R", template, "log", columns=columns)
        assert max(map(len, out.splitlines())) <= columns
        assert "message" in out
