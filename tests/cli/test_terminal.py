"""On a terminal something moves and lines fit; anywhere else there is neither."""

import os
import pty
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from share_registry.cli.main import main
from tests.cli.conftest import Runner
from tests.house.tree import ROOT


def _on_terminal(
    *arguments: object, columns: int = 60, code: int = 0, **variables: str
) -> tuple[str, str]:
    """Run the command line with stdout and stderr on terminals; return what each showed."""
    (out, out_side), (err, err_side) = pty.openpty(), pty.openpty()
    environment = {
        **os.environ,
        "TERM": "xterm",
        "COLUMNS": str(columns),
        "PYTHONPATH": str(ROOT),
        **variables,
    }
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
    assert process.wait() == code
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
    out, err = _on_terminal("-R", run_empty.registry, "commit", adapters / "cola", NO_COLOR="1")
    assert "\x1b" in err
    assert "\x1b" not in out
    assert "cola@v1" in out


def test_quiet_moves_nothing(run_empty: Runner, adapters: Path) -> None:
    _, err = _on_terminal("-q", "-R", run_empty.registry, "commit", adapters / "cola")
    assert err == ""


def test_lines_fit_the_terminal(template: Path) -> None:
    for columns in (40, 60, 80):
        for graph in ([], ["--graph"]):
            out, _ = _on_terminal("-R", template, "log", *graph, columns=columns)
            assert max(map(len, _bare(out).splitlines())) <= columns
            assert "message" in out


def test_colours_are_for_terminals_whose_users_want_them(
    template: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ("-R", template, "show", "cola@v2")
    shown, _ = _on_terminal(*asked)
    assert shown.startswith("\x1b[1m")
    plain = [_on_terminal(*asked, NO_COLOR="1")[0], _on_terminal(*asked, TERM="dumb")[0]]
    assert [_bare(shown)] * 2 == plain
    assert main([*map(str, asked)]) == 0
    assert "\x1b" not in capfd.readouterr().out


def test_an_error_is_seen_at_once(template: Path) -> None:
    _, err = _on_terminal("-R", template, "show", "cola@v9", code=3)
    assert err.startswith("\x1b[31m\x1b[1merror\x1b[0m: ")
    assert "\x1b[32mhint\x1b[0m: " in err


def _bare(shown: str) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", shown)
