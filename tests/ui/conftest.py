"""One registry for all tests of pages, and the pages of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.ui.looking import looking_at, write_story


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with something for every page to show; nobody writes to it."""
    return write_story(tmp_path_factory.mktemp("story"))


@pytest.fixture(scope="module")
def pages(story: Path) -> Iterator[TestClient]:
    with looking_at(story) as client:
        yield client
