"""Put back what is lost of a version when its adapter is committed again.

A commit of what is stored already makes no version. It is the moment at which the adapter is there,
so the objects of the version are read once: what is missing or damaged is coded again as it was,
against what the space had before the version's commit. Where that gives the same digests, the
objects are put in their places; else the caller is told what helps. A note has the time of its
commit and is never made again.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from share_registry.errors import IntegrityError, NotFoundError, ShareRegistryError, ensure
from share_registry.names import CommitNumber, Digest, TaskName, first_and_more
from share_registry.registry.commands.commit_plan import CommitPlan, CommitRequest
from share_registry.registry.commands.encode import EncodedAdapter, encode_adapter, named_objects
from share_registry.registry.context import Context
from share_registry.registry.log_entries import read_note
from share_registry.registry.object_uses import uses_of
from share_registry.store.protocol import Store
from share_registry.values.policy import overridden
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)


def heal_unchanged(context: Context, plan: CommitPlan, request: CommitRequest) -> None:
    """Put back the lost objects of the versions that a commit leaves as they are.

    Raises:
        IntegrityError: some of them cannot be made again; what can be is put back all the same.
    """
    lost = {task: [*_lost_objects(context, row)] for task, row in plan.unchanged.items()}
    lost = {task: digests for task, digests in lost.items() if digests}
    if not lost:
        return
    context.forget_decoded()
    objects = _made_again(context, plan, request, lost)
    for task, digests in sorted(lost.items()):
        again = [digest for digest in digests if digest in objects]
        _put_back(context, plan.unchanged[task], again, objects, dry_run=request.options.dry_run)
    context.forget_decoded()
    for task, digests in sorted(lost.items()):
        left = [digest[:8] for digest in digests if digest not in objects]
        ensure(
            not left,
            IntegrityError(
                f"{plan.unchanged[task].ref} is this adapter already; of what it needs, "
                f"{first_and_more(left, 3)} cannot be read and cannot be made again from it.",
                hint="Bring them back from a copy: `share-registry repair --from DIRECTORY`; or "
                "make a new version of it: allow_duplicate=True.",
            ),
        )


def _put_back(
    context: Context,
    row: TaskVersion,
    digests: Sequence[Digest],
    objects: Mapping[Digest, bytes],
    *,
    dry_run: bool,
) -> None:
    """Put objects of a version in their places, and say so."""
    for digest in () if dry_run else digests:
        context.store.put(objects[digest], digest)
    if digests:
        _LOG.warning(
            "%s %s, without a new version: put back what could not be read (%s)",
            row.ref,
            "would be healed" if dry_run else "is healed",
            first_and_more([digest[:8] for digest in digests], 3),
        )


def _lost_objects(context: Context, row: TaskVersion) -> Iterator[Digest]:
    """Yield what a version is read from, directly or not, and cannot be read, each read once."""
    store = context.store.uncached()
    note = read_note(store, row.note_digest)
    files = [] if note is None else sorted(named_objects(note.of(row.note_task)))
    pending = [(digest, digest == row.adapter_digest) for digest in (*row.objects, *files)]
    seen = set()
    for digest, is_decoded in pending:
        if (digest, is_decoded) in seen:
            continue
        seen.add((digest, is_decoded))
        content = _content(store, digest)
        if content is None:
            yield digest
        elif is_decoded and (uses := uses_of(content)) is not None:
            pending += [(each, each == uses.previous) for each in uses]


def _content(store: Store, digest: Digest) -> bytes | None:
    try:
        return store.get(digest)
    except (NotFoundError, IntegrityError):
        return None


def _made_again(
    context: Context,
    plan: CommitPlan,
    request: CommitRequest,
    lost: Mapping[TaskName, list[Digest]],
) -> dict[Digest, bytes]:
    """Return the objects of versions, coded as they were; of each commit in the order of tasks."""
    objects: dict[Digest, bytes] = {}
    numbers = {plan.unchanged[task].number for task in lost}
    siblings: dict[CommitNumber, list[EncodedAdapter]] = {}
    for _, row in sorted(plan.unchanged.items()):
        if row.number not in numbers:
            continue
        before = siblings.setdefault(row.number, [])
        try:
            encoded = _encode_as_of(context, plan, request, row, before)
        except ShareRegistryError as error:
            _LOG.info("%s cannot be coded again: %s", row.ref, error)
            continue
        before.append(encoded)
        objects.update(encoded.objects)
    return objects


def _encode_as_of(
    context: Context,
    plan: CommitPlan,
    request: CommitRequest,
    row: TaskVersion,
    siblings: list[EncodedAdapter],
) -> EncodedAdapter:
    """Encode an adapter as the commit of a version did, upon what the space had before it."""
    note = read_note(context.store, row.note_digest)
    is_kept = note is not None and bool(note.of(row.note_task).original)
    return encode_adapter(
        context,
        row.space,
        row.task,
        request.batch.read(row.task),
        policy=overridden(plan.target.policy, budget=row.budget, keep_original=is_kept),
        parents=plan.parents[row.task],
        siblings=siblings,
        at=CommitNumber(row.number - 1),
    )
