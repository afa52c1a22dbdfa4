"""Which versions an adapter is: as it was committed, or as it was checked out or exported."""

from collections.abc import Mapping
from typing import Any

from share_registry.catalog.queries.named_tasks import spaces_in_scope
from share_registry.catalog.queries.version_lookups import versions_of_content
from share_registry.errors import NotFoundError, ensure
from share_registry.exchange.export_files import digest_of_tensors
from share_registry.exchange.load import load
from share_registry.exchange.peft_directory import digest_without_files
from share_registry.exchange.places import with_format
from share_registry.format.canonical import sha256
from share_registry.names import Digest
from share_registry.registry.context import Context
from share_registry.values.references import Identity
from share_registry.values.task_version import TaskVersion


def identify(
    context: Context, source: Any, *, space: str | None, format: str | None = None
) -> list[Identity]:
    """Return the versions that an adapter is, the newest first.

    Raises:
        InvalidInputError: nothing that can be read as an adapter.
        NotFoundError: no version is it.
    """
    source = with_format(source, format)
    _, adapter, _ = load(source, task="asked", adapter_name=None, outside=context.outside)
    tensors = digest_of_tensors(adapter)
    config = sha256(adapter.config_bytes)
    sources = {adapter.source_digest: "as committed"}
    with context.reading() as session:
        spaces = spaces_in_scope(session, space)
        rows = versions_of_content(session, spaces, source=adapter.source_digest, tensors=tensors)
        if not rows and adapter.attachments:
            # such as a checkpoint of a training whose steps were committed from memory
            bare = digest_without_files(adapter)
            sources[bare] = "without its other files"
            rows = versions_of_content(session, spaces, source=bare, tensors=tensors)
    ensure(
        rows,
        NotFoundError(
            f"no version is the adapter at {adapter.source.location or 'hand'}.",
            hint="`similar` lists the nearest tasks. A portable export's README.md names its"
            " version.",
        ),
    )
    return [_identity(row, sources=sources, config=config) for row in rows]


def _identity(row: TaskVersion, *, sources: Mapping[Digest, str], config: str) -> Identity:
    exported = "as exported" if row.config_digest == config else "its tensors, another config"
    form = sources.get(row.source_digest, exported)
    return Identity(
        ref=row.ref,
        space=row.space,
        task=row.task,
        version=row.version,
        number=row.number,
        id=row.commit_id,
        form=form,
        live=row.live,
        removed=row.removed,
    )
