"""`doctor` says what is not well, and its hints and those of a damaged FORMAT work."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Runner


def test_doctor_fails_where_the_newest_record_is_gone(run: Runner) -> None:
    (space,) = (run.registry / "spaces").iterdir()
    max((space / "log").iterdir()).unlink()
    shown = run("doctor", code=5)
    assert "is not in the store" in shown.err
    assert "all is well" not in shown.out


def test_a_damaged_format_file_is_copied_as_the_hint_says(run: Runner, tmp_path: Path) -> None:
    shutil.copytree(run.registry, tmp_path / "COPY")
    (run.registry / "FORMAT").unlink()
    (run.registry / "FORMAT").write_text("junk")
    told = [
        run(*verb.split(), code=5).err for verb in ("ls", "verify", "repair --from COPY", "doctor")
    ]
    for text in told:
        assert "FORMAT is damaged" in text
        assert f"cp -f COPY/FORMAT {run.registry / 'FORMAT'}" in text
    command = next(part for part in told[0].split("`") if part.startswith("cp -f"))
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    run("verify")


def test_who_may_only_read_is_told_and_nothing_is_wrong(run: Runner, tmp_path: Path) -> None:
    assert "write access" in run("doctor").out
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a medium that is only read needs root and the mount command")
    place = tmp_path / "mounted"
    place.mkdir()
    bind = ["mount", "--bind", str(run.registry), str(place)]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        run.registry = place
        shown = run("doctor")
        assert "can only read the registry" in shown.out
    finally:
        subprocess.run(["umount", str(place)], check=True)
