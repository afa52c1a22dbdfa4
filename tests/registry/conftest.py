"""Registries of this test's own, over both databases, and the real adapters of the project."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import share_registry as sr
from tests.conftest import url_of

DEMO = Path(sr.__file__).parent / "demo_data"
SPACE = "all-minilm-l6-v2"

Open = Callable[..., sr.Registry]


@pytest.fixture(params=("sqlite", "postgresql"))
def open_registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open the same registry again and again, over one of the databases."""
    url = url_of(request, tmp_path)
    opened: list[sr.Registry] = []

    def make(**options: object) -> sr.Registry:
        registry = sr.Registry.open(url, store=tmp_path / "store", **options)  # type: ignore[arg-type]
        opened.append(registry)
        return opened[-1]

    yield make
    for registry in opened:
        registry.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[sr.Registry]:
    """A registry with the embedded catalog."""
    with sr.Registry.open(tmp_path / "registry") as opened:
        yield opened
