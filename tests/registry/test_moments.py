"""A refit goes on from what the one before has seen: the same basis, from fewer objects."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import share_registry as sr
from share_registry.algebra import directions
from share_registry.format.symbols import Ints
from share_registry.names import Digest
from share_registry.registry.basis import moments, streamed
from share_registry.registry.basis.fit import FitRule, FittedBasis, fit
from share_registry.registry.basis.members import stored_members
from share_registry.registry.commands.refit import live_versions
from share_registry.store.local import LocalStore
from share_registry.values.cost_reports import BasisReport
from tests.registry.planted import write_planted

SPACE = "tiny"
PRECISION = 0.25 * 0.025
"""What rounding a basis may take of the default budget."""
SAME = 1e-10
"""Relative: kept moments are summed in another order and turned once."""


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "FEWEST", 1)


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, Path]:
    return write_planted(tmp_path / "adapters", 12)


@pytest.fixture
def followed(registry: sr.Registry, adapters: dict[str, Path]) -> sr.Registry:
    """Eight tasks and a refit, then four more."""
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    for task in sorted(adapters)[:8]:
        registry.commit(adapters[task], task=task)
    registry.refit(max_rank=6, force=True)
    for task in sorted(adapters)[8:]:
        registry.commit(adapters[task], task=task)
    return registry


def moment_files(registry: sr.Registry) -> list[Path]:
    return sorted(Path(registry.location).glob("catalog.sqlite-moments-*"))


def fit_from_scratch(registry: sr.Registry, **rule: object) -> FittedBasis:
    """Fit to all tasks from scratch."""
    with registry.context.reading() as session:
        rows = live_versions(session, registry.spaces()[0].name)
    fit_rule = FitRule(precision=PRECISION, **rule)  # type: ignore[arg-type]
    return fit(stored_members(registry.context, rows), fit_rule)


def assert_captures(basis: BasisReport | None, expected: FittedBasis, close: float) -> None:
    """Check that a basis captures what one that is fitted from scratch does."""
    assert basis is not None
    for module in basis.modules:
        assert (module.captured_a, module.captured_b) == pytest.approx(
            expected.captured[module.module], rel=close
        )


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Digest]:
    """The objects that are read from stores, in order."""
    digests: list[Digest] = []
    get = LocalStore.get

    def counted(self: LocalStore, digest: Digest, **limit: int) -> bytes:
        digests.append(digest)
        return get(self, digest, **limit)

    monkeypatch.setattr(LocalStore, "get", counted)
    return digests


@pytest.mark.parametrize("rule", [{"max_rank": 6}, {"energy": 0.9}, {}])
def test_a_basis_from_kept_moments_captures_what_one_from_scratch_does(
    followed: sr.Registry, rule: dict[str, float]
) -> None:
    basis = followed.refit(**rule).basis  # type: ignore[arg-type]
    scratch = fit_from_scratch(followed, **rule, **({} if rule else {"tasks": 12, "budget": 0.025}))
    assert basis is not None
    for module in basis.modules:
        assert (module.k_a, module.k_b) == tuple(
            len(rows) for rows in scratch.basis.modules[module.module]
        )
        assert (module.captured_a, module.captured_b) == pytest.approx(
            scratch.captured[module.module], rel=SAME
        )


def test_directions_are_those_of_a_fit_from_scratch(followed: sr.Registry) -> None:
    followed.refit(max_rank=6, force=True)
    scratch = fit_from_scratch(followed, max_rank=6)
    for name, module in followed.basis().modules.items():
        for side, rows in enumerate((module.a, module.b)):
            axes = torch.linalg.qr(torch.from_numpy(scratch.basis.modules[name][side]).double().mT)[
                0
            ]
            # the basis is rounded where it is stored
            assert float(torch.linalg.svdvals(rows @ axes).amin()) > 1 - 1e-6


@pytest.mark.parametrize("amplified", [0.0, 1e4])
def test_many_refits_one_after_another_capture_what_one_from_scratch_does(
    registry: sr.Registry, tmp_path: Path, amplified: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directions, "_AMPLIFIED", amplified)
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    commits = []
    for task, folder in sorted(write_planted(tmp_path / "many", 20).items()):
        registry.commit(folder, task=task)
        commits.append(registry.refit(max_rank=6, force=True))
    scratch, basis = fit_from_scratch(registry, max_rank=6), commits[-1].basis
    assert_captures(basis, scratch, SAME)


def test_tasks_that_were_seen_are_not_read_again(
    registry: sr.Registry, tmp_path: Path, reads: list[Digest]
) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy.share(k=8))
    many = write_planted(tmp_path / "many", 7)
    # coefficients over one basis: the rows in use do not grow with the tasks
    registry.commit_many(dict(list(many.items())[:6]))
    registry.set_policy(sr.Policy(refit=False), space=SPACE)
    registry.refit(max_rank=6, force=True)
    registry.commit(many["t06"], task="t06")
    rows = {task.name: task for task in registry.tasks()}
    with sr.Registry.open(registry.location) as writer:
        with writer.context.reading() as session:
            adapters = {
                str(row.task): row.adapter_digest
                for row in live_versions(session, writer.spaces()[0].name)
            }
        reads.clear()
        writer.refit(max_rank=6, force=True)
    assert len(rows) == 7
    assert adapters["t06"] in reads
    assert not {adapters[f"t0{number}"] for number in range(6)} & set(reads)


def test_a_module_that_is_zero_in_every_task_does_not_keep_a_refit_from_going_on(
    registry: sr.Registry, adapters: dict[str, Path]
) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    for number, task in enumerate(sorted(adapters)[:4]):
        path = adapters[task] / "adapter_model.safetensors"
        save_file(
            {
                key: 0 * tensor if "layers.0" in key else tensor
                for key, tensor in load_file(path).items()
            },
            path,
        )
        registry.commit(adapters[task], task=task)
        if number > 1:
            basis = registry.refit(max_rank=3, force=True).basis
            assert basis is not None
            assert [module.module for module in basis.modules] == ["layers.1.proj", "layers.2.proj"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_moments_that_are_damaged_or_gone_cost_time_alone(
    followed: sr.Registry, damage: str, tmp_path: Path
) -> None:
    shutil.copytree(followed.location, tmp_path / "whole")
    (path,) = moment_files(followed)
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-9],
            "flipped": content[:99] + bytes([content[99] ^ 1]) + content[100:],
        }.get(damage, b"")
    )
    if damage == "gone":
        path.unlink()
    with sr.Registry.open(tmp_path / "whole") as whole:
        expected = whole.refit(max_rank=6, force=True).basis
    basis = followed.refit(max_rank=6, force=True).basis
    assert basis is not None
    assert expected is not None
    for module, whole_module in zip(basis.modules, expected.modules, strict=True):
        assert (module.captured_a, module.captured_b) == pytest.approx(
            (whole_module.captured_a, whole_module.captured_b), rel=SAME
        )
    assert followed.verify("deep").ok


def test_a_task_that_moved_on_is_not_counted_twice(followed: sr.Registry, tmp_path: Path) -> None:
    followed.refit(max_rank=6, force=True)
    followed.commit(write_planted(tmp_path / "other", 1, seed=5)["t00"], task="t00")
    followed.drop("t01")
    basis = followed.refit(max_rank=6, force=True).basis
    scratch = fit_from_scratch(followed, max_rank=6)
    assert_captures(basis, scratch, SAME)


def test_a_reader_leaves_nothing_behind_and_a_dry_run_may_go_on(followed: sr.Registry) -> None:
    before = [path.read_bytes() for path in moment_files(followed)]
    with sr.Registry.open(followed.location, mode="r") as reader:
        assert reader.refit(max_rank=6, force=True, dry_run=True).basis is not None
    assert [path.read_bytes() for path in moment_files(followed)] == before


def test_moments_of_a_few_tasks_are_not_kept(
    registry: sr.Registry, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "FEWEST", 9)
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    for task in sorted(adapters)[:8]:
        registry.commit(adapters[task], task=task)
    registry.refit(max_rank=6, force=True)
    assert moment_files(registry) == []


@pytest.fixture
def outgrown(registry: sr.Registry, tmp_path: Path) -> sr.Registry:
    """Forty tasks whose rows outnumber the columns of either side."""
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    many = write_planted(tmp_path / "many", 44, modules=2, width=48, noise=0.3)
    registry.commit_many(dict(list(many.items())[:40]))
    return registry


@pytest.mark.parametrize("together", [7, 32])
@pytest.mark.parametrize("most_bytes", [1, 1 << 30])
def test_tasks_with_many_rows_are_summed_up_as_they_are_read(
    outgrown: sr.Registry, together: int, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "_FEWEST", 100)
    expected = fit_from_scratch(outgrown, max_rank=6)
    monkeypatch.setattr(streamed, "_FEWEST", 32)
    monkeypatch.setattr(streamed, "_TOGETHER", together)
    monkeypatch.setattr(streamed, "_MOST_BYTES", most_bytes)
    gathered: list[bool] = []
    moments_of = streamed.Streamed.moments_of

    def spied(sums: streamed.Streamed, module: str) -> directions.Moments | None:
        found = moments_of(sums, module)
        gathered.append(found is not None)
        return found

    monkeypatch.setattr(streamed.Streamed, "moments_of", spied)
    fitted = fit_from_scratch(outgrown, max_rank=6)
    assert gathered == [True, True]
    for name, captured in expected.captured.items():
        assert fitted.captured[name] == pytest.approx(captured, rel=SAME)
        for rows, others in zip(
            fitted.basis.modules[name], expected.basis.modules[name], strict=True
        ):
            assert (rows == others).mean() > 0.999


@pytest.mark.parametrize("wide", [False, True])
def test_a_refit_goes_on_from_moments_that_are_seen_from_the_axes(
    outgrown: sr.Registry, tmp_path: Path, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wide:
        for module in (moments, streamed):
            monkeypatch.setattr(module, "WIDE", 1)
    outgrown.refit(max_rank=6, force=True)
    assert moment_files(outgrown)
    more = write_planted(tmp_path / "more", 2, modules=2, width=48, noise=0.3, seed=9)
    commits = []
    for task, folder in more.items():
        outgrown.commit(folder, task=f"new-{task}")
        commits.append(outgrown.refit(max_rank=6, force=True))
    scratch, basis = fit_from_scratch(outgrown, max_rank=6), commits[-1].basis
    assert_captures(basis, scratch, 1e-6 if wide else SAME)


def test_moments_over_rows_go_over_to_the_axes_where_rows_outnumber_columns(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False))
    commits = []
    for task, folder in write_planted(tmp_path, 12, modules=2, width=32, shared=0).items():
        registry.commit(folder, task=task)
        if len(registry.tasks()) > 4:
            commits.append(registry.refit(max_rank=6, force=True))
    scratch, basis = fit_from_scratch(registry, max_rank=6), commits[-1].basis
    assert_captures(basis, scratch, SAME)


def assert_left_out(registry: sr.Registry, places: tuple[int, ...]) -> None:
    """Check that tasks are left out of a basis as if they were not there."""
    with registry.context.reading() as session:
        rows = live_versions(session, registry.spaces()[0].name)
    members, rule = stored_members(registry.context, rows), FitRule(max_rank=6, precision=PRECISION)
    for place, basis in zip(places, fit(members, rule, left_out=places).left_out, strict=True):
        others = fit([*members[:place], *members[place + 1 :]], rule).basis
        assert basis.modules.keys() == others.modules.keys()
        for name, sides in basis.modules.items():
            for own, expected in zip(sides, others.modules[name], strict=True):
                assert len(own) == len(expected)
                assert cosines(own, expected).min() > 1 - PRECISION**2


def test_a_task_is_left_out_of_a_basis_as_if_it_were_not_there(
    registry: sr.Registry, adapters: dict[str, Path]
) -> None:
    for task in sorted(adapters):
        registry.commit(adapters[task], task=task)
    assert_left_out(registry, (0, 5, 11))


@pytest.mark.parametrize("wide", [False, True])
def test_a_task_is_left_out_of_sums_that_are_seen_from_the_axes(
    outgrown: sr.Registry, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wide:
        for module in (moments, streamed):
            monkeypatch.setattr(module, "WIDE", 1)
    assert_left_out(outgrown, (0, 39))


def test_a_module_that_only_the_task_has_is_not_in_the_basis_without_it(
    registry: sr.Registry, adapters: dict[str, Path], tmp_path: Path
) -> None:
    first, *others = sorted(adapters)[:4]
    tensors = load_file(adapters[first] / "adapter_model.safetensors")
    more = {key.replace("layers.2", "layers.9"): value.clone() for key, value in tensors.items()}
    save_file(tensors | more, adapters[first] / "adapter_model.safetensors")
    for task in (first, *others):
        registry.commit(adapters[task], task=task)
    with registry.context.reading() as session:
        rows = live_versions(session, registry.spaces()[0].name)
    members = stored_members(registry.context, rows)
    fitted = fit(members, FitRule(max_rank=6), left_out=(0,))
    assert len(fitted.basis.modules) == 4
    assert {*fitted.basis.modules} - {*fitted.left_out[0].modules} == {"layers.9.proj"}


def cosines(rows: Ints, others: Ints) -> Tensor:
    """Return the cosines of the angles between two spaces of rows."""
    Q, P = (torch.linalg.qr(torch.from_numpy(each).double().mT).Q for each in (rows, others))
    cosines: Tensor = torch.linalg.svdvals(Q.mT @ P)
    return cosines
