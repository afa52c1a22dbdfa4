"""Create spaces, and set their policy."""

from collections.abc import Sequence
from typing import Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.provenance import policy_change
from share_registry.catalog.queries.resolution import space_of
from share_registry.catalog.sql import Session
from share_registry.errors import ConflictError, InvalidInputError
from share_registry.format.records import (
    BaseModelBody,
    CreateRecord,
    PolicyBody,
    PolicyRecord,
    decimal,
)
from share_registry.names import CommitNumber, SpaceName, space_name
from share_registry.registry.commands.annotate import publish_change
from share_registry.registry.commands.publish import Place, publish
from share_registry.registry.commands.targets import CommitTarget, existing_target
from share_registry.registry.context import Context
from share_registry.values.commits import Commit
from share_registry.values.policy import Policy

_MAX_LABELS: Final = 64


def create_space(
    context: Context,
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
    space = space_name(name)
    label = base_model if base_model is not None else space
    _check_labels([label, *base_labels], base_revision)
    context.catch_up()
    with context.catalog.begin() as session:
        present = None
        if space in lookups.space_names(session):
            present = existing_target(session, space)
    exists = ConflictError(
        f"space {space!r} exists.", hint="Pick another name, or give exist_ok=True."
    )
    if present is not None and not exist_ok:
        raise exists
    if present is not None:
        _check_same_base(present, base_model, base_revision, base_labels)
        return space

    def build(_: Session, place: Place) -> CreateRecord | CommitNumber:
        if place["number"] != 1:
            return CommitNumber(1)
        others = sorted(set(base_labels) - {label})
        base = BaseModelBody(label=label, revision=base_revision, labels=others)
        return CreateRecord.model_validate(
            place | {"base_model": base, "policy": _policy_body(policy or Policy())}
        )

    _, created = publish(context, space, build)
    if not created and not exist_ok:
        raise exists
    return space


def set_policy(context: Context, space: str | None, policy: Policy) -> Commit:
    """Publish a space's policy, which holds for later commits.

    Where it has that policy already, return the commit that set it. Raises NotFoundError.
    """

    def build(session: Session, place: Place) -> PolicyRecord | CommitNumber:
        if existing_target(session, name).policy == policy:
            return policy_change(session, name)
        return PolicyRecord.model_validate(place | {"policy": _policy_body(policy)})

    context.require_writable()
    with context.reading() as session:
        name = space_of(session, space)
    return publish_change(context, name, build, "")


def _policy_body(policy: Policy) -> PolicyBody:
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


def _check_same_base(
    space: CommitTarget, label: str | None, revision: str | None, labels: Sequence[str]
) -> None:
    """Check that a space that exists says the same of its base model. Raises ConflictError."""
    differs = (
        (label is not None and label not in space.labels)
        or (revision is not None and revision != space.base_revision)
        or not set(labels) <= set(space.labels)
    )
    if differs:
        at_revision = f" at {space.base_revision}" if space.base_revision else ""
        raise ConflictError(
            f"space {space.name!r} exists with base model {', '.join(space.labels)}{at_revision}.",
            hint="Pick another name.",
        )
