"""`doctor`: what this machine and this registry are like, read only."""

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import click

from share_registry.cli.output import Printed, complain, emit
from share_registry.cli.session import Session, session
from share_registry.cli.verb import with_common_options
from share_registry.errors import InvalidInputError, ShareRegistryError, StoreError, ensure
from share_registry.look.units import size
from share_registry.outside.files import Outside

P = TypeVar("P")
# A part that was looked at: its name, and its state or why it is not well
_Check: TypeAlias = tuple[str, str | ShareRegistryError]
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
    "obstore": "needed for a store in a bucket",
    "peft": "needed to commit live models and for apply_to",
    "psycopg": "needed for a catalog on PostgreSQL",
    "starlette": "needed to serve",
    "uvicorn": "needed to serve",
}


@with_common_options
@click.command("doctor")
@click.pass_context
def doctor(context: click.Context) -> None:
    """Say what of this machine and registry is not well."""
    asked = session()
    states = dict([*_packages(), *_registry(asked)])
    errors = {
        name: state for name, state in states.items() if isinstance(state, ShareRegistryError)
    }
    title = f"{len(errors)} of {len(states)} checks failed" if errors else "all is well"
    members = states | {name: error.message for name, error in errors.items()}
    emit(Printed(title=title, members=members, detailed=True), asked)
    for name, error in errors.items():
        complain(error, asked, root=context.find_root().command, json_wanted=asked.json, about=name)
    for error in errors.values():
        context.exit(error.exit_code)


def _packages() -> Iterator[_Check]:
    from importlib import metadata

    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in _PACKAGES:
        yield name, metadata.version(name)
    for name, purpose in _OPTIONAL.items():
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, f"not installed ({purpose})"


def _registry(asked: Session) -> Iterator[_Check]:
    from share_registry.catalog import catalog

    location = asked.locate()
    root, url = location.root, location.catalog_url
    if not location.is_kept or url is None:
        raise InvalidInputError(
            "a registry in memory has nothing to look at.", hint="Name a directory."
        )
    yield "store", location.address
    if root is not None:
        yield "store directories", _look(_directories, root)
        yield "write access", _write_access(root)
    # of a store in a bucket, of what is kept of it here
    if (folder := root or location.index) is not None:
        yield "free space", _free_space(folder)
    yield "catalog schema", _look(catalog.check, url)
    yield "spaces", _look(_spaces, asked)


def _look(at: Callable[[P], str], place: P) -> str | ShareRegistryError:
    try:
        return at(place)
    except ShareRegistryError as error:
        return error


def _directories(root: Path) -> str:
    outside = Outside()
    if not outside.exists(root / "FORMAT"):
        return "none yet"
    there = [name for name in ("objects", "spaces") if outside.exists(root / name)]
    ensure(
        there != ["objects"],
        StoreError(
            f"{root} has no spaces/.", hint="Restore the directory from a copy of the store."
        ),
    )
    return ", ".join(["FORMAT", *(f"{name}/" for name in there)])


def _write_access(root: Path) -> str:
    """Say whether this user can commit. Who may only read is no failure."""
    outside = Outside()
    folders = [path for path in (root, root / "objects", root / "spaces") if outside.exists(path)]
    closed = [str(path) for path in folders if not outside.may_write(path)]
    if not closed:
        return "yes"
    return f"none: this user can only read the registry, as {closed[0]} is not writable"


def _free_space(root: Path) -> str:
    outside = Outside()
    whole = outside.absolute(root)
    nearest = next(path for path in (whole, *whole.parents) if outside.exists(path))
    return size(outside.free_bytes(nearest))


def _spaces(asked: Session) -> str:
    with asked.open("r") as registry:
        spaces = [f"{space.name} ({space.commits} commits)" for space in registry.spaces()]
        ends = registry.context.ends
        # that the last record of a log is gone hinders nobody from reading what is before it
        for error in (*ends.unknown.values(), *ends.lost.values()):
            raise error
    return ", ".join(spaces) or "none yet"
