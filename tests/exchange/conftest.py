"""Adapter directories as PEFT writes them, each made once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exchange import zoo


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory of a case; not to be changed."""
    root = tmp_path_factory.mktemp("zoo")

    def find(name: str) -> Path:
        return root / name if (root / name).exists() else zoo.save_live(name, root / name)

    return find


@pytest.fixture
def copied(original: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of a case's directory that a test may change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(original(name), tmp_path / name))

    return copy
