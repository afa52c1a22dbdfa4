"""The materializer.

The same bytes whatever is kept in memory, on any device, with any number of threads.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from share_registry.errors import IntegrityError
from share_registry.format.records import AbsorbRecord, parse_record
from share_registry.materialize import decoder
from share_registry.materialize.decoder import Reader
from share_registry.names import CommitNumber, Digest, SpaceName
from tests.registry.conftest import DEMO
from tests.spec import readers

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> sr.Registry:
    """Three versions of a task and adapters of one seed.

    Previous versions and blocks are referred to.
    """
    opened = sr.Registry.open(tmp_path_factory.mktemp("materialize") / "registry")
    for version in ("v1", "v2", "v3"):
        opened.commit(DEMO / "wn-pos-gloss" / version, task="gloss")
    for task in ("wn-noun-abstract", "wn-syn-ant", "wn-verb-frame"):
        opened.commit(DEMO / task / "s42", task=task, budget=0.05)
    return opened


def equal(actual: sr.Adapter, expected: sr.Adapter) -> bool:
    return all(
        torch.equal(tensor.cpu(), expected.tensors[key].cpu())
        for key, tensor in actual.tensors.items()
    )


def test_references_are_really_used(registry: sr.Registry) -> None:
    used = {
        module.reference
        for task in registry.tasks()
        for report in [registry.show(task.ref).report]
        if report
        for module in report.modules
    }
    assert any(reference.startswith("rows of c") for reference in used)


def test_a_small_cache_changes_nothing(registry: sr.Registry) -> None:
    with sr.Registry.open(registry.location, mode="r") as uncached:
        uncached.context._reader = Reader(uncached.context.store, cache_bytes=1)
        for task in registry.tasks():
            assert equal(registry.checkout(task.ref), uncached.checkout(task.ref))


def test_tensors_handed_out_are_the_callers_own(registry: sr.Registry) -> None:
    adapter = registry.checkout("gloss@v2")
    for tensor in adapter.tensors.values():
        tensor.zero_()
    assert registry.checkout("gloss@v2").tensors[next(iter(adapter.tensors))].any()
    assert registry.verify("deep").ok


def test_tensors_of_one_checkout_lie_in_memory_of_their_own(
    registry: sr.Registry, tmp_path: Path
) -> None:
    tensors = dict(registry.checkout("gloss@v3").tensors)
    assert all(
        tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        for tensor in tensors.values()
    )
    save_file(tensors, tmp_path / "saved.safetensors")  # which refuses tensors that share memory
    first, *others = tensors.values()
    before = [tensor.clone() for tensor in others]
    first.fill_(7.0)
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(others, before, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float64])
def test_a_dtype_is_a_cast_of_the_exact_value(
    registry: sr.Registry, dtype: torch.dtype | str
) -> None:
    exact, cast = registry.checkout("gloss"), registry.checkout("gloss", dtype=dtype)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert all(
        torch.equal(tensor.to(expected), cast.tensors[key]) for key, tensor in exact.tensors.items()
    )


@pytest.mark.parametrize(
    ("option", "value"), [("device", "gpu-7"), ("dtype", "int8"), ("dtype", "float99")]
)
def test_an_unknown_device_or_dtype_is_named(
    registry: sr.Registry, option: str, value: str
) -> None:
    with pytest.raises(sr.InvalidInputError, match=value):
        registry.checkout("gloss", **{option: value})  # type: ignore[arg-type]


def test_a_missing_object_is_named(tmp_path: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as opened:
        for version in ("v1", "v2"):
            opened.commit(DEMO / "wn-pos-gloss" / version, task="gloss")
        (previous,) = opened.context.reader().open(_adapter(opened, "gloss@v2")).stored.sources
        place = Path(opened.location) / "objects" / previous[:2] / previous[2:]
        content = place.read_bytes()
        place.unlink()
        opened.context._reader = None
        with pytest.raises(IntegrityError, match=previous):
            opened.checkout("gloss@v2")
        place.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(IntegrityError, match=previous):
            opened.checkout("gloss@v2")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_write_what_one_writes_in_any_mode_of_torch(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(DEMO / "wn-pos-gloss" / "v1", adapter)
    tensors = {
        key: tensor.to(dtype)
        for key, tensor in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with sr.Registry.open(tmp_path / "registry") as registry:
        registry.commit(adapter, task="gloss")
        expected = registry.checkout("gloss")
    monkeypatch.setattr(decoder, "_SPREAD_BYTES", 0)
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with sr.Registry.open(tmp_path / "registry") as registry, mode():
            assert equal(registry.checkout("gloss"), expected)


def test_a_value_that_a_tensor_cannot_hold_is_not_handed_out(tmp_path: Path) -> None:
    root = readers.unpack(readers.VECTORS / "bad" / "DEC-08-overflow.store.zip", tmp_path / "store")
    with sr.Registry.open(root, mode="r") as registry:
        store = registry.context.store
        record = parse_record(
            store.record(SpaceName("tiny"), CommitNumber(3)) or b"", subject="the last record"
        )
        assert isinstance(record, AbsorbRecord)
        with pytest.raises(IntegrityError, match="a value that F16 does not hold"):
            Reader(store).tensors(record.tasks[0].adapter)


@pytest.mark.gpu
@needs_cuda
def test_a_gpu_gives_the_same_bytes(registry: sr.Registry) -> None:
    for task in registry.tasks():
        on_gpu = registry.checkout(task.ref, device="cuda")
        assert all(tensor.device.type == "cuda" for tensor in on_gpu.tensors.values())
        assert equal(registry.checkout(task.ref), on_gpu)


def _adapter(registry: sr.Registry, ref: str) -> Digest:
    resolved = registry.resolve(ref)
    with registry.context.reading() as session:
        row = version_lookups.version_row(
            session, resolved.space, str(resolved.task), resolved.version or 0
        )
    assert row is not None
    return row.adapter_digest
