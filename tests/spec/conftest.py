"""What tests that measure a reader share."""

import pytest

from tests.spec import readers
from tests.spec.readers import VECTORS


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what reading a store needs, once: it is no part of what a vector costs."""
    root = tmp_path_factory.mktemp("warm")
    readers.read_all(readers.unpack(VECTORS / "good" / "lanes", root / "store"), root / "out")
