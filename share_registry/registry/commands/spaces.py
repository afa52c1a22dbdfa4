"""Spaces: creating them, finding the one an adapter belongs to, and their policy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.provenance import policy_change
from share_registry.catalog.queries.resolution import space_of
from share_registry.errors import ConflictError, InvalidInputError
from share_registry.names import SpaceName, space_name
from share_registry.registry.commands.annotate import change
from share_registry.registry.commands.publish import Request, idempotency_key, publish
from share_registry.registry.commands.targets import CommitTarget, existing_target
from share_registry.values.commits import Commit
from share_registry.values.policy import Policy

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.format.records import CreateRecord, PolicyBody, PolicyRecord
    from share_registry.names import CommitNumber
    from share_registry.registry.commands.publish import Link
    from share_registry.registry.context import Context

_MAX_LABELS: Final = 64


def create_space(
    context: "Context",
    name: str,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
    base_labels: Sequence[str] = (),
    policy: Policy | None = None,
    exist_ok: bool = False,
) -> SpaceName:
    """Create a space as commit 1 of its log.

    Raises:
        InvalidInputError: malformed name or label.
        ConflictError: it exists (unless `exist_ok` and it says the same of the base model).
    """
    context.require_writable()
    wanted = space_name(name)
    label = base_model if base_model is not None else wanted
    _check_labels([label, *base_labels], base_revision)
    context.catch_up()
    with context.catalog.begin() as session:
        known = existing_target(session, wanted) if wanted in lookups.space_names(session) else None
    if known is not None:
        _check_same(known, base_model, base_revision, base_labels, exist_ok)
        return wanted

    def build(session: "Session", link: "Link") -> "CreateRecord | CommitNumber":
        return _create(link, label, base_revision, base_labels, policy or Policy())

    published = publish(context, wanted, Request(build=build, key=idempotency_key(context, None)))
    if not published.created and not exist_ok:
        raise ConflictError(
            f"space {wanted!r} exists.", hint="Pick another name, or give exist_ok=True."
        )
    return wanted


def set_policy(context: "Context", space: str | None, policy: Policy) -> Commit:
    """Publish a space's policy, which holds for later commits.

    Where it has that policy already, return the commit that set it. Raises NotFoundError.
    """
    from share_registry.format.records import PolicyRecord

    def build(session: "Session", link: "Link") -> "PolicyRecord | CommitNumber":
        if existing_target(session, link.space).policy == policy:
            return policy_change(session, link.space)
        return PolicyRecord.model_validate(link.members() | {"policy": _body(policy)})

    context.require_writable()
    with context.reading() as session:
        name = space_of(session, space)
    return change(context, name, build, "")


def _create(
    link: "Link", label: str, revision: str | None, labels: Sequence[str], policy: Policy
) -> "CreateRecord | CommitNumber":
    from share_registry.format.records import BaseModelBody, CreateRecord
    from share_registry.names import CommitNumber

    if link.number != 1:
        return CommitNumber(1)
    base = BaseModelBody(label=label, revision=revision, labels=sorted(set(labels) - {label}))
    return CreateRecord.model_validate(
        link.members() | {"base_model": base, "policy": _body(policy)}
    )


def _body(policy: Policy) -> "PolicyBody":
    from share_registry.format.records import PolicyBody, decimal

    return PolicyBody(
        budget=decimal(policy.budget),
        keep_original=policy.keep_original,
        references=policy.references,
        refit=policy.refit,
        pseudo_rank=policy.pseudo_rank,
        k=policy.k,
        phi=policy.phi,
    )


def _check_labels(labels: Sequence[str], revision: str | None) -> None:
    for label in labels:
        if not isinstance(label, str) or not 1 <= len(label) <= 512 or not label.isprintable():
            raise InvalidInputError(
                f"base model label {str(label)[:80]!r} is not 1 to 512 printable characters.",
                hint="Use the Hub id or a short name.",
            )
    if len(labels) > _MAX_LABELS:
        raise InvalidInputError(
            f"{len(labels)} base labels, at most {_MAX_LABELS} are allowed.",
            hint="Keep those that adapters really carry.",
        )
    if revision is not None and (not 1 <= len(revision) <= 128 or not revision.isprintable()):
        raise InvalidInputError(
            f"base revision {revision[:80]!r} is not 1 to 128 printable characters.",
            hint="Use the commit hash of the base model.",
        )


def _check_same(
    known: CommitTarget,
    label: str | None,
    revision: str | None,
    labels: Sequence[str],
    exist_ok: bool,
) -> None:
    if not exist_ok:
        raise ConflictError(
            f"space {known.name!r} exists.", hint="Pick another name, or give exist_ok=True."
        )
    differs = (
        (label is not None and label not in known.labels)
        or (revision is not None and revision != known.base_revision)
        or not set(labels) <= set(known.labels)
    )
    if differs:
        raise ConflictError(
            f"space {known.name!r} exists with base model {', '.join(known.labels)}{f' at {known.base_revision}' if known.base_revision else ''}.",
            hint="Pick another name.",
        )
