"""`Materializer`: its results are what checkout gives, however asked, and models take them."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine, event

import share_registry as sr
from share_registry.exchange.selection import module_scales
from tests.exchange import zoo
from tests.registry.conftest import DEMO
from tests.registry.planted import write_planted

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


def same(actual: sr.Adapter, expected: sr.Adapter) -> bool:
    return list(actual.tensors) == list(expected.tensors) and all(
        tensor.equal(expected.tensors[key]) for key, tensor in actual.tensors.items()
    )


def close(actual: sr.Adapter, expected: sr.Adapter) -> bool:
    return all(
        (tensor.double() - expected.tensors[key].double()).abs().max()
        <= CLOSE * tensor.double().abs().max().clamp_min(1e-30)
        for key, tensor in actual.tensors.items()
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
        sr.Materializer(registry.space("zoo"), exact=True) as exact,
        sr.Materializer(registry.space("zoo")) as fast,
    ):
        adapters, quick = exact.materialize(["coded", "kept"]), fast.materialize(["coded", "kept"])
    for task in ("coded", "kept"):
        expected = registry.space("zoo").checkout(task)
        assert same(expected, adapters[task])
        assert {key: (tensor.dtype, tensor.shape) for key, tensor in expected.tensors.items()} == {
            key: (tensor.dtype, tensor.shape) for key, tensor in quick[task].tensors.items()
        }
        assert (
            adapters[task].config,
            adapters[task].layout,
            adapters[task].ref,
            adapters[task].error,
        ) == (
            expected.config,
            expected.layout,
            expected.ref,
            expected.error,
        )
        if zoo.CASES[name].dtype is torch.float32:
            assert close(expected, quick[task])
    assert same(registry.space("zoo").checkout("kept"), quick["kept"])


@pytest.mark.parametrize("order", [1, -1])
def test_several_versions_come_out_of_one_pass_in_any_order(
    shared: sr.Registry, order: int
) -> None:
    with sr.Materializer(shared, exact=True) as exact, sr.Materializer(shared) as fast:
        adapters, quick = exact.materialize(REFS[::order]), fast.materialize(REFS[::order])
    assert list(adapters) == list(REFS[::order])
    assert all(
        same(shared.checkout(ref), adapters[ref]) and close(shared.checkout(ref), quick[ref])
        for ref in REFS
    )


def test_references_of_one_version_share_its_memory(shared: sr.Registry) -> None:
    with sr.Materializer(shared) as materializer:
        adapters = materializer.materialize(["gloss@v2", "gloss@prod"])
    key = next(iter(adapters["gloss@v2"].tensors))
    assert (
        adapters["gloss@v2"].tensors[key].data_ptr()
        == adapters["gloss@prod"].tensors[key].data_ptr()
    )


def test_factors_of_one_pass_are_views_of_one_stretch_of_memory(shared: sr.Registry) -> None:
    with sr.Materializer(shared) as materializer:
        adapters = materializer.materialize(REFS)
    assert (
        len(
            {
                tensor.untyped_storage().data_ptr()
                for adapter in adapters.values()
                for tensor in adapter.tensors.values()
            }
        )
        == 1
    )


def test_an_alias_is_followed_at_every_call(registry: sr.Registry) -> None:
    for version in ("v1", "v2"):
        registry.commit(DEMO / "wn-pos-gloss" / version, task="gloss")
    registry.set_alias("gloss@v1", "prod")
    with sr.Materializer(registry, exact=True) as materializer:
        assert (
            materializer.materialize("gloss@prod")["gloss@prod"].ref == "all-minilm-l6-v2/gloss@v1"
        )
        with sr.Registry.open(registry.location) as writer:
            writer.set_alias("gloss@v2", "prod")
        moved = materializer.materialize("gloss@prod")["gloss@prod"]
        registry.rename("gloss", "sense")
        assert (
            materializer.materialize("gloss@prod")["gloss@prod"].ref == "all-minilm-l6-v2/sense@v2"
        )
    assert moved.ref == "all-minilm-l6-v2/gloss@v2"
    assert same(registry.checkout("gloss@v2"), moved)


def test_references_cost_statements_that_their_number_does_not_change_and_none_once_they_are_known(
    shared: sr.Registry,
) -> None:
    with sr.Materializer(shared) as materializer, sr.Materializer(shared) as second:
        assert (
            counted(lambda: materializer.materialize(REFS))
            == counted(lambda: second.materialize(["gloss", "gloss@v1", "gloss@prod"]))
            > 0
        )
        assert counted(lambda: materializer.materialize(REFS[::-1])) == 0
        assert counted(lambda: second.materialize("frame")) > 0


def test_a_store_that_lost_its_last_record_is_not_taken_for_unchanged(
    registry: sr.Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has read the record goes on, with a warning; who has not is refused."""
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    with sr.Materializer(registry) as materializer:
        materializer.materialize("gloss")
        max((Path(registry.location) / "spaces").rglob("*.json")).unlink()
        assert "not in the store" not in caplog.text
        materializer.materialize("gloss")
        assert "c2 of space all-minilm-l6-v2 is not in the store" in caplog.text
    for mode in ("r", "w"):
        with (
            sr.Registry.open(registry.location, mode=mode) as fresh,
            sr.Materializer(fresh) as materializer,
            pytest.raises(sr.IntegrityError, match=r"c2 .* is not in the store"),
        ):
            materializer.materialize("gloss")


def test_a_closed_registry_is_refused(registry: sr.Registry) -> None:
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    with sr.Materializer(registry) as materializer:
        materializer.materialize("gloss")
        registry.close()
        with pytest.raises(sr.RefusedError, match="closed"):
            materializer.materialize("gloss")


@pytest.mark.parametrize(
    "ref", ["gloss@2999-01-01", "gloss~1", "gloss@prod~0", "all-minilm-l6-v2/gloss@latest"]
)
def test_unusual_references_mean_what_they_mean_elsewhere(shared: sr.Registry, ref: str) -> None:
    with sr.Materializer(shared, exact=True) as materializer:
        adapters = materializer.materialize([ref, "noun"])
    assert adapters[ref].ref == shared.resolve(ref).ref
    assert same(shared.checkout(ref), adapters[ref])


@pytest.mark.parametrize("ref", ["nothing", "gloss@v9", "gloss@nowhere", "other/gloss"])
def test_a_reference_that_means_nothing_is_not_found(shared: sr.Registry, ref: str) -> None:
    with sr.Materializer(shared) as materializer, pytest.raises(sr.NotFoundError):
        materializer.materialize(["gloss", ref])


def test_a_dropped_task_is_not_found_and_its_versions_are(registry: sr.Registry) -> None:
    registry.commit(DEMO / "wn-pos-gloss" / "v1", task="gloss")
    with sr.Materializer(registry) as materializer:
        materializer.materialize("gloss")
        registry.drop("gloss")
        with pytest.raises(sr.NotFoundError, match="dropped"):
            materializer.materialize("gloss")
        assert materializer.materialize("gloss@v1")


def test_out_is_written_again_and_holds_the_new_results(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as materializer:
        memory = materializer.buffers()
        first = materializer.materialize(REFS, out=memory)
        size = memory.size_bytes
        places = {
            tensor.untyped_storage().data_ptr()
            for adapter in first.values()
            for tensor in adapter.tensors.values()
        }
        for refs in (REFS[::-1], REFS[2:4], REFS):
            adapters = materializer.materialize(refs, out=memory)
            assert all(same(shared.checkout(ref), adapters[ref]) for ref in refs)
            assert {
                tensor.untyped_storage().data_ptr()
                for adapter in adapters.values()
                for tensor in adapter.tensors.values()
            } <= places
        assert memory.size_bytes == size


def test_results_without_out_are_the_callers_own(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as materializer:
        for tensor in materializer.materialize("gloss")["gloss"].tensors.values():
            tensor.zero_()
        assert same(shared.checkout("gloss"), materializer.materialize("gloss")["gloss"])


def test_out_must_be_buffers(shared: sr.Registry) -> None:
    with (
        sr.Materializer(shared) as materializer,
        pytest.raises(sr.InvalidInputError, match="buffers"),
    ):
        materializer.materialize("gloss", out=torch.empty(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", torch.bfloat16, "float16", torch.float64])
def test_a_dtype_is_a_cast_of_the_exact_value(
    shared: sr.Registry, dtype: torch.dtype | str
) -> None:
    with sr.Materializer(shared, exact=True, dtype=dtype) as materializer:
        assert same(
            shared.checkout("gloss", dtype=dtype), materializer.materialize("gloss")["gloss"]
        )


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_an_exact_result_in_another_type_is_that_of_checkout(
    registry: sr.Registry, tmp_path: Path, dtype: str
) -> None:
    folder = write_planted(tmp_path / "adapters", 1)["t00"]
    file = folder / "adapter_model.safetensors"
    save_file({key: tensor.half() for key, tensor in load_file(file).items()}, file)
    registry.commit(folder, task="half", budget=0.001)
    state = sr.Materializer(registry, dtype=dtype, exact=True).state_dict("half")
    for key, tensor in registry.checkout("half", dtype=dtype).tensors.items():
        assert tensor.equal(state[key])


def test_eviction_keeps_results_right_and_memory_within_the_limit(
    registry: sr.Registry, tmp_path: Path
) -> None:
    tasks = write_planted(tmp_path / "adapters", 8, shared=0)
    for name, folder in tasks.items():
        registry.commit(folder, task=name)
    with sr.Materializer(registry, exact=True) as unlimited:
        assert unlimited.prefetch(tasks) == 8
        limit = unlimited.resident_bytes // 3
    with sr.Materializer(registry, exact=True, memory_limit=limit) as materializer:
        assert 0 < materializer.prefetch(tasks) < 8
        for refs in (list(tasks), list(tasks)[::-1], ["t03"]):
            adapters = materializer.materialize(refs)
            assert materializer.resident_bytes <= limit
            assert all(same(registry.checkout(ref), adapters[ref]) for ref in refs)
        assert materializer.evictions
        with pytest.raises(sr.RefusedError, match="memory_limit"):
            materializer.prepare(tasks)


def test_a_limit_below_one_adapter_is_refused(shared: sr.Registry) -> None:
    with (
        sr.Materializer(shared, memory_limit=1000) as materializer,
        pytest.raises(sr.RefusedError, match="1000 bytes"),
    ):
        materializer.materialize("gloss")


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
    with sr.Materializer(registry, exact=True) as materializer:
        expected = {
            key: tensor.clone()
            for key, tensor in materializer.materialize("gloss")["gloss"].tensors.items()
        }
        for path in (Path(registry.location) / "objects").rglob("*"):
            if path.is_file():
                path.unlink()
        assert all(
            tensor.equal(expected[key])
            for key, tensor in materializer.materialize("gloss")["gloss"].tensors.items()
        )


def test_a_prepared_pass_is_made_again_in_place(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as materializer:
        prepared = materializer.prepare(["gloss@prod", "noun"])
        for tensor in prepared.adapters["noun"].tensors.values():
            tensor.zero_()
        prepared.run()
        assert same(shared.checkout("noun"), prepared.adapters["noun"])
        assert same(shared.checkout("gloss@v2"), prepared.adapters["gloss@prod"])


def test_a_closed_materializer_refuses_and_its_results_stay(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as materializer:
        adapter = materializer.materialize("gloss")["gloss"]
    assert materializer.resident_bytes == 0
    assert same(shared.checkout("gloss"), adapter)
    with pytest.raises(sr.RefusedError, match="closed"):
        materializer.materialize("gloss")


def test_threads_get_what_one_gets(shared: sr.Registry) -> None:
    expected = {ref: shared.checkout(ref) for ref in REFS}
    with sr.Materializer(shared, exact=True) as probe:
        probe.prefetch(REFS)
        limit = int(0.7 * probe.resident_bytes)
    wrong: list[str] = []

    def work(materializer: sr.Materializer, shift: int) -> None:
        for turn in range(4):
            refs = [*REFS[(shift + turn) % 7 :], *REFS[: (shift + turn) % 7]][:4]
            adapters = materializer.materialize(refs)
            wrong.extend(ref for ref in refs if not same(expected[ref], adapters[ref]))

    with sr.Materializer(shared, exact=True, memory_limit=limit) as materializer:
        threads = [
            threading.Thread(target=work, args=(materializer, number)) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert materializer.resident_bytes <= limit
    assert wrong == []


def test_memory_made_in_inference_mode_is_written_outside_of_it(shared: sr.Registry) -> None:
    with sr.Materializer(shared, exact=True) as materializer:
        memory = materializer.buffers()
        with torch.inference_mode():
            materializer.materialize("gloss", out=memory)
        assert same(shared.checkout("noun"), materializer.materialize("noun", out=memory)["noun"])


def test_a_materialized_adapter_saves_the_files_of_a_checkout(
    shared: sr.Registry, tmp_path: Path
) -> None:
    with sr.Materializer(shared, exact=True) as materializer:
        saved = materializer.materialize("noun")["noun"].save(tmp_path / "materialized")
    expected = shared.checkout("noun").save(tmp_path / "checkout")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == {
        path.name: path.read_bytes() for path in expected.iterdir()
    }


def test_scales_are_those_of_the_config(shared: sr.Registry) -> None:
    with sr.Materializer(shared) as materializer:
        adapter = materializer.materialize("noun")["noun"]
    expected = shared.checkout("noun")
    assert module_scales(adapter.config, adapter.layout) == module_scales(
        expected.config, expected.layout
    )


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_gpu_gives_the_exact_bytes_of_the_cpu(
    shared: sr.Registry, dtype: torch.dtype | None
) -> None:
    with sr.Materializer(shared, device="cuda", exact=True, dtype=dtype) as materializer:
        adapters, prepared = materializer.materialize(REFS), materializer.prepare(REFS)
        prepared.run()
    for ref in REFS:
        expected = shared.checkout(ref, dtype=dtype)
        assert all(
            tensor.equal(adapters[ref].tensors[key].cpu())
            and tensor.equal(prepared.adapters[ref].tensors[key].cpu())
            for key, tensor in expected.tensors.items()
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
    with sr.Materializer(shared, device="cuda", dtype=dtype) as materializer:
        adapters, prepared = materializer.materialize(REFS), materializer.prepare(REFS)
        for tensor in prepared.adapters["noun"].tensors.values():
            tensor.zero_()
        prepared.run()
        for ref in REFS:
            for key, tensor in shared.checkout(ref).tensors.items():
                assert (
                    adapters[ref].tensors[key].cpu().double() - tensor.double()
                ).norm() <= limit * tensor.double().norm()
                assert adapters[ref].tensors[key].equal(prepared.adapters[ref].tensors[key])
