"""`doctor`: what this machine and this registry are like, read only."""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from share_registry.cli.output import Printed, complain, emit
from share_registry.cli.verb import Session, session, with_common_options
from share_registry.errors import InvalidInputError, ShareRegistryError, StoreError
from share_registry.outside.files import Outside

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
    """One thing looked at: what was found, and the error if it is not well."""

    name: str
    found: str
    error: ShareRegistryError | None = None


@click.command("doctor")
@click.pass_context
def _doctor(context: click.Context) -> None:
    """Say what of this machine and registry is not well."""
    asked = session()
    checks = [*_packages(), *_registry(asked)]
    bad = [check for check in checks if check.error]
    members = {check.name: check.found for check in checks}
    emit(
        Printed(
            title="all is well" if not bad else f"{len(bad)} of {len(checks)} checks failed",
            members=members,
            detailed=True,
        ),
        asked,
    )
    for check in bad:
        if check.error:
            complain(check.error, json_wanted=asked.json, about=check.name)
    if bad and bad[0].error:
        context.exit(bad[0].error.exit_code)


doctor: Final = with_common_options(_doctor)


def _packages() -> Iterator[Check]:
    from importlib import metadata

    yield Check(
        name="python",
        found=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
    )
    for name in _PACKAGES:
        yield Check(name=name, found=metadata.version(name))
    for name, purpose in _OPTIONAL.items():
        try:
            yield Check(name=name, found=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name=name, found=f"not installed ({purpose})")


def _registry(asked: Session) -> Iterator[Check]:
    location = asked.locate()
    root, url = location.root, location.catalog_url
    if root is None or url is None:
        raise InvalidInputError(
            "a registry in memory has nothing to look at.", hint="Name a directory."
        )
    yield Check(name="store", found=str(root))
    yield _checked("store directories", lambda: _directories(root))
    yield Check(name="free space", found=_free(root))
    yield _checked("catalog schema", lambda: _schema(url))
    yield _checked("spaces", lambda: _spaces(asked))


def _checked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name=name, found=look())
    except ShareRegistryError as error:
        return Check(name=name, found=error.message, error=error)


def _directories(root: Path) -> str:
    """Say which directories of a store are there.

    Raises StoreError where one that must be there is not.
    """
    outside = Outside()
    if not outside.exists(root / "FORMAT"):
        return "none yet"
    missing = [name for name in ("objects", "spaces") if not outside.exists(root / name)]
    if "spaces" in missing and outside.exists(root / "objects"):
        raise StoreError(
            f"{root} has no {missing[0]}/.", hint="Restore the directory from a copy of the store."
        )
    return f"FORMAT{''.join(f', {name}/' for name in ('objects', 'spaces') if name not in missing)}"


def _free(root: Path) -> str:
    from share_registry.values.units import size

    outside = Outside()
    whole = outside.absolute(root)
    return size(
        outside.free_bytes(next(path for path in (whole, *whole.parents) if outside.exists(path)))
    )


def _schema(url: str) -> str:
    from share_registry.catalog.catalog import check

    return check(url)


def _spaces(asked: Session) -> str:
    with asked.open("r") as registry:
        return (
            ", ".join(f"{space.name} ({space.commits} commits)" for space in registry.spaces())
            or "none yet"
        )
