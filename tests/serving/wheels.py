"""A few modules of a wheel that is too large to install, with empty ones in place of the others."""

import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any


class Anything(ModuleType):
    """A module that has every name: a class without members."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        kind = type(name, (), {})
        setattr(self, name, kind)
        return kind


def import_from(wheel: Path, members: Iterable[str], root: Path) -> None:
    """Make modules of a wheel importable in this process.

    Args:
        wheel: The file.
        members: Their files in it.
        root: Where they are unpacked.
    """
    members = set(members)
    with zipfile.ZipFile(wheel) as archive:
        for member in members:
            (root / member).parent.mkdir(parents=True, exist_ok=True)
            (root / member).write_bytes(archive.read(member))
        others = {name for name in archive.namelist() if name.endswith(".py")} - members
    for folder in {parent for member in members for parent in Path(member).parents}:
        others.discard(str(folder / "__init__.py"))
        if folder != Path():
            (root / folder / "__init__.py").touch()
    for other in others:
        name = other.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        sys.modules[name] = Anything(name)
    sys.path.insert(0, str(root))
