"""Which space a commit goes to, and under which policy."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from share_registry.catalog.queries import lookups
from share_registry.errors import NotFoundError, RefusedError
from share_registry.exchange.base_model import BaseModelLabel, base_of, space_name_of
from share_registry.names import SpaceName, near_misses, space_name
from share_registry.values.policy import Policy

if TYPE_CHECKING:
    from share_registry.catalog.sql import Row, Session
    from share_registry.exchange.adapter import Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitTarget:
    """The space a commit goes to.

    Attributes:
        new: Whether it does not exist yet.
        labels: The base model's label and the other labels it is known by.
    """

    name: SpaceName
    base_revision: str | None
    labels: tuple[str, ...]
    policy: Policy
    new: bool = False


def space_for(session: "Session", adapters: "Sequence[Adapter]", space: str | None) -> CommitTarget:
    """Return the space named, or, where none is, the one of the adapters' base model, which may be new.

    Raises:
        NotFoundError: a named space does not exist.
        RefusedError: no space is named and the adapters do not say one base model.
    """
    if space is not None:
        return existing_target(session, space_name(space))
    base = _one_base(adapters)
    known = [
        found
        for found in (existing_target(session, name) for name in lookups.space_names(session))
        if base.label in found.labels
    ]
    name = space_name_of(base.label)
    taken = name in lookups.space_names(session)
    if len(known) == 1:
        return known[0]
    if known or taken:
        there = ", ".join(found.name for found in known) or f"{name} (of another base model)"
        raise RefusedError(
            f"base model {base.label!r} leads to no single space: {there}.",
            hint="Name the space with space= or -s.",
        )
    return CommitTarget(
        name=name, base_revision=base.revision, labels=(base.label,), policy=Policy(), new=True
    )


def policy_of(session: "Session", name: SpaceName) -> Policy:
    """Return the policy of a space. Raises NotFoundError."""
    row = lookups.space_row(session, name)
    if row is None:
        raise NotFoundError(f"space {name!r} does not exist.", hint="List them with `spaces`.")
    return policy_from_row(row)


def policy_from_row(row: "Row[Any]") -> Policy:
    """Return the policy in a row of the spaces."""
    return Policy(**{member.name: getattr(row, member.name) for member in fields(Policy)})


def check_base(target: CommitTarget, adapter: "Adapter", allow: bool) -> tuple[str, ...]:
    """Check that an adapter says the space's base model; return what is worth a remark.

    Raises RefusedError.
    """
    base = base_of(adapter.config)
    label, revision = base.label, base.revision
    if not label:
        return ("the adapter names no base model",)
    if label not in target.labels and not allow:
        raise RefusedError(
            f"the adapter was trained on {label!r}, space {target.name!r} is of {' or '.join(repr(known) for known in target.labels)}.",
            hint="If it is the same model under another name, give allow_base_mismatch=True, or create the space with base_labels.",
        )
    if label not in target.labels:
        return (f"base model label {label!r} is not known to the space; accepted on request",)
    if revision and target.base_revision and revision != target.base_revision:
        return (f"base revision {revision!r} differs from the space's {target.base_revision!r}",)
    return ()


def existing_target(session: "Session", name: SpaceName) -> CommitTarget:
    """Return a space that exists. Raises NotFoundError."""
    row = lookups.space_row(session, name)
    if row is None:
        raise NotFoundError(
            f"space {name!r} does not exist.",
            hint=near_misses(name, list(lookups.space_names(session)))
            + " Create it with create_space.",
        )
    return CommitTarget(
        name=name,
        base_revision=row.base_revision,
        labels=(row.base_model, *row.base_labels),
        policy=policy_from_row(row),
    )


def _one_base(adapters: "Sequence[Adapter]") -> BaseModelLabel:
    found = sorted({base_of(adapter.config) for adapter in adapters}, key=str)
    labels = sorted({base.label for base in found})
    if len(labels) > 1:
        raise RefusedError(
            f"the adapters are of several base models: {', '.join(label or 'none' for label in labels)}.",
            hint="Commit them space by space.",
        )
    if not labels[0]:
        raise RefusedError(
            "the adapter's config names no base model, so no space can be derived.",
            hint="Name the space with space= or -s.",
        )
    return found[0]
