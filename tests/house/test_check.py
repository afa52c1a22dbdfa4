"""The comparison of two files of results sees what changed, and what is gone."""

import subprocess
import sys
from pathlib import Path

from benchmarks.check import figures
from tests.house.tree import ROOT

OLD = """
## Speed

| what | tool | ms | over |
| --- | --- | --- | --- |
| log | ours | 2.5 | 1.10 |
| log | theirs | 1,250 | - |
"""


def _run(tmp_path: Path, new: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "old.md").write_text(OLD)
    (tmp_path / "new.md").write_text(new)
    command = [
        sys.executable,
        "-m",
        "benchmarks.check",
        str(tmp_path / "old.md"),
        str(tmp_path / "new.md"),
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_figures_are_found_by_section_row_and_column() -> None:
    assert {(place[2], place[4]): value for place, value in figures(OLD).items()} == {
        ("log / ours", "ms"): 2.5,
        ("log / ours", "over"): 1.1,
        ("log / theirs / -", "ms"): 1250.0,
    }


def test_equal_files_are_no_change(tmp_path: Path) -> None:
    run = _run(tmp_path, OLD)
    assert (run.returncode, run.stdout.strip()) == (
        0,
        "3 figures in both, 0 of them changed by more than 1.2 times",
    )


def test_a_slowdown_shows(tmp_path: Path) -> None:
    run = _run(tmp_path, OLD.replace("2.5 ", "4.0 "))
    assert run.returncode == 1
    assert "| Speed | log / ours | ms | 2.5 | 4 | 1.60 |" in run.stdout


def test_a_lost_row_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path, OLD.replace("| log | theirs | 1,250 | - |\n", ""))
    assert "only in old: 1 figures of 'Speed'" in run.stdout
