"""A place for the many small directories that these tests make and throw away."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import share_registry as sr
from tests.cli.tiny import write_adapter
from tests.exchange.hub import serving
from tests.exchange.hub_state import Hub
from tests.reliability.copying import ELSEWHERE
from tests.reliability.hub_copying import READER, TOKEN


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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of two spaces, with versions that build upon others, attachments and aliases."""
    top = tmp_path_factory.mktemp("template")
    folders = [
        write_adapter(top / f"t{number}", seed=number, near=near)
        for number, near in enumerate((None, None, 0, 1))
    ]
    (folders[0] / "notes.txt").write_text("an attachment")
    with sr.Registry.open(top / "registry") as registry:
        registry.commit(folders[0], task="t0", message="why", keep_original=True)
        registry.commit(folders[1], task="t1", labels={"team": "search"})
        registry.commit(folders[2], task="t0", budget=0.2)
        registry.commit(folders[3], task="t1", budget=0)
        registry.set_alias("t0@v1", "prod")
        registry.create_space(ELSEWHERE, base_model="acme/elsewhere")
    return top


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A copy of the registry, file by file, for this test alone."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path / "registry"


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def hub(served: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """An empty Hub, with a token of somebody who may write to ann/."""
    served.clear()
    served.tokens = {TOKEN: {"ann"}, READER: set()}
    monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, value in {
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    return served


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A place to mount things on, unmounted afterwards."""
    place = tmp_path / "mounted"
    place.mkdir()
    yield place
    mounts = Path("/proc/self/mounts")  # os.path.ismount does not see a bind mount
    while mounts.exists() and str(place) in mounts.read_text():
        subprocess.run(["umount", str(place)], check=True)
