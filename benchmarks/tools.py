"""What three versions of one adapter take in tools that version files or arrays.

    python -m benchmarks.tools

Each of git, DVC, MLflow and Icechunk that is installed gets wn-pos-gloss v1, v2 and v3, which ship
with the project, one after another; counted is what its store grew by. They are no dependencies of
this project: `pip install dvc icechunk mlflow zarr` into an environment of its own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from safetensors.numpy import load_file

import share_registry as sr

TASK: Final = Path(sr.__file__).parent / "demo_data" / "wn-pos-gloss"
VERSIONS: Final = ("v1", "v2", "v3")
MODEL: Final = "adapter_model.safetensors"


def main() -> None:
    """Print a row for each tool."""
    raw = [_size(TASK / name) for name in VERSIONS]
    print(f"given: {_kilobytes(raw)}")
    print("| tool | v1, kB | v2, kB | v3, kB | together, kB | error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (package, measure) in _TOOLS.items():
        if package and find_spec(package) is None:
            print(f"| {name} | not installed |", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as directory:
            sizes = list(measure(Path(directory)))
        grown = [after - before for before, after in zip([0, *sizes], sizes, strict=False)]
        release = version(package) if package else _git_version()
        error = "at most 2.5 %" if name == "share_registry" else "none"
        print(f"| {name} {release} | {_kilobytes(grown)} | {sizes[-1] / 1e3:.0f} | {error} |")


def _share_registry(directory: Path, *, budget: float | None = None) -> Iterator[int]:
    with sr.Registry.open(directory / "registry") as registry:
        for name in VERSIONS:
            registry.commit(TASK / name, task="gloss", budget=budget)
            yield _size(directory / "registry", skip="catalog.sqlite")


def _git(directory: Path) -> Iterator[int]:
    _run(directory, "git", "init", "-q")
    for name in VERSIONS:
        shutil.copytree(
            TASK / name, directory / "gloss", dirs_exist_ok=True, copy_function=shutil.copyfile
        )
        _run(directory, "git", "add", "gloss")
        _run(directory, "git", "commit", "-qm", name)
        _run(directory, "git", "gc", "-q", "--aggressive", "--prune=now")
        yield _size(directory / ".git" / "objects")


def _dvc(directory: Path) -> Iterator[int]:
    _run(directory, "git", "init", "-q")
    _run(directory, sys.executable, "-m", "dvc", "init", "-q")
    for name in VERSIONS:
        shutil.copytree(
            TASK / name, directory / "gloss", dirs_exist_ok=True, copy_function=shutil.copyfile
        )
        _run(directory, sys.executable, "-m", "dvc", "add", "-q", "gloss")
        yield _size(directory / ".dvc" / "cache")


def _mlflow(directory: Path) -> Iterator[int]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
    experiment = mlflow.create_experiment(
        "gloss", artifact_location=f"file://{directory}/artifacts"
    )
    for name in VERSIONS:
        with mlflow.start_run(experiment_id=experiment):
            mlflow.log_artifacts(str(TASK / name), artifact_path="gloss")
        yield _size(directory / "artifacts")


def _icechunk(directory: Path) -> Iterator[int]:
    import icechunk
    import zarr

    storage = icechunk.local_filesystem_storage(str(directory / "repository"))
    repository = icechunk.Repository.create(storage)
    for name in VERSIONS:
        session = repository.writable_session("main")
        root: Any = zarr.open_group(session.store)
        for key, tensor in load_file(TASK / name / MODEL).items():
            root.create_array(key, data=tensor, overwrite=True)
        session.commit(name)
        yield _size(directory / "repository")


def _run(directory: Path, *command: str) -> None:
    who = {
        f"GIT_{role}_{part}": "a" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
    }
    subprocess.run(command, cwd=directory, check=True, env=os.environ | who, capture_output=True)


def _size(folder: Path, *, skip: str = "nothing") -> int:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if not path.name.startswith(skip))


def _kilobytes(sizes: list[int]) -> str:
    return " | ".join(f"{size / 1e3:.0f}" for size in sizes)


def _git_version() -> str:
    done = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


_TOOLS: Final[Mapping[str, tuple[str, Callable[[Path], Iterator[int]]]]] = {
    "share_registry": ("share_registry", _share_registry),
    "share_registry, budget 0,": (
        "share_registry",
        lambda directory: _share_registry(directory, budget=0),
    ),
    "git": ("", _git),
    "DVC": ("dvc", _dvc),
    "MLflow": ("mlflow", _mlflow),
    "Icechunk": ("icechunk", _icechunk),
}


if __name__ == "__main__":
    main()
