"""A registry made by the command line itself, and a way to run one command."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from share_registry.cli.main import main
from tests.cli.tiny import write_adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Runner:
    """Runs `share-registry -R <registry> ...` in this process."""

    def __init__(self, registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.registry = registry
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> Ran:
        """Run a command that must end with an exit code."""
        self._capsys.readouterr()
        actual = main(["-R", str(self.registry), *map(str, arguments)])
        shown = self._capsys.readouterr()
        assert actual == code, f"exit code {actual}: {shown.err}"
        return Ran(code=actual, out=shown.out, err=shown.err)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty directory, without the variables that name a registry."""
    for name in (
        "SHARE_REGISTRY_URI",
        "SHARE_REGISTRY_STORE",
        "SHARE_REGISTRY_SPACE",
        "SHARE_REGISTRY_DEVICE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories cola, cola-2 (close to cola) and sst2."""
    root = tmp_path_factory.mktemp("adapters")
    write_adapter(root / "cola", seed=1)
    write_adapter(root / "cola-2", seed=2, near=1)
    write_adapter(root / "sst2", seed=3)
    return root


@pytest.fixture(scope="session")
def template(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with cola@v1, cola@v2, sst2@v1, an alias that moved and a tag."""
    registry = tmp_path_factory.mktemp("template") / "registry"
    for arguments in (
        ["init"],
        ["commit", adapters / "cola", "-m", "first", "--author", "ada", "--label", "team=search"],
        [
            "commit",
            adapters / "cola-2",
            "--task",
            "cola",
            "-m",
            "second",
            "--metric",
            "accuracy=0.93",
        ],
        ["commit", adapters / "sst2", "--author", "bob"],
        ["set-alias", "cola@v1", "prod", "--reason", "go"],
        ["set-alias", "cola@v2", "prod", "--reason", "better"],
        ["tag", "release-1", "cola@v2"],
    ):
        assert main(["-q", "-R", str(registry), *map(str, arguments)]) == 0
    return registry


@pytest.fixture
def run(template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Run commands on a copy of the template registry."""
    registry = tmp_path / "registry"
    shutil.copytree(template, registry)
    return Runner(registry, capsys)


@pytest.fixture
def run_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Run commands on a registry that does not exist yet."""
    return Runner(tmp_path / "new", capsys)


@pytest.fixture
def run_empty(run_new: Runner) -> Runner:
    """Run commands on a registry that was just created."""
    run_new("init")
    return run_new
