"""Starting is quick, and what a verb does not need is not imported."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house.tree import ROOT

HEAVY = {
    "torch",
    "numpy",
    "sqlalchemy",
    "alembic",
    "pydantic",
    "safetensors",
    "zstandard",
    "huggingface_hub",
    "peft",
    "rich",
    "transformers",
    "fastapi",
    "starlette",
    "uvicorn",
}
HELP_LIMIT_S = 0.3
CATALOG_LIMIT = 1.5
"""Times `import sqlalchemy.orm`, whole process."""
TRIES = 20


def _loaded(code: str) -> set[str]:
    """Return the heavy packages that a fresh interpreter has loaded after running some code."""
    script = f"{code}\nimport sys\nprint('loaded:', *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return HEAVY & set(done.stdout.rpartition("loaded:")[2].split())


def _verb(*arguments: object) -> str:
    texts = [str(argument) for argument in arguments]
    return f"from share_registry.cli.main import main\nassert main({texts!r}) == 0"


def _cpu_s(*command: object) -> float:
    """Return the processor time of a fresh interpreter.

    What else the machine does counts little.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _settles(holds: Callable[[], bool]) -> bool:
    """Tell whether something measured holds in one of many tries.

    After so many only a busy machine could be blamed.
    """
    return any(holds() for _ in range(TRIES))


@pytest.mark.parametrize(
    "code",
    ["import share_registry", _verb("--help"), _verb("commit", "--help"), _verb("--version")],
)
def test_import_and_help_load_nothing_heavy(code: str) -> None:
    assert _loaded(code) == set()


def test_the_check_sees_what_is_loaded() -> None:
    assert _loaded("import numpy") == {"numpy"}


def test_help_starts_within_its_limit() -> None:
    assert _settles(lambda: _cpu_s("-m", "share_registry.cli.main", "--help") < HELP_LIMIT_S)


@pytest.mark.parametrize(
    "verb", [("log",), ("ls",), ("lineage", "cola@v1"), ("resolve", "cola@v1"), ("aliases",)]
)
def test_catalog_verbs_load_no_tensors(small_registry: Path, verb: tuple[str, ...]) -> None:
    assert _loaded(_verb("-R", small_registry, *verb)) <= {"sqlalchemy"}


def test_verify_loads_no_torch(small_registry: Path) -> None:
    assert "torch" not in _loaded(_verb("-R", small_registry, "verify"))


@pytest.mark.parametrize("verb", [("log",), ("ls",), ("lineage", "cola@v1")])
def test_catalog_verbs_start_within_their_limit(
    small_registry: Path, verb: tuple[str, ...]
) -> None:
    floors: list[float] = []
    times: list[float] = []

    def holds() -> bool:
        floors.append(_cpu_s("-c", "import sqlalchemy.orm"))
        times.append(_cpu_s("-m", "share_registry.cli.main", "-R", small_registry, *verb))
        return len(times) > 2 and min(times) <= CATALOG_LIMIT * min(floors)

    assert _settles(holds), f"{min(times):.3f} s against {min(floors):.3f} s"
