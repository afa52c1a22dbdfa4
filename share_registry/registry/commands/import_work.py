"""What the workers of an import do with one adapter, and what they are told.

Each function takes the worker's own registry and one adapter; what it returns is small enough to be
sent back for any number of adapters.
"""

from dataclasses import dataclass, replace
from os import PathLike

from share_registry.catalog.queries import version_lookups
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, parse_reference
from share_registry.registry.commands.commit_batch import load_adapters
from share_registry.registry.commands.commit_plan import within_space
from share_registry.registry.commands.import_request import ImportRequest
from share_registry.registry.commands.preconditions import check_options, is_kept_as_asked
from share_registry.registry.commands.prepare import Prepared, prepare_source
from share_registry.registry.commands.spaces import check_base, find_target, labels_known
from share_registry.registry.commands.statements import check_shapes
from share_registry.registry.context import Context
from share_registry.values.imports import ImportSource
from share_registry.values.policy import overridden
from share_registry.values.task_version import TaskVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """What is known of an adapter that was read and can be used.

    Attributes:
        space, task: Where it goes.
        source_digest: Equal for equal adapters.
        raw_bytes: Of its tensor file.
        versions: The versions of its task that are this adapter, kept as is asked.
        is_joint: Whether the space fits a basis to every commit, so that nothing is prepared.
        stands_alone: Whether it is coded without reference to others.
    """

    space: SpaceName
    task: TaskName
    source_digest: Digest
    raw_bytes: int
    versions: tuple[TaskVersion, ...]
    is_joint: bool
    stands_alone: bool


def survey(context: Context, source: ImportSource, request: ImportRequest) -> Surveyed:
    """Read and check one adapter, and find out where it goes by a catalog that has caught up.

    Raises what `commit` raises.
    """
    options = request.options_of(source)
    check_options(options, context.outside)
    for ref in options.derived_from:
        parse_reference(ref)
    named, space = within_space([(source.task, source.adapter)], request.space_of(source))
    batch = load_adapters(named, adapter_name=None, format=options.format, outside=context.outside)
    ((task, adapter),) = batch.adapters.items()
    with context.catalog.keep_connection(), context.catalog.begin() as session:
        target = find_target(session, context.store, [adapter], space)
        check_base(
            target,
            adapter,
            is_known=labels_known(session, context.store, target),
            allow_mismatch=options.allow_base_mismatch,
        )
        if not target.new:
            check_shapes(session, target.name, {task: adapter.layout})
        versions = version_lookups.versions_of_content(
            session, [target.name], source=adapter.source_digest, tensors="", task=task
        )
    policy = overridden(target.policy, budget=options.budget, keep_original=options.keep_original)
    return Surveyed(
        space=target.name,
        task=task,
        source_digest=adapter.source_digest,
        raw_bytes=adapter.raw_bytes,
        versions=tuple(
            version
            for version in reversed(versions)
            if version.live and is_kept_as_asked(context.store, version, options)
        ),
        is_joint=bool(policy.k),
        stands_alone=policy.budget == 0 or not policy.references,
    )


def prepare_one(
    context: Context, source: ImportSource, request: ImportRequest, at: CommitNumber | None
) -> Prepared:
    """Prepare one adapter as of a commit; its report has no modules. Raises as `prepare`."""
    prepared = prepare_source(
        context,
        source.adapter,
        source.task,
        request.space_of(source),
        request.options_of(source),
        at=at,
    )
    report = replace(prepared.encoded.report, modules=())
    return replace(
        prepared,
        encoded=replace(prepared.encoded, report=report),
        is_derived=prepared.is_derived or source.is_derived,
    )


def measure(context: Context, source: ImportSource, request: ImportRequest) -> tuple[int, float]:
    """Return the bytes that one adapter would add, and the seconds that coding it takes."""
    begun_s = context.outside.monotonic()
    prepared = prepare_source(
        context,
        source.adapter,
        source.task,
        request.space_of(source),
        replace(request.options_of(source), dry_run=True),
    )
    return prepared.encoded.new_bytes(context.store), context.outside.monotonic() - begun_s


def name_of(source: ImportSource) -> str:
    """Return what a report calls an adapter: its place, else its task."""
    if isinstance(source.adapter, str | PathLike):
        return str(source.adapter)
    return source.task or type(source.adapter).__name__
