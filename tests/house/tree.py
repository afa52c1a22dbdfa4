"""The files of the repository, as its tests see them."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_SKIPPED: Final = frozenset({".git", ".venv", "build", "dist", "__pycache__"})


@cache
def files() -> tuple[Path, ...]:
    """Return every file that belongs to the repository: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    else:
        names = (
            path for path in ROOT.rglob("*") if not _SKIPPED & set(path.relative_to(ROOT).parts)
        )
    return tuple(sorted(path for path in names if path.is_file()))


def sources(*folders: str) -> list[Path]:
    """Return the Python files, of the named top-level folders if any are named."""
    return [
        path
        for path in files()
        if path.suffix == ".py" and (not folders or path.relative_to(ROOT).parts[0] in folders)
    ]


def name(path: Path) -> str:
    """Return a path as printed: relative to the repository."""
    return path.relative_to(ROOT).as_posix()
