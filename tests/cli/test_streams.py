"""How the command ends: with closed outputs, without some letters, interrupted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.cli.conftest import Runner

ROOT: Final = Path(__file__).parents[2]
# No letter of it is in latin-1
MESSAGE: Final = "better \N{RIGHTWARDS ARROW} \N{GRINNING FACE}"


def _spawn(
    run: Runner, arguments: str, *, encoding: str = "utf-8", libraries: Path = ROOT
) -> "subprocess.CompletedProcess[bytes]":
    """Run a line of the shell."""
    command = f"exec {sys.executable} -m share_registry -R {run.registry} {arguments}"
    return subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{libraries}:{ROOT}", "PYTHONIOENCODING": encoding},
    )


@pytest.mark.parametrize("arguments", ["ls", "log --json", "-q set-alias cola@v1 prod", "--help"])
def test_a_closed_stdout_is_one_error_of_what_was_done(run: Runner, arguments: str) -> None:
    done = _spawn(run, f"{arguments} <&- >&-")
    text = done.stderr.decode()
    assert done.returncode == 1
    assert "Traceback" not in text
    assert "Bad file descriptor" in text
    assert "Standard output is closed" in text
    if "set-alias" in arguments:
        moves = [move["ref"] for move in run("aliases", "--json").json]
        assert moves == ["tiny-model/cola@v1"]


def test_a_closed_stderr_stops_nothing(run: Runner) -> None:
    assert _spawn(run, "-q ls 2>&-").stdout.decode().split() == [
        "tiny-model/cola@v2",
        "tiny-model/sst2@v1",
    ]
    assert _spawn(run, "show cola@v9 >&- 2>&-").returncode == 3


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_letters_that_the_output_does_not_have_are_replaced(run: Runner, encoding: str) -> None:
    run("set-alias", "cola@v1", "prod", "--reason", MESSAGE)
    done = _spawn(run, "log --graph", encoding=encoding)
    lines = done.stdout.decode(encoding).splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert {line[0] for line in lines[1:]} <= set("o*@|")
    assert "better ? ?" in lines[1]
    # columns stay where they are
    whole = _spawn(run, "log --graph").stdout.decode().splitlines()
    assert list(map(len, lines)) == list(map(len, whole))


def test_json_loses_no_letter_to_the_encoding(run: Runner) -> None:
    run("set-alias", "cola@v1", "prod", "--reason", MESSAGE)
    listed = json.loads(_spawn(run, "log --json", encoding="cp1252").stdout)
    assert MESSAGE in json.dumps(listed, ensure_ascii=False)
    refused = _spawn(run, f"show '{MESSAGE}' --json", encoding="cp1252")
    assert MESSAGE in json.loads(refused.stderr)["message"]


INTERRUPTED: Final = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    pass
raise AttributeError("module 'numpy' has no attribute 'matrix'")
"""


@pytest.mark.parametrize("source", ["raise AttributeError('matrix')", INTERRUPTED])
def test_a_library_that_fails_as_it_was_interrupted_is_an_interrupt(
    run: Runner, tmp_path: Path, source: str
) -> None:
    (tmp_path / "uvicorn.py").write_text(source)
    done = _spawn(run, "serve", libraries=tmp_path)
    if source == INTERRUPTED:
        assert (done.returncode, done.stderr) == (130, b"interrupted\n")
    else:
        assert (done.returncode, b"Traceback" in done.stderr) == (1, True)
