"""`doctor`: what this machine and this registry are like, read only."""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import click

from share_registry.cli.output import Printed, complain, emit
from share_registry.cli.verb import Session, session, with_common_options
from share_registry.errors import InvalidInputError, ShareRegistryError, StoreError
from share_registry.outside.files import Outside
from share_registry.values.units import size

P = TypeVar("P")
_PACKAGES: Final = (
    "share-registry",
    "torch",
    "numpy",
    "safetensors",
    "zstandard",
    "sqlalchemy",
    "alembic",
    "pydantic",
    "huggingface_hub",
)
_OPTIONAL: Final = {
    "peft": "needed to commit live models and for apply_to",
    "psycopg": "needed for a catalog on PostgreSQL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One part that was looked at: its state, and the error if it is not well."""

    name: str
    state: str
    error: ShareRegistryError | None = None


@with_common_options
@click.command("doctor")
@click.pass_context
def doctor(context: click.Context) -> None:
    """Say what of this machine and registry is not well."""
    asked = session()
    checks = [*_packages(), *_registry(asked)]
    errors = {check.name: check.error for check in checks if check.error}
    title = f"{len(errors)} of {len(checks)} checks failed" if errors else "all is well"
    members = {check.name: check.state for check in checks}
    emit(Printed(title=title, members=members, detailed=True), asked)
    for name, error in errors.items():
        complain(error, json_wanted=asked.json, about=name)
    for error in errors.values():
        context.exit(error.exit_code)


def _packages() -> Iterator[Check]:
    from importlib import metadata

    system = f"{platform.system()} {platform.machine()}"
    yield Check(name="python", state=f"{platform.python_version()} on {system}")
    for name in _PACKAGES:
        yield Check(name=name, state=metadata.version(name))
    for name, purpose in _OPTIONAL.items():
        try:
            yield Check(name=name, state=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name=name, state=f"not installed ({purpose})")


def _registry(asked: Session) -> Iterator[Check]:
    from share_registry.catalog import catalog

    location = asked.locate()
    root, url = location.root, location.catalog_url
    if root is None or url is None:
        raise InvalidInputError(
            "a registry in memory has nothing to look at.", hint="Name a directory."
        )
    yield Check(name="store", state=str(root))
    yield _check("store directories", _directories, root)
    yield Check(name="free space", state=_free_space(root))
    yield _check("catalog schema", catalog.check, url)
    yield _check("spaces", _spaces, asked)


def _check(name: str, look: Callable[[P], str], place: P) -> Check:
    try:
        return Check(name=name, state=look(place))
    except ShareRegistryError as error:
        return Check(name=name, state=error.message, error=error)


def _directories(root: Path) -> str:
    """Return which directories of a store are there.

    Raises StoreError where one that must be there is not.
    """
    outside = Outside()
    if not outside.exists(root / "FORMAT"):
        return "none yet"
    there = [name for name in ("objects", "spaces") if outside.exists(root / name)]
    if there == ["objects"]:
        raise StoreError(
            f"{root} has no spaces/.", hint="Restore the directory from a copy of the store."
        )
    return ", ".join(["FORMAT", *(f"{name}/" for name in there)])


def _free_space(root: Path) -> str:
    outside = Outside()
    whole = outside.absolute(root)
    nearest = next(path for path in (whole, *whole.parents) if outside.exists(path))
    return size(outside.free_bytes(nearest))


def _spaces(asked: Session) -> str:
    with asked.open("r") as registry:
        spaces = [f"{space.name} ({space.commits} commits)" for space in registry.spaces()]
    return ", ".join(spaces) or "none yet"
