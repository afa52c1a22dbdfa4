"""A version on the Hugging Face Hub: the files of its export, by one commit there."""

from dataclasses import dataclass, replace

from share_registry.errors import InvalidInputError, ensure
from share_registry.exchange.attachments import TENSOR_FILE
from share_registry.exchange.hub_upload import HubTarget, parse_target, upload_files
from share_registry.registry.arguments import Said
from share_registry.registry.checkout.checkout import base_label, version_and_note
from share_registry.registry.checkout.version_export import ExportOptions, rebuild_files
from share_registry.registry.commands.interrupts import tells_of_interrupts
from share_registry.registry.commands.record_export import (
    ExportFacts,
    check_recording,
    record_export,
)
from share_registry.registry.context import Context
from share_registry.values.uploads import Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """What is to be uploaded, and where to; see `Registry.upload`."""

    ref: str
    location: str
    space: str | None
    options: ExportOptions
    private: bool
    create: bool
    message: str
    expected: str | None
    dry_run: bool


@tells_of_interrupts
def upload(context: Context, request: UploadRequest, *, record: bool, said: Said) -> Upload:
    """Upload a version and, where that is asked for, publish a record of it.

    Raises:
        As `upload_files`: nothing was recorded. As `record_export`, with a message that says that
            it was uploaded.
    """
    check_recording(context, said, record=record)
    ensure(
        not record or request.options.base_model is None,
        InvalidInputError(
            "base_model changes the files, and a record is of those that the version has.",
            hint="Leave out one of base_model and record.",
        ),
    )
    location = parse_target(request.location, request.expected)
    row, note = version_and_note(context, request.ref, request.space)
    # the card links to what the config names
    label = request.options.base_model or base_label(context, row.space)
    rebuilt = rebuild_files(context, row, note, options=request.options, label=label)
    target = HubTarget(
        location=location,
        private=request.private,
        create=request.create,
        expected=request.expected,
        ref=row.ref,
        digest=rebuilt.digest,
        message=request.message,
        dry_run=request.dry_run,
    )
    files = {name: bytes(content) for name, content in rebuilt.files.items()}
    state = upload_files(files, target, outside=context.outside)
    uploaded = Upload(
        location=target.place,
        ref=row.ref,
        digest=rebuilt.digest,
        profile=rebuilt.profile,
        commit=state.commit,
        parent=state.parent,
        written=state.written,
        removed=state.removed,
        created=state.created,
        dry_run=request.dry_run,
        notes=rebuilt.notes,
    )
    if not record or request.dry_run:
        return uploaded
    facts = ExportFacts(
        ref=row.ref,
        profile=rebuilt.profile,
        digest=rebuilt.digest,
        tensors=rebuilt.digests[TENSOR_FILE],
        host="",
        path=uploaded.pinned or uploaded.location,
        target="",
    )
    return replace(uploaded, recorded=record_export(context, facts, said))
