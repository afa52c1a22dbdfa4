"""A space of a registry: the same verbs without `space=`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from share_registry.names import SpaceName
from share_registry.registry.doors import Ref
from share_registry.registry.policy import Policy
from share_registry.registry.results import (
    Alias,
    AliasMove,
    Commit,
    Diff,
    Export,
    Lineage,
    Log,
    Resolved,
    SpaceSummary,
    Tag,
    Task,
)

if TYPE_CHECKING:
    from datetime import date, datetime

    import torch

    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.basis import Basis
    from share_registry.registry.insight_results import Analysis, Retention, Similar
    from share_registry.registry.registry import Registry


class Space:
    """One space. Every method is the registry's of the same name, in this space.

    Args:
        registry: Where it is.
        name: Its name. Raises NotFound where there is none.
    """

    def __init__(self, registry: "Registry", name: str) -> None:
        self._registry = registry
        self._name = _summary(registry, name).name

    @property
    def name(self) -> SpaceName:
        """The space's name."""
        return self._name

    @property
    def summary(self) -> SpaceSummary:
        """Base model, policy and counts, as of now."""
        return _summary(self._registry, self._name)

    def __repr__(self) -> str:
        return f"Space({self._name!r} of {self._registry!r})"

    def set_policy(self, policy: Policy) -> Commit:
        """See `Registry.set_policy`: set the policy of a space for later commits."""
        return self._registry.set_policy(self._name, policy)

    def commit(
        self,
        adapter: "str | os.PathLike[str] | Adapter | Any",
        *,
        task: str | None = None,
        budget: float | None = None,
        message: str = "",
        author: str | None = None,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        derived_from: Ref | Sequence[Ref] = (),
        keep_original: bool | None = None,
        adapter_name: str | None = None,
        expected: int | None = None,
        idempotency_key: str | None = None,
        allow_base_mismatch: bool = False,
        allow_duplicate: bool = False,
        dry_run: bool = False,
    ) -> Commit:
        """See `Registry.commit`: absorb an adapter as the next version of a task."""
        return self._registry.commit(
            adapter,
            task=task,
            budget=budget,
            message=message,
            author=author,
            labels=labels,
            metrics=metrics,
            derived_from=derived_from,
            keep_original=keep_original,
            adapter_name=adapter_name,
            expected=expected,
            idempotency_key=idempotency_key,
            allow_base_mismatch=allow_base_mismatch,
            allow_duplicate=allow_duplicate,
            dry_run=dry_run,
            space=self._name,
        )

    def commit_many(
        self,
        adapters: "Mapping[str, str | os.PathLike[str] | Adapter | Any]",
        *,
        budget: float | None = None,
        message: str = "",
        author: str | None = None,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        derived_from: Ref | Sequence[Ref] = (),
        keep_original: bool | None = None,
        idempotency_key: str | None = None,
        allow_base_mismatch: bool = False,
        allow_duplicate: bool = False,
        dry_run: bool = False,
    ) -> Commit:
        """See `Registry.commit_many`: absorb several adapters as one commit, all or nothing.

        Arguments as in `commit`, adapters by task name.
        """
        return self._registry.commit_many(
            adapters,
            budget=budget,
            message=message,
            author=author,
            labels=labels,
            metrics=metrics,
            derived_from=derived_from,
            keep_original=keep_original,
            idempotency_key=idempotency_key,
            allow_base_mismatch=allow_base_mismatch,
            allow_duplicate=allow_duplicate,
            dry_run=dry_run,
            space=self._name,
        )

    def refit(
        self,
        *,
        max_rank: int | None = None,
        energy: float | None = None,
        weighting: str = "unit",
        budget: float | None = None,
        allow_loss: bool = False,
        message: str = "",
        author: str | None = None,
        dry_run: bool = False,
    ) -> Commit:
        """See `Registry.refit`: fit a basis to the live tasks, for later commits."""
        return self._registry.refit(
            self._name,
            max_rank=max_rank,
            energy=energy,
            weighting=weighting,
            budget=budget,
            allow_loss=allow_loss,
            message=message,
            author=author,
            dry_run=dry_run,
        )

    def basis(self, *, at: "str | date | datetime | int | None" = None) -> "Basis":
        """See `Registry.basis`: return the basis that commits are coded with."""
        return self._registry.basis(self._name, at=at)

    def merge(
        self,
        parents: Mapping[str, float],
        *,
        task: str,
        method: str = "linear",
        density: float | None = None,
        seed: int | None = None,
        budget: float | None = None,
        message: str = "",
        author: str | None = None,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        expected: int | None = None,
        idempotency_key: str | None = None,
        dry_run: bool = False,
    ) -> Commit:
        """See `Registry.merge`: merge task versions into a version of a task."""
        return self._registry.merge(
            parents,
            task=task,
            method=method,
            density=density,
            seed=seed,
            budget=budget,
            message=message,
            author=author,
            labels=labels,
            metrics=metrics,
            expected=expected,
            idempotency_key=idempotency_key,
            dry_run=dry_run,
            space=self._name,
        )

    def retention(self, *, metric: str | None = None) -> "Retention":
        """See `Registry.retention`: return the forgetting matrix."""
        return self._registry.retention(self._name, metric=metric)

    def analyze(self, *, budgets: Sequence[float] = (0.01, 0.05, 0.1, 0.3)) -> "Analysis":
        """See `Registry.analyze`: return what the live tasks share, and what that saves."""
        return self._registry.analyze(self._name, budgets=budgets)

    def similar(
        self, adapter: "Ref | os.PathLike[str] | Adapter | Any", *, limit: int = 10
    ) -> "Similar":
        """See `Registry.similar`: return the tasks nearest to an adapter."""
        return self._registry.similar(adapter, limit=limit, space=self._name)

    def checkout(
        self,
        ref: Ref,
        *,
        device: "str | torch.device" = "cpu",
        dtype: "torch.dtype | str | None" = None,
        exact: bool = False,
    ) -> "Adapter":
        """See `Registry.checkout`: rebuild a task version in memory."""
        return self._registry.checkout(
            ref, device=device, dtype=dtype, exact=exact, space=self._name
        )

    def export(
        self,
        ref: Ref,
        root: str | os.PathLike[str],
        *,
        name: str | None = None,
        profile: str = "native",
        overwrite: bool = False,
    ) -> Export:
        """See `Registry.export`.

        Write a task version as a plain PEFT directory `root/<task>-v<N>-<digest8>/`,
        atomically.
        """
        return self._registry.export(
            ref, root, name=name, profile=profile, overwrite=overwrite, space=self._name
        )

    def log(
        self,
        *,
        task: str | None = None,
        kind: str | None = None,
        author: str | None = None,
        since: "str | date | datetime | None" = None,
        until: "str | date | datetime | None" = None,
        limit: int | None = 50,
        before: int | Ref | None = None,
    ) -> Log:
        """See `Registry.log`: return commits, newest first."""
        return self._registry.log(
            self._name,
            task=task,
            kind=kind,
            author=author,
            since=since,
            until=until,
            limit=limit,
            before=before,
        )

    def show(self, ref: Ref) -> Commit:
        """See `Registry.show`.

        Return the commit that a task version or `@cN` stands for, with its full report.
        """
        return self._registry.show(ref, space=self._name)

    def resolve(self, ref: Ref) -> Resolved:
        """See `Registry.resolve`: return what a reference means now."""
        return self._registry.resolve(ref, space=self._name)

    def tasks(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        alias: str | None = None,
        name: str | None = None,
        at: "str | date | datetime | int | None" = None,
        limit: int | None = None,
        after: str | Task | None = None,
    ) -> list[Task]:
        """See `Registry.tasks`: return the live tasks by name at their newest versions."""
        return self._registry.tasks(
            self._name, labels=labels, alias=alias, name=name, at=at, limit=limit, after=after
        )

    def lineage(self, ref: Ref) -> Lineage:
        """See `Registry.lineage`: return where a task version came from.

        Earlier versions, declared parents, sources.
        """
        return self._registry.lineage(ref, space=self._name)

    def diff(self, a: Ref, b: Ref) -> Diff:
        """See `Registry.diff`: compare two task versions, or two states of a space.

        Metadata, and per task the relative change of dW.
        """
        return self._registry.diff(a, b, space=self._name)

    def set_alias(
        self, ref: Ref, alias: str, *, expected: int | None = None, reason: str = ""
    ) -> Commit:
        """See `Registry.set_alias`: point an alias of a task to a version; the move is recorded."""
        return self._registry.set_alias(
            ref, alias, expected=expected, reason=reason, space=self._name
        )

    def remove_alias(
        self, task: str, alias: str, *, expected: int | None = None, reason: str = ""
    ) -> Commit:
        """See `Registry.remove_alias`: remove an alias of a task; its history stays."""
        return self._registry.remove_alias(
            task, alias, expected=expected, reason=reason, space=self._name
        )

    def aliases(self, *, task: str | None = None) -> list[Alias]:
        """See `Registry.aliases`: return the aliases of a space's tasks, or of one task."""
        return self._registry.aliases(self._name, task=task)

    def alias_history(
        self, task: str, alias: str, *, at: "str | date | datetime | int | None" = None
    ) -> list[AliasMove]:
        """See `Registry.alias_history`: return the moves of an alias, newest first.

        With `at` only the one in force then.
        """
        return self._registry.alias_history(task, alias, at=at, space=self._name)

    def tag(self, name: str, ref: Ref, *, reason: str = "") -> Commit:
        """See `Registry.tag`: name a commit of a space, for ever.

        `ref` is `@cN`, `@latest` or a task version.
        """
        return self._registry.tag(name, ref, reason=reason, space=self._name)

    def tags(self) -> list[Tag]:
        """See `Registry.tags`: return the tags of a space, or of all."""
        return self._registry.tags(self._name)

    def annotate(
        self,
        ref: Ref,
        *,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        remove: str | Iterable[str] = (),
        reason: str = "",
    ) -> Commit:
        """See `Registry.annotate`: set or remove labels and metrics of a task version."""
        return self._registry.annotate(
            ref, labels=labels, metrics=metrics, remove=remove, reason=reason, space=self._name
        )

    def drop(self, task: str, *, reason: str = "") -> Commit:
        """See `Registry.drop`: stop listing a task; its versions stay."""
        return self._registry.drop(task, reason=reason, space=self._name)

    def restore(self, ref: Ref, *, reason: str = "") -> Commit:
        """See `Registry.restore`.

        Make an earlier version the newest one, and a dropped task live again.
        """
        return self._registry.restore(ref, reason=reason, space=self._name)

    def rename(self, task: str, new: str, *, reason: str = "") -> Commit:
        """See `Registry.rename`: give a task a new name; the old one keeps leading to it."""
        return self._registry.rename(task, new, reason=reason, space=self._name)


def _summary(registry: "Registry", name: str) -> SpaceSummary:
    from share_registry.registry.reading import space_summary

    return space_summary(registry.home, name)
