"""Exports that the log tells of: which version, when, by whom, and where to.

The files are written first, and what is recorded is what was written: an export that fails leaves
no record. A record that fails leaves the export, and the error says so.
"""

from dataclasses import dataclass, replace

from share_registry.catalog.queries.resolution import resolve_version
from share_registry.catalog.sql import Session
from share_registry.errors import (
    CommitStateUnknownError,
    InvalidInputError,
    RefusedError,
    ShareRegistryError,
    ensure,
)
from share_registry.exchange.adapter_files import text_of_path
from share_registry.format.layout import Entry
from share_registry.format.notes import EXPORT_HOST, EXPORT_PATH, EXPORT_TARGET, TaskNote
from share_registry.format.records import EXPORTS, ExportRecord, Record
from share_registry.names import CommitNumber, Digest
from share_registry.registry.arguments import Said
from share_registry.registry.checkout.version_export import ExportRequest, export_version
from share_registry.registry.commands.annotate import (
    check_reason,
    current_name,
    publish_change,
    resolve_target,
)
from share_registry.registry.commands.interrupts import tells_of_interrupts
from share_registry.registry.commands.publish import Place
from share_registry.registry.context import Context
from share_registry.values.checks import Export
from share_registry.values.commits import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """What a record and its note say of an export.

    Attributes:
        ref: The version.
        profile: "native" or "portable".
        digest: Digest of the export.
        tensors: sha256 of its tensor file.
        host: The machine on which it was written; "" for none.
        path: The directory, or the location on the Hub.
        target: The server that it is for; "" for any.
    """

    ref: str
    profile: str
    digest: Digest
    tensors: Digest
    host: str
    path: str
    target: str


@tells_of_interrupts
def export(context: Context, request: ExportRequest, *, record: bool, said: Said) -> Export:
    """Export a version and, where that is asked for, publish a record of it.

    Raises:
        As `export_version`: nothing was recorded. As `record_export`.
    """
    # spec REC-24 knows two profiles
    ensure(
        not record or not request.options.has_own_form,
        RefusedError(
            f"the log tells of directories of PEFT alone, and an export for"
            f" {request.options.target} is none.",
            hint="Export it without record, or record the export of a directory.",
        ),
    )
    check_recording(context, said, record=record)
    exported = export_version(context, request)
    if not record:
        return exported
    facts = ExportFacts(
        ref=exported.ref,
        profile=exported.profile,
        digest=exported.digest,
        tensors=exported.tensors,
        host=context.outside.host(),
        path=text_of_path(exported.path),
        target=exported.target or "",
    )
    return replace(exported, recorded=record_export(context, facts, said))


def check_recording(context: Context, said: Said, *, record: bool) -> None:
    """Check, before anything is written, that it could be recorded, where that is asked for.

    Raises InvalidInputError, RefusedError.
    """
    if record:
        context.require_writable()
        check_reason(said)
        return
    ensure(
        not said.reason and said.author is None,
        InvalidInputError(
            "a reason or an author is said of a record, and the export is not recorded.",
            hint="Give record=True too.",
        ),
    )


def record_export(context: Context, facts: ExportFacts, said: Said) -> str:
    """Publish a record of an export that was made; return its commit, such as minilm/@c7.

    Raises:
        As `publish`, with a message that begins with the place: it was exported, and is not
            recorded.
    """
    try:
        commit = _publish(context, facts, said)
    except CommitStateUnknownError as error:
        amended = error.amended(prefix=f"{facts.path} was exported; whether that is recorded: ")
        amended.hint = "Look with log(kind='export'), and where it is not there, export again."
        raise amended from error
    except ShareRegistryError as error:
        raise error.amended(
            prefix=f"{facts.path} was exported, but that is not recorded: ",
            hint="Export again to record it: the same files there are success.",
        ) from error
    return f"{commit.space}/@c{commit.number}"


def _publish(context: Context, facts: ExportFacts, said: Said) -> Commit:
    target = resolve_target(context, resolve_version, facts.ref, None)
    place = {EXPORT_HOST: facts.host, EXPORT_PATH: facts.path, EXPORT_TARGET: facts.target}

    def build(session: Session, members: Place) -> Record | CommitNumber:
        return ExportRecord.model_validate(
            members
            | {
                # the note names the task so too
                "task": current_name(session, target),
                "version": target.version,
                "profile": facts.profile,
                "digest": facts.digest,
                "tensors": facts.tensors,
                "requires": [EXPORTS],
            }
        )

    return publish_change(
        context,
        target.space,
        build,
        said,
        TaskNote(
            task=str(target.task),
            labels=[Entry(name=name, value=value) for name, value in place.items() if value],
        ),
    )
