"""`share-registry ui` as a process, asked through real sockets."""

import json
import re
import signal
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from share_registry.cli.main import main
from tests.cli.tiny import SPACE
from tests.registry.plain import files

STARTS_S = 60.0


def test_a_process_shows_a_registry_until_it_is_asked_to_end_and_leaves_nothing_behind(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(story)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = ["-W", "error", "-m", "share_registry", "-R", str(story), "ui", "--port", "0"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        address = re.fullmatch(r"serving at http://127\.0\.0\.1:(\d+); Ctrl-C ends it\n", line)
        assert address, line + process.stderr.read()
        with closing(HTTPConnection("127.0.0.1", int(address[1]), timeout=STARTS_S)) as connection:
            body = b""
            for path, kind in (
                (f"/spaces/{SPACE}", "text/html"),
                (f"/tasks/{SPACE}/cola/files", "text/html"),
                ("/v1/spaces", "application/json"),
            ):
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read()
                assert (answer.status, answer.headers.get_content_type()) == (200, kind), body
                assert "Server" not in answer.headers
            assert [space["name"] for space in json.loads(body)] == ["other", SPACE]
        process.send_signal(signal.SIGTERM)
        assert process.wait(STARTS_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert files(story) == before
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--host", "0.0.0.0"), 7, "--token-file"),
        (("-R", "nowhere"), 3, "nowhere"),
        (("-s", "nowhere"), 3, "nowhere"),
        (("--port", "70000"), 2, "--port"),
    ],
)
def test_what_cannot_be_shown_is_said_at_once(
    tmp_path: Path,
    story: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHARE_REGISTRY_URI", str(story))
    assert main(["ui", *arguments]) == code
    assert said in capsys.readouterr().err


def test_without_the_extra_it_is_said_how_to_get_it() -> None:
    script = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from share_registry.cli.main import main; sys.exit(main(['ui']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 7
    assert ran.stderr == (
        "error: fastapi is not installed, expected it to show pages.\n"
        "hint: pip install 'share-registry[ui]'\n"
    )
