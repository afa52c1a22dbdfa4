"""Starting is quick: what a verb does not need is not imported.

How long it takes is measured by `python -m benchmarks.starting`.
"""

import subprocess
import sys
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
CATALOG = "import sqlalchemy.orm, sqlalchemy.dialects.postgresql, sqlalchemy.dialects.sqlite"
"""What a catalog cannot do without."""
MOST_FOR_HELP = 240
MOST_FOR_A_CATALOG_VERB = 130
"""Beside those of `CATALOG`."""


def _modules(code: str) -> set[str]:
    """Return what a fresh interpreter has loaded after running some code."""
    script = f"{code}\nimport sys\nprint('loaded:', *sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("loaded:")[2].split())


def _loaded(code: str) -> set[str]:
    return HEAVY & _modules(code)


def _verb(*arguments: object) -> str:
    texts = [str(argument) for argument in arguments]
    return f"from share_registry.cli.main import main\nassert main({texts!r}) == 0"


@pytest.mark.parametrize(
    "code",
    ["import share_registry", _verb("--help"), _verb("commit", "--help"), _verb("--version")],
)
def test_import_and_help_load_nothing_heavy(code: str) -> None:
    assert _loaded(code) == set()


def test_the_check_sees_what_is_loaded() -> None:
    assert _loaded("import numpy") == {"numpy"}


def test_help_loads_few_modules() -> None:
    assert len(_modules(_verb("--help"))) <= MOST_FOR_HELP


@pytest.mark.parametrize(
    "verb", [("log",), ("ls",), ("lineage", "cola@v1"), ("resolve", "cola@v1"), ("aliases",)]
)
def test_catalog_verbs_load_no_tensors(small_registry: Path, verb: tuple[str, ...]) -> None:
    assert _loaded(_verb("-R", small_registry, *verb)) <= {"sqlalchemy"}


def test_verify_loads_no_torch(small_registry: Path) -> None:
    assert "torch" not in _loaded(_verb("-R", small_registry, "verify"))


@pytest.mark.parametrize("verb", [("log",), ("ls",), ("lineage", "cola@v1")])
def test_catalog_verbs_load_few_modules(small_registry: Path, verb: tuple[str, ...]) -> None:
    beside = _modules(_verb("-R", small_registry, *verb)) - _modules(CATALOG)
    assert len(beside) <= MOST_FOR_A_CATALOG_VERB, sorted(beside)
