"""A small registry for the checks that need one."""

from pathlib import Path

import pytest

from share_registry.cli.main import main
from tests.cli.tiny import write_adapter


@pytest.fixture(scope="session")
def small_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with cola@v1 and an alias."""
    root = tmp_path_factory.mktemp("small")
    registry = root / "registry"
    assert main(["-q", "-R", str(registry), "init"]) == 0
    assert (
        main(["-q", "-R", str(registry), "commit", str(write_adapter(root / "cola", seed=1))]) == 0
    )
    assert main(["-q", "-R", str(registry), "set-alias", "cola@v1", "prod"]) == 0
    return registry
