"""Spaces: creating them, finding the one an adapter belongs to, and their policy."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from share_registry.catalog import queries
from share_registry.errors import Conflict, InvalidInput, NotFound, Refused
from share_registry.exchange.base import Base, base_of, space_name_of
from share_registry.names import SpaceName, near_misses, space_name
from share_registry.registry.policy import Policy
from share_registry.registry.results import Commit
from share_registry.registry.transaction import Request, idempotency_key, publish

if TYPE_CHECKING:
    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from share_registry.exchange.adapter import Adapter
    from share_registry.format.records import Create, PolicyBody, SetPolicy
    from share_registry.names import CommitNumber
    from share_registry.registry.home import Home
    from share_registry.registry.transaction import Link

_MAX_LABELS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
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


def create_space(
    home: "Home",
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
        InvalidInput: malformed name or label.
        Conflict: it exists (unless `exist_ok` and it says the same of the base model).
    """
    home.require_writable()
    wanted = space_name(name)
    label = base_model if base_model is not None else wanted
    _check_labels([label, *base_labels], base_revision)
    home.catch_up()
    with home.catalog.begin() as session:
        known = _target(session, wanted) if wanted in queries.space_names(session) else None
    if known is not None:
        _check_same(known, base_model, base_revision, base_labels, exist_ok)
        return wanted

    def build(session: "Session", link: "Link") -> "Create | CommitNumber":
        return _create(link, label, base_revision, base_labels, policy or Policy())

    published = publish(home, wanted, Request(build=build, key=idempotency_key(home, None)))
    if not published.created and not exist_ok:
        raise Conflict(
            f"space {wanted!r} exists.", hint="Pick another name, or give exist_ok=True."
        )
    return wanted


def set_policy(home: "Home", name: str, policy: Policy) -> Commit:
    """Publish a space's policy, which holds for later commits.

    Where it has that policy, return the commit that set it. Raises NotFound.
    """
    from share_registry.format.records import SetPolicy
    from share_registry.registry.changes import change
    from share_registry.registry.earlier import policy_change

    def build(session: "Session", link: "Link") -> "SetPolicy | CommitNumber":
        if _target(session, link.space).policy == policy:
            return policy_change(session, link.space)
        return SetPolicy.model_validate(link.members() | {"policy": _body(policy)})

    home.require_writable()
    with home.reading() as session:
        _target(session, space_name(name))
    return change(home, space_name(name), build, "")


def space_for(session: "Session", adapters: "Sequence[Adapter]", space: str | None) -> Target:
    """Return the space named, or, where none is, the one of the adapters' base model, which may be new.

    Raises:
        NotFound: a named space does not exist.
        Refused: no space is named and the adapters do not say one base model.
    """
    if space is not None:
        return _target(session, space_name(space))
    base = _one_base(adapters)
    known = [
        found
        for found in (_target(session, name) for name in queries.space_names(session))
        if base.label in found.labels
    ]
    name = space_name_of(base.label)
    taken = name in queries.space_names(session)
    if len(known) == 1:
        return known[0]
    if known or taken:
        there = ", ".join(found.name for found in known) or f"{name} (of another base model)"
        raise Refused(
            f"base model {base.label!r} leads to no single space: {there}.",
            hint="Name the space with space= or -s.",
        )
    return Target(
        name=name, base_revision=base.revision, labels=(base.label,), policy=Policy(), new=True
    )


def policy_of(session: "Session", name: SpaceName) -> Policy:
    """Return the policy of a space. Raises NotFound."""
    row = queries.space_row(session, name)
    if row is None:
        raise NotFound(f"space {name!r} does not exist.", hint="List them with `spaces`.")
    return _policy(row)


def _policy(row: "Row[Any]") -> Policy:
    return Policy(**{member.name: getattr(row, member.name) for member in fields(Policy)})


def check_base(target: Target, adapter: "Adapter", allow: bool) -> tuple[str, ...]:
    """Check that an adapter says the space's base model; return what is worth a remark.

    Raises Refused.
    """
    base = base_of(adapter.config)
    label, revision = base.label, base.revision
    if not label:
        return ("the adapter names no base model",)
    if label not in target.labels and not allow:
        raise Refused(
            f"the adapter was trained on {label!r}, space {target.name!r} is of {' or '.join(repr(known) for known in target.labels)}.",
            hint="If it is the same model under another name, give allow_base_mismatch=True, or create the space with base_labels.",
        )
    if label not in target.labels:
        return (f"base model label {label!r} is not known to the space; accepted on request",)
    if revision and target.base_revision and revision != target.base_revision:
        return (f"base revision {revision!r} differs from the space's {target.base_revision!r}",)
    return ()


def _create(
    link: "Link", label: str, revision: str | None, labels: Sequence[str], policy: Policy
) -> "Create | CommitNumber":
    from share_registry.format.records import BaseModelBody, Create
    from share_registry.names import CommitNumber

    if link.number != 1:
        return CommitNumber(1)
    base = BaseModelBody(label=label, revision=revision, labels=sorted(set(labels) - {label}))
    return Create.model_validate(link.members() | {"base_model": base, "policy": _body(policy)})


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


def _target(session: "Session", name: SpaceName) -> Target:
    row = queries.space_row(session, name)
    if row is None:
        raise NotFound(
            f"space {name!r} does not exist.",
            hint=near_misses(name, list(queries.space_names(session)))
            + " Create it with create_space.",
        )
    return Target(
        name=name,
        base_revision=row.base_revision,
        labels=(row.base_model, *row.base_labels),
        policy=_policy(row),
    )


def _one_base(adapters: "Sequence[Adapter]") -> Base:
    found = sorted({base_of(adapter.config) for adapter in adapters}, key=str)
    labels = sorted({base.label for base in found})
    if len(labels) > 1:
        raise Refused(
            f"the adapters are of several base models: {', '.join(label or 'none' for label in labels)}.",
            hint="Commit them space by space.",
        )
    if not labels[0]:
        raise Refused(
            "the adapter's config names no base model, so no space can be derived.",
            hint="Name the space with space= or -s.",
        )
    return found[0]


def _check_labels(labels: Sequence[str], revision: str | None) -> None:
    for label in labels:
        if not isinstance(label, str) or not 1 <= len(label) <= 512 or not label.isprintable():
            raise InvalidInput(
                f"base model label {str(label)[:80]!r} is not 1 to 512 printable characters.",
                hint="Use the Hub id or a short name.",
            )
    if len(labels) > _MAX_LABELS:
        raise InvalidInput(
            f"{len(labels)} base labels, at most {_MAX_LABELS} are allowed.",
            hint="Keep those that adapters really carry.",
        )
    if revision is not None and (not 1 <= len(revision) <= 128 or not revision.isprintable()):
        raise InvalidInput(
            f"base revision {revision[:80]!r} is not 1 to 128 printable characters.",
            hint="Use the commit hash of the base model.",
        )


def _check_same(
    known: Target, label: str | None, revision: str | None, labels: Sequence[str], exist_ok: bool
) -> None:
    if not exist_ok:
        raise Conflict(
            f"space {known.name!r} exists.", hint="Pick another name, or give exist_ok=True."
        )
    differs = (
        (label is not None and label not in known.labels)
        or (revision is not None and revision != known.base_revision)
        or not set(labels) <= set(known.labels)
    )
    if differs:
        raise Conflict(
            f"space {known.name!r} exists with base model {', '.join(known.labels)}{f' at {known.base_revision}' if known.base_revision else ''}.",
            hint="Pick another name.",
        )
