"""Verbs about the catalog's schema; the store is never touched by them."""

import click

from share_registry.cli.output import Printed
from share_registry.cli.verb import free_verb, session, with_common_options
from share_registry.errors import InvalidInputError


@with_common_options
@click.group()
def db() -> None:
    """Look at or upgrade the schema of the catalog."""


def current() -> Printed:
    """Say which schema the catalog has."""
    from share_registry.catalog import catalog

    version = catalog.current(_url())
    return Printed(title=version or "no catalog", members={"schema": version})


def check() -> Printed:
    """Check that this release can use the catalog; exit code 6 otherwise."""
    from share_registry.catalog import catalog

    return _is_current(catalog.check(_url()))


def upgrade() -> Printed:
    """Bring the catalog to the newest schema, creating it where there is none."""
    from share_registry.catalog import catalog

    return _is_current(catalog.upgrade(_url()))


def _is_current(version: str) -> Printed:
    members = {"schema": version, "current": True}
    return Printed(title=f"schema {version} is current", members=members)


def _url() -> str:
    url = session().locate().catalog_url
    if url is None:
        raise InvalidInputError("a registry in memory keeps no catalog.", hint="Name a directory.")
    return url


for _function in (upgrade, current, check):
    db.add_command(free_verb(_function))
