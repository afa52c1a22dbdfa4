"""What an import did: the objects of a registry, and what became of each source."""

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from share_registry.names import Digest
from share_registry.values.imports import ImportReport


def adapters_of(registry: sr.Registry) -> dict[str, Digest]:
    """Return the adapter objects of all versions."""
    with registry.context.reading() as session:
        return {row.ref: row.adapter_digest for row in version_lookups.all_versions(session)}


def statuses(report: ImportReport) -> list[str]:
    """Return what became of the sources, in their order."""
    return [outcome.status.value for outcome in report.outcomes]
