"""What shells complete, by bash itself, which ends words at letters that references have."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Runner
from tests.house.tree import ROOT

BREAKS = " \t\n\"'@><=;|&(:"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


def completed(registry: Path, tmp_path: Path, *lines: str) -> list[list[str]]:
    """Return what bash completes each line to, in one bash."""
    program = tmp_path / "share-registry"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m share_registry.cli.main "$@"\n')
    program.chmod(0o755)
    script = "\n".join(
        [
            f'eval "$({program} completion bash)"',
            'COMP_WORDBREAKS="$BREAKS"',
            'for line in "$@"; do',
            '  COMP_LINE="$line" COMP_POINT="${#line}"',
            f'  _share_registry_completion "{program}"',
            '  printf "%s\\n" "${COMPREPLY[*]}"',
            "done",
        ]
    )
    place = {"SHARE_REGISTRY_URI": str(registry)}
    done = subprocess.run(
        ["bash", "-c", script, "bash", *lines],
        env={**os.environ, **place, "PYTHONPATH": str(ROOT), "BREAKS": BREAKS},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.split() for line in done.stdout.splitlines()]


def test_bash_completes_verbs_references_and_names(run: Runner, tmp_path: Path) -> None:
    expected = {
        "share-registry expo": ["export"],
        "share-registry log --gr": ["--graph"],
        "share-registry export cola@": ["prod", "latest", "v2", "v1", "release-1"],
        "share-registry export cola@v": ["v2", "v1"],
        "share-registry diff cola@v1 cola@p": ["prod"],
        "share-registry log --task=co": ["cola"],
        "share-registry remove-alias cola ": ["prod"],
        "share-registry remove-alias sst2 ": [],
        "share-registry show 'co": ["cola"],
    }
    assert (
        dict(zip(expected, completed(run.registry, tmp_path, *expected), strict=True)) == expected
    )


def test_what_cannot_be_read_completes_to_nothing(run: Runner, tmp_path: Path) -> None:
    (run.registry / "FORMAT").write_text("damaged")
    lines = ("share-registry show co", "share-registry -R /nowhere show co")
    assert completed(run.registry, tmp_path, *lines) == [[], []]


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_every_shell_gets_a_script(shell: str, run: Runner) -> None:
    assert "_SHARE_REGISTRY_COMPLETE" in run("completion", shell).out
