"""Registries of this test's own, over both databases, and the real adapters of the project."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import share_registry as sr
from tests.cli.tiny import write_adapter
from tests.conftest import url_of
from tests.registry.syncing import TASKS

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


@pytest.fixture(scope="session")
def prod_committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks with prod at v1, and a v2 of the first."""
    root = tmp_path_factory.mktemp("committed")
    with sr.Registry.open(root / "registry") as opened:
        for seed, task in enumerate((*TASKS, "cola")):
            opened.commit(write_adapter(root / f"in{seed}", seed=seed), task=task)
        for task in TASKS:
            opened.set_alias(f"{task}@v1", "prod")
    return root / "registry"


@pytest.fixture
def prod_registry(prod_committed: Path, tmp_path: Path) -> Iterator[sr.Registry]:
    """One of its own, at tmp_path / "registry"."""
    shutil.copytree(prod_committed, tmp_path / "registry")
    with sr.Registry.open(tmp_path / "registry") as opened:
        yield opened


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A small adapter of no registry yet."""
    return write_adapter(tmp_path / "cola", seed=1)
