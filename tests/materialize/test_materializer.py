"""`Materializer`: what it hands out is what checkout gives, however it is asked, and models take it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine, event

import share_registry as sr
from share_registry.exchange.scales import module_scales
from tests.exchange import zoo
from tests.exchange.conftest import original
from tests.registry.conftest import DEMO
from tests.registry.planted import write_planted

__all__ = ["original"]
Original = Callable[[str], Path]
BUDGET = 0.05
CLOSE = 1e-5
"""Of float32 results relative to the largest value: hundreds of roundings."""
REFS = ("gloss@v1", "gloss@v2", "gloss", "gloss@prod", "noun", "syn-ant", "frame")
NO_GPU = "there is no CUDA device"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sr.Registry]:
    """Three versions of a task with an alias, and adapters of one seed."""
    with sr.Registry.open(tmp_path_factory.mktemp("materializer") / "registry") as opened:
        for version in ("v1", "v2", "v3"):
            opened.commit(DEMO / "wn-pos-gloss" / version, task="gloss")
        for task, name in (
            ("wn-noun-abstract", "noun"),
            ("wn-syn-ant", "syn-ant"),
            ("wn-verb-frame", "frame"),
        ):
            opened.commit(DEMO / task / "s42", task=name, budget=BUDGET)
        opened.set_alias("gloss@v2", "prod")
        yield opened


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[sr.Registry]:
    with sr.Registry.open(tmp_path / "registry") as opened:
        yield opened


def same(one: sr.Adapter, other: sr.Adapter) -> bool:
    return list(one.tensors) == list(other.tensors) and all(
        tensor.equal(other.tensors[key]) for key, tensor in one.tensors.items()
    )


def close(one: sr.Adapter, other: sr.Adapter) -> bool:
    return all(
        (tensor.double() - other.tensors[key].double()).abs().max()
        <= CLOSE * tensor.double().abs().max().clamp_min(1e-30)
        for key, tensor in one.tensors.items()
    )


def counted(call: Callable[[], Any]) -> int:
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        call()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return len(statements)


@pytest.mark.parametrize("name", zoo.CASES)
def test_every_variant_comes_back_as_checkout_gives_it(
    name: str, original: Original, registry: sr.Registry
) -> None:
    registry.create_space("zoo")
    for task, budget in (("coded", BUDGET), ("kept", 0.0)):
        registry.commit(
            original(name), task=task, space="zoo", budget=budget, allow_base_mismatch=True
        )
    with (
        sr.Materializer(registry, "zoo", exact=True) as exact,
        sr.Materializer(registry, "zoo") as fast,
    ):
        made, quick = exact.materialize(["coded", "kept"]), fast.materialize(["coded", "kept"])
    for task in ("coded", "kept"):
        wanted = registry.space("zoo").checkout(task)
        assert same(wanted, made[task])
        assert {key: (tensor.dtype, tensor.shape) for key, tensor in wanted.tensors.items()} == {
            key: (tensor.dtype, tensor.shape) for key, tensor in quick[task].tensors.items()
        }
        assert (made[task].config, made[task].layout, made[task].ref, made[task].error) == (
            wanted.config,
            wanted.layout,
            wanted.ref,
            wanted.error,
        )
        if zoo.CASES[name].dtype is torch.float32:
            assert close(wanted, quick[task])
    assert same(registry.space("zoo").checkout("kept"), quick["kept"])


@pytest.mark.parametrize("order", [1, -1])
def test_several_versions_come_out_of_one_pass_in_any_order(
    shared: sr.Registry, order: int
) -> None:
    with sr.Materializer(shared, exact=True) as exact, sr.Materializer(shared) as fast:
        made, quick = exact.materialize(REFS[::order]), fast.materialize(REFS[::order])
    assert list(made) == list(REFS[::order])
    assert all(
        same(shared.checkout(ref), made[ref]) and close(shared.checkout(ref), quick[ref])
        for ref in REFS
    )


def test_references_of_one_version_share_its_memory(shared: sr.Registry) -> None:
    with sr.Materializer(shared) as one:
        made = one.materialize(["gloss@v2", "gloss@prod"])
    key = next(iter(made["gloss@v2"].tensors))
    assert made["gloss@v2"].tensors[key].data_ptr() == made["gloss@prod"].tensors[key].data_ptr()


def test_factors_of_one_pass_are_views_of_one_stretch_of_memory(shared: sr.Registry) -> None:
    with sr.Materializer(shared) as one:
        made = one.materialize(REFS)
    assert (
        len(
            {
                tensor.untyped_storage().data_ptr()
                for adapter in made.values()
                for tensor in adapter.tensors.values()
            }
        )
        == 1
    )


def test_an_alias_is_followed_at_every_call(registry: sr.Registry) -> None:
    for version in ("v1", "v2"):
        registry.commit(DEMO / "wn-pos-gloss" / version, task="gloss")
    registry.set_alias("gloss@v1", "prod")
    with sr.Materializer(registry, exact=True) as one:
        assert one.materialize("gloss@prod")["gloss@prod"].ref == "all-minilm-l6-v2/gloss@v1"
        with sr.Registry.open(registry.location) as other:
            other.set_alias("gloss@v2", "prod")
        moved = one.materialize("gloss@prod")["gloss@prod"]
        registry.rename("gloss", "sense")
        assert one.materialize("gloss@prod")["gloss@prod"].ref == "all-minilm-l6-v2/sense@v2"
    assert moved.ref == "all-minilm-l6-v2/gloss@v2"
    assert same(registry.checkout("gloss@v2"), moved)


def test_references_cost_statements_that_their_number_does_not_change_and_none_once_they_are_known(
    shared: sr.Registry,
) -> None:
    with sr.Materializer(shared) as one, sr.Materializer(shared) as other:
        assert (
            counted(lambda: one.materialize(REFS))
            == counted(lambda: other.materialize(["gloss", "gloss@v1", "gloss@prod"]))
            > 0
        )
        assert counted(lambda: one.materialize(REFS[::-1])) == 0
        assert counted(lambda: other.materialize("frame")) > 0


def test_a_store_that_lost_its_last_record_is_not_taken_for_unchanged(
    registry: sr.Registry,
) -> None:
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    with sr.Materializer(registry) as one:
        one.materialize("gloss")
        max((Path(registry.location) / "spaces").rglob("*.json")).unlink()
        with pytest.raises(sr.IntegrityError, match="not in the store"):
            one.materialize("gloss")


def test_a_closed_registry_is_refused(registry: sr.Registry) -> None:
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    with sr.Materializer(registry) as one:
        one.materialize("gloss")
        registry.close()
        with pytest.raises(sr.RefusedError, match="closed"):
            one.materialize("gloss")


@pytest.mark.parametrize(
    "ref", ["gloss@2999-01-01", "gloss~1", "gloss@prod~0", "all-minilm-l6-v2/gloss@latest"]
)
def test_unusual_references_mean_what_they_mean_elsewhere(shared: sr.Registry, ref: str) -> None:
    with sr.Materializer(shared, exact=True) as one:
        made = one.materialize([ref, "noun"])
    assert made[ref].ref == shared.resolve(ref).ref
    assert same(shared.checkout(ref), made[ref])


@pytest.mark.parametrize("ref", ["nothing", "gloss@v9", "gloss@nowhere", "other/gloss"])
def test_a_reference_that_means_nothing_is_not_found(shared: sr.Registry, ref: str) -> None:
    with sr.Materializer(shared) as one, pytest.raises(sr.NotFoundError):
        one.materialize(["gloss", ref])


def test_a_dropped_task_is_not_found_and_its_versions_are(registry: sr.Registry) -> None:
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    with sr.Materializer(registry) as one:
        one.materialize("gloss")
        registry.drop("gloss")
        with pytest.raises(sr.NotFoundError, match="dropped"):
            one.materialize("gloss")
        assert one.materialize("gloss@v1")


def test_out_is_written_again_and_holds_the_new_results(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as one:
        memory = one.buffers()
        first = one.materialize(REFS, out=memory)
        size = memory.size_bytes
        places = {
            tensor.untyped_storage().data_ptr()
            for adapter in first.values()
            for tensor in adapter.tensors.values()
        }
        for refs in (REFS[::-1], REFS[2:4], REFS):
            made = one.materialize(refs, out=memory)
            assert all(same(shared.checkout(ref), made[ref]) for ref in refs)
            assert {
                tensor.untyped_storage().data_ptr()
                for adapter in made.values()
                for tensor in adapter.tensors.values()
            } <= places
        assert memory.size_bytes == size


def test_results_without_out_are_the_callers_own(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as one:
        for tensor in one.materialize("gloss")["gloss"].tensors.values():
            tensor.zero_()
        assert same(shared.checkout("gloss"), one.materialize("gloss")["gloss"])


def test_out_must_be_buffers(shared: sr.Registry) -> None:
    with sr.Materializer(shared) as one, pytest.raises(sr.InvalidInputError, match="buffers"):
        one.materialize("gloss", out=torch.empty(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", torch.bfloat16, "float16", torch.float64])
def test_a_dtype_is_a_cast_of_the_exact_value(
    shared: sr.Registry, dtype: torch.dtype | str
) -> None:
    with sr.Materializer(shared, exact=True, dtype=dtype) as one:
        assert same(shared.checkout("gloss", dtype=dtype), one.materialize("gloss")["gloss"])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_an_exact_result_in_another_type_is_that_of_checkout(
    registry: sr.Registry, tmp_path: Path, dtype: str
) -> None:
    folder = write_planted(tmp_path / "adapters", 1)["t00"]
    file = folder / "adapter_model.safetensors"
    save_file({key: tensor.half() for key, tensor in load_file(file).items()}, file)
    registry.commit(folder, task="half", budget=0.001)
    found = sr.Materializer(registry, dtype=dtype, exact=True).state_dict("half")
    for key, tensor in registry.checkout("half", dtype=dtype).tensors.items():
        assert tensor.equal(found[key])


def test_eviction_keeps_results_right_and_memory_within_the_limit(
    registry: sr.Registry, tmp_path: Path
) -> None:
    tasks = write_planted(tmp_path / "adapters", 8, shared=0)
    for name, folder in tasks.items():
        registry.commit(folder, task=name)
    with sr.Materializer(registry, exact=True) as unlimited:
        assert unlimited.prefetch(tasks) == 8
        limit = unlimited.resident_bytes // 3
    with sr.Materializer(registry, exact=True, memory_limit=limit) as one:
        assert 0 < one.prefetch(tasks) < 8
        for refs in (list(tasks), list(tasks)[::-1], ["t03"]):
            made = one.materialize(refs)
            assert one.resident_bytes <= limit
            assert all(same(registry.checkout(ref), made[ref]) for ref in refs)
        assert one.evictions
        with pytest.raises(sr.RefusedError, match="memory_limit"):
            one.prepare(tasks)


def test_a_limit_below_one_adapter_is_refused(shared: sr.Registry) -> None:
    with (
        sr.Materializer(shared, memory_limit=1000) as one,
        pytest.raises(sr.RefusedError, match="1000 bytes"),
    ):
        one.materialize("gloss")


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "1 GB"])
def test_a_limit_must_be_a_number_of_bytes(shared: sr.Registry, limit: Any) -> None:
    with pytest.raises(sr.InvalidInputError, match="memory_limit"):
        sr.Materializer(shared, memory_limit=limit)


@pytest.mark.parametrize(
    ("option", "value"),
    [("device", "gpu-7"), ("device", "meta"), ("dtype", "int8"), ("dtype", "float8_e4m3fn")],
)
def test_an_unknown_device_or_dtype_is_named(shared: sr.Registry, option: str, value: str) -> None:
    with pytest.raises(sr.InvalidInputError, match=value):
        sr.Materializer(shared, **{option: value})  # type: ignore[arg-type]


def test_what_is_resident_is_not_read_again(registry: sr.Registry) -> None:
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    with sr.Materializer(registry, exact=True) as one:
        wanted = {
            key: tensor.clone() for key, tensor in one.materialize("gloss")["gloss"].tensors.items()
        }
        for path in (Path(registry.location) / "objects").rglob("*"):
            if path.is_file():
                path.unlink()
        assert all(
            tensor.equal(wanted[key])
            for key, tensor in one.materialize("gloss")["gloss"].tensors.items()
        )


def test_a_prepared_pass_is_made_again_in_place(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as one:
        prepared = one.prepare(["gloss@prod", "noun"])
        for tensor in prepared.adapters["noun"].tensors.values():
            tensor.zero_()
        prepared.run()
        assert same(shared.checkout("noun"), prepared.adapters["noun"])
        assert same(shared.checkout("gloss@v2"), prepared.adapters["gloss@prod"])


def test_a_closed_materializer_refuses_and_its_results_stay(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as one:
        made = one.materialize("gloss")["gloss"]
    assert one.resident_bytes == 0
    assert same(shared.checkout("gloss"), made)
    with pytest.raises(sr.RefusedError, match="closed"):
        one.materialize("gloss")


def test_threads_get_what_one_gets(shared: sr.Registry) -> None:
    wanted = {ref: shared.checkout(ref) for ref in REFS}
    with sr.Materializer(shared, exact=True) as probe:
        probe.prefetch(REFS)
        limit = int(0.7 * probe.resident_bytes)
    wrong: list[str] = []

    def work(one: sr.Materializer, shift: int) -> None:
        for turn in range(4):
            refs = [*REFS[(shift + turn) % 7 :], *REFS[: (shift + turn) % 7]][:4]
            made = one.materialize(refs)
            wrong.extend(ref for ref in refs if not same(wanted[ref], made[ref]))

    with sr.Materializer(shared, exact=True, memory_limit=limit) as one:
        threads = [threading.Thread(target=work, args=(one, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.resident_bytes <= limit
    assert wrong == []


def test_memory_made_in_inference_mode_is_written_outside_of_it(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as one:
        memory = one.buffers()
        with torch.inference_mode():
            one.materialize("gloss", out=memory)
        assert same(shared.checkout("noun"), one.materialize("noun", out=memory)["noun"])


def test_a_materialized_adapter_saves_the_files_of_a_checkout(
    shared: sr.Registry, tmp_path: Path
) -> None:
    with sr.Materializer(shared, exact=True) as one:
        saved = one.materialize("noun")["noun"].save(tmp_path / "materialized")
    wanted = shared.checkout("noun").save(tmp_path / "checkout")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == {
        path.name: path.read_bytes() for path in wanted.iterdir()
    }


def test_scales_are_those_of_the_config(shared: sr.Registry) -> None:
    with sr.Materializer(shared) as one:
        made = one.materialize("noun")["noun"]
    wanted = shared.checkout("noun")
    assert module_scales(made.config, made.layout) == module_scales(wanted.config, wanted.layout)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_gpu_gives_the_exact_bytes_of_the_cpu(
    shared: sr.Registry, dtype: torch.dtype | None
) -> None:
    with sr.Materializer(shared, device="cuda", exact=True, dtype=dtype) as one:
        made, prepared = one.materialize(REFS), one.prepare(REFS)
        prepared.run()
    for ref in REFS:
        wanted = shared.checkout(ref, dtype=dtype)
        assert all(
            tensor.equal(made[ref].tensors[key].cpu())
            and tensor.equal(prepared.adapters[ref].tensors[key].cpu())
            for key, tensor in wanted.tensors.items()
        )


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.float32, 2.0**-16), (torch.float16, 2.0**-9), (torch.bfloat16, 2.0**-5)],
)
def test_a_gpu_is_near_the_cpu_and_a_graph_gives_what_the_pass_gives(
    shared: sr.Registry, dtype: torch.dtype, limit: float
) -> None:
    with sr.Materializer(shared, device="cuda", dtype=dtype) as one:
        made, prepared = one.materialize(REFS), one.prepare(REFS)
        for tensor in prepared.adapters["noun"].tensors.values():
            tensor.zero_()
        prepared.run()
        for ref in REFS:
            for key, tensor in shared.checkout(ref).tensors.items():
                assert (
                    made[ref].tensors[key].cpu().double() - tensor.double()
                ).norm() <= limit * tensor.double().norm()
                assert made[ref].tensors[key].equal(prepared.adapters[ref].tensors[key])
