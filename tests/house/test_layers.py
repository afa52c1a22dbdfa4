"""The layers: checked by import-linter, and no package escapes the check."""

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.house.tree import ROOT, sources

LINT = Path(sys.executable).with_name("lint-imports")


def _layers() -> set[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {module.strip() for row in rows for module in row.split("|")}


def test_imports_point_down_only() -> None:
    done = subprocess.run(
        [LINT, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_part_of_the_package_is_in_a_layer() -> None:
    below = {path.relative_to(ROOT).parts[1] for path in sources("share_registry")} - {
        "__init__.py"
    }
    assert {f"share_registry.{part.removesuffix('.py')}" for part in below} == _layers()
