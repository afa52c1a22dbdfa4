"""vLLM's own modules, as far as a resolver sees them.

They are those of the wheel that $VLLM_WHEEL names, where it does (it is too large to be fetched for
every run), else the shapes recorded from 0.33.0 in `shapes/`. `python -m tests.serving.check_vllm`
compares both.
"""

import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import share_registry as sr
from tests.cli.tiny import write_adapter
from tests.serving.http_clients import ATTACHED, client_of

SHAPES = Path(__file__).parent / "shapes"
MEMBERS = ("vllm/lora/request.py", "vllm/lora/resolver.py")


def unpack(wheel: Path, root: Path) -> None:
    """Write the modules of a wheel that a resolver sees, and what they import at least."""
    with zipfile.ZipFile(wheel) as archive:
        for member in MEMBERS:
            (root / member).parent.mkdir(parents=True, exist_ok=True)
            (root / member).write_bytes(archive.read(member))
    for package in ("vllm", "vllm/lora"):
        (root / package / "__init__.py").touch()
    (root / "vllm" / "logger.py").write_text("from logging import getLogger as init_logger\n")


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make `import vllm.lora.resolver` and `vllm.lora.request` work, anew for each test."""
    wheel = os.environ.get("VLLM_WHEEL")
    root = SHAPES
    if wheel:
        root = tmp_path / "wheel"
        unpack(Path(wheel), root)
    monkeypatch.syspath_prepend(str(root))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def http_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of cola and one of sst2; prod is cola@v1 and sst2@v1."""
    root = tmp_path_factory.mktemp("committed")
    with sr.Registry.open(root / "registry") as opened:
        for seed, task in enumerate(("cola", "sst2", "cola")):
            source = write_adapter(root / f"in{seed}", seed=seed, layers="model.layers")
            if not seed:
                (source / "train_log.json").write_bytes(ATTACHED)
            opened.commit(source, task=task)
        opened.set_alias("cola@v1", "prod")
        opened.set_alias("sst2", "prod")
    return root / "registry"


@pytest.fixture
def http_place(http_registry: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(http_registry, tmp_path / "registry"))


@pytest.fixture(scope="module")
def client(http_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a registry that nobody writes to meanwhile."""
    with ExitStack() as stack:
        yield client_of(stack, http_registry, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack
