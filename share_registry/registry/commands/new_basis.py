"""Make a basis of tasks, and judge what it would save.

A basis stays in the store for ever, so what it gains is measured, not guessed: some tasks are coded
as a commit would code them, once with and once without a basis of all the others. Each is left out
of the basis that it is coded with, since a basis holds the tasks it was fitted to by heart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from share_registry.algebra.threads import one_thread
from share_registry.errors import RefusedError, ensure
from share_registry.exchange.tensors import move_to_device
from share_registry.format.basis_object import encode
from share_registry.format.canonical import sha256
from share_registry.parallel import side_by_side
from share_registry.registry.basis.fit import FitRule, FittedBasis, fit
from share_registry.registry.basis.members import stored_members
from share_registry.registry.checkout.checkout import read_task_note, rebuild
from share_registry.registry.commands.coding import References, code_within_budget
from share_registry.registry.commands.encode import NewBasis
from share_registry.registry.context import Context
from share_registry.stored import StoredBasis
from share_registry.values.cost_reports import BasisModuleReport, BasisReport
from share_registry.values.policy import Policy
from share_registry.values.task_version import TaskVersion

# Error that rounding a basis may make where coefficients over it are all that is kept. No part of
# what the paper's protocol loses.
FINE: Final = 2.0**-12
# Part of the budget that rounding a basis may take where own rows correct it
_SHARE_OF_BUDGET: Final = 0.25
# Tasks that stand for those to come, the latest: the price does not grow with their number.
SAMPLE: Final = 32
# Tasks of the sample that are coded with and without a basis of the others
_HELD_OUT: Final = 4
# Share of a task's bytes that counts as nothing: analyze says 0 % to it.
_NOTHING: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Mean bytes that a task takes without a basis, and how many fewer with it."""

    alone_bytes: float
    saved_bytes: float

    @property
    def worth(self) -> float:
        """The bytes saved, where that is anything."""
        return self.saved_bytes if self.saved_bytes > _NOTHING * self.alone_bytes else 0.0


def rule_within_budget(budget: float, *, tasks: int) -> FitRule:
    """Return how a basis is fitted that adapters within a budget, above 0, are coded with.

    Args:
        budget: Largest error of the adapters.
        tasks: Tasks to come that it is to serve; 0: those it is fitted to.
    """
    return FitRule(tasks=tasks, budget=budget, precision=_SHARE_OF_BUDGET * budget)


def serialize_basis(fitted: FittedBasis, space: str) -> NewBasis:
    """Return a basis as an object. Raises RefusedError where it has no direction."""
    ensure(
        fitted.basis.modules,
        RefusedError(
            f"no direction that the tasks of space {space!r} share saves as many bytes as it "
            "costs: they gain from precision, not from a basis.",
            hint="See analyze; max_rank=32 with force=True makes one nevertheless.",
        ),
    )
    content = encode(fitted.basis)
    modules = tuple(
        BasisModuleReport(
            module=name,
            k_a=len(a),
            k_b=len(b),
            captured_a=fitted.captured[name][0],
            captured_b=fitted.captured[name][1],
        )
        for name, (a, b) in fitted.basis.modules.items()
    )
    digest = sha256(content)
    return NewBasis(
        digest=digest,
        content=content,
        report=BasisReport(digest=digest, size_bytes=len(content), modules=modules),
    )


def saving_of(
    context: Context,
    sample: Sequence[TaskVersion],
    rule: FitRule,
    policy: Policy,
    basis: NewBasis,
) -> Saving:
    """Measure what a basis would save on a task to come; nothing where none may refer to it.

    Those that stand for it are fitted to the sample, as large as it is where bytes decided that.
    """
    if not (sample and policy.shares and policy.budget > 0):
        return Saving(saved_bytes=0.0, alone_bytes=0.0)
    if rule.weighs_bytes:
        sizes = {each.module: (each.k_a, each.k_b) for each in basis.report.modules}
        rule = replace(rule, sizes=sizes)
    return judge(context, sample, fit_sample(context, sample, rule), policy)


def fit_sample(context: Context, sample: Sequence[TaskVersion], rule: FitRule) -> FittedBasis:
    """Fit a basis to tasks that stand for those to come, and the bases that `judge` asks for."""
    members = stored_members(context, sample)
    return fit(members, rule, left_out=_held_out(sample), device=context.device)


def judge(
    context: Context, sample: Sequence[TaskVersion], fitted: FittedBasis, policy: Policy
) -> Saving:
    """Measure what a basis would save on a task to come that may refer to it.

    Args:
        context: The registry.
        sample: Tasks that stand for those to come, at least one and at most `SAMPLE`.
        fitted: What `fit_sample` made of them.
        policy: What tasks to come are coded with.
    """

    def code_left_out(task: tuple[int, StoredBasis]) -> tuple[int, int]:
        """Return the bytes of a task without a basis, and with one of the others."""
        place, others = task
        basis = encode(others) if others.modules else None
        size, is_used = _code(context, sample[place], policy, basis)
        return (_code(context, sample[place], policy, None)[0] if is_used else size), size

    tasks = list(zip(_held_out(sample), fitted.left_out, strict=True))
    if context.device == "cpu":
        sizes_of_tasks = side_by_side(one_thread()(code_left_out), tasks)
    else:
        # it computes what one thread gives it as fast as what two do
        sizes_of_tasks = list(map(code_left_out, tasks))
    alone = sum(without for without, _ in sizes_of_tasks) / len(tasks)
    return Saving(
        alone_bytes=alone,
        saved_bytes=alone - sum(size for _, size in sizes_of_tasks) / len(tasks),
    )


def _held_out(sample: Sequence[TaskVersion]) -> range:
    """Return the positions of the tasks that are coded with a basis of the others."""
    return range(0, len(sample), max(1, len(sample) // _HELD_OUT))[:_HELD_OUT]


def _code(
    context: Context, row: TaskVersion, policy: Policy, basis: bytes | None
) -> tuple[int, bool]:
    """Code a stored task once more, against what it refers to and a basis.

    Return its bytes, and whether it refers to the basis.
    """
    adapter = rebuild(context, row, read_task_note(context, row))
    bases = {sha256(basis): basis} if basis is not None else {}
    sources = context.reader().open(row.adapter_digest).stored.sources
    coded = code_within_budget(
        context.reader().beside(bases),
        adapter,
        move_to_device(adapter.factor_pairs(), context.device),
        References(sources=tuple(dict.fromkeys([*bases, *sources]))),
        policy,
    )
    is_used = any(digest in coded.sources for digest in bases)
    return len(coded.objects[coded.digest]), is_used
