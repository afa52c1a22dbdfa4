"""A place for the many small directories that these tests make and throw away."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where the system has such a place.

    Nothing here depends on a real medium.
    """
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="share-registry-", dir=memory))
    yield path
    shutil.rmtree(path, ignore_errors=True)
