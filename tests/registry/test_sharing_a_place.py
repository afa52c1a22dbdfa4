"""A directory that a group shares: what is created in it is the group's too."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import share_registry as sr
from tests.house.tree import ROOT
from tests.registry.conftest import DEMO

FIRST, SECOND = DEMO / "wn-pos-gloss" / "v1", DEMO / "wn-pos-gloss" / "v2"
GROUP = 54321
AS_USER = """
import os, sys
import share_registry as sr
place, adapter, user, group = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with sr.Registry.open("memory://") as registry:  # loads what is read from the disk of root
    registry.commit(adapter, task="x"), registry.tag("t", "x"), registry.verify("deep")
os.umask(0o077)
if os.getuid() == 0:
    os.setgroups([]), os.setgid(group), os.setuid(user)
with sr.Registry.open(place) as registry:
    registry.tag(f"by-{user}", "x")
    print(registry.commit(adapter, task=f"of-{user}", author=str(user)).ref)
    print(registry.verify("deep").ok)
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory with the setgid bit that its group may write, and everybody can reach."""
    place = Path(tempfile.mkdtemp(prefix="sr-shared-"))
    place.chmod(0o2775)
    yield place
    shutil.rmtree(place)


@pytest.fixture(params=[0o002, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _modes(place: Path) -> dict[str, int]:
    return {
        path.relative_to(place).as_posix(): path.stat().st_mode for path in sorted(place.rglob("*"))
    }


def _is_written_to(name: str) -> bool:
    """Tell whether a file changes in its place: the others are replaced as a whole, or never."""
    is_beside = ".head-" in name or ".spare-" in name
    return "catalog.sqlite" in name and not is_beside


def test_everything_in_a_shared_directory_is_the_groups(shared: Path, umask: int) -> None:
    with sr.Registry.open(shared / "registry") as registry:
        registry.commit(FIRST, task="x")
        registry.refit(max_rank=2, allow_loss=True)
    for name, mode in _modes(shared).items():
        needed = stat.S_IRGRP
        if stat.S_ISDIR(mode):
            needed |= stat.S_IWGRP | stat.S_IXGRP | stat.S_ISGID
        elif _is_written_to(name):
            needed |= stat.S_IWGRP
        assert mode & needed == needed, f"{name} {mode:o}"


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077], indirect=True)
def test_elsewhere_the_umask_decides(tmp_path: Path, umask: int) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.create_space("tiny")
    for name, mode in _modes(tmp_path / "registry").items():
        full = 0o777 if stat.S_ISDIR(mode) else 0o666 if _is_written_to(name) else 0o444
        assert stat.S_IMODE(mode) == full & ~umask, f"{name} {mode:o}"


def test_two_users_of_a_group_write_to_one_registry(shared: Path) -> None:
    """Only root can be other users; with less, it is one user under two names."""
    if os.getuid() == 0:
        os.chown(shared, 0, GROUP)
        shared.chmod(0o2775)
    with sr.Registry.open(shared / "registry") as registry:
        registry.commit(FIRST, task="x")
    adapter = shared / "adapter"
    shutil.copytree(SECOND, adapter)
    for user in (12345, 12346):
        done = subprocess.run(
            [sys.executable, "-c", AS_USER, *map(str, (shared / "registry", adapter, user, GROUP))],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [f"all-minilm-l6-v2/of-{user}@v1", "True"]
    with sr.Registry.open(shared / "registry") as registry:
        assert {task.name for task in registry.tasks()} == {"x", "of-12345", "of-12346"}
