"""Element types that cannot hold a value refuse it by name, wherever they are asked for.

Nothing becomes infinite silently.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import share_registry as sr
from share_registry.materialize.models import swap
from tests.exchange import zoo
from tests.registry.planted import write, write_planted

LARGE = {"float16": 1e5, "float32": 1e39}
"""Values that are stored in a wider type and that these do not hold."""
WIDE = {"float16": torch.float32, "float32": torch.float64}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[sr.Registry]:
    with sr.Registry.open(tmp_path / "registry") as opened:
        opened.create_space("acme", base_model="acme/tiny")
        yield opened


def large(folder: Path, source: Path, dtype: str) -> Path:
    """Write an adapter again with values that a type does not hold."""
    tensors = load_file(source / "adapter_model.safetensors")
    return write(
        folder,
        {
            key: tensor.to(WIDE[dtype]) / tensor.abs().max() * LARGE[dtype]
            for key, tensor in tensors.items()
        },
        4,
    )


@pytest.fixture(
    params=[("float16", "own"), ("float16", "basis"), ("float16", "kept"), ("float32", "kept")],
    ids="-".join,
)
def dtype(request: pytest.FixtureRequest, registry: sr.Registry, tmp_path: Path) -> str:
    """An element type that does not hold the values of `t00`.

    `t00` is stored by rows of its own, over a basis, or bit for bit.
    """
    narrow, how = request.param
    planted = write_planted(tmp_path / "made", 8, modules=1, shared=2, noise=0.01)
    adapters = {
        name: large(tmp_path / "large" / name, folder, narrow) for name, folder in planted.items()
    }
    if how == "basis":
        assert registry.commit_many(adapters).basis
    else:
        registry.commit(adapters["t00"], task="t00", budget=0.0 if how == "kept" else 0.025)
    return str(narrow)


def test_a_checkout_names_what_its_type_does_not_hold(dtype: str, registry: sr.Registry) -> None:
    with pytest.raises(sr.RefusedError, match=rf"lora_[AB].weight.*: F{dtype[-2:]} holds at most"):
        registry.checkout("t00", dtype=dtype)
    assert all(
        bool(tensor.isfinite().all())
        for tensor in registry.checkout("t00", dtype=torch.float64).tensors.values()
    )


@pytest.mark.parametrize("exact", [True, False])
def test_a_materializer_names_what_its_type_does_not_hold(
    dtype: str, registry: sr.Registry, *, exact: bool
) -> None:
    with sr.Materializer(registry, dtype=dtype, exact=exact) as materializer:
        for call in (materializer.materialize, materializer.prepare, materializer.state_dict):
            with pytest.raises(
                sr.RefusedError, match=rf"lora_[AB].weight.*: F{dtype[-2:]} holds at most"
            ):
                call("t00")


@pytest.fixture
def live(registry: sr.Registry, tmp_path: Path) -> torch.nn.Module:
    """A live model whose adapter is stored as `fits` and, with one large value, as `wide`."""
    registry.create_space("zoo")
    model: torch.nn.Module = zoo.live("plain")
    registry.commit(model, task="fits", space="zoo", budget=0, allow_base_mismatch=True)
    adapter = registry.space("zoo").checkout("fits")
    list(adapter.tensors.values())[-1].view(-1)[0] = 1e8
    registry.commit(adapter, task="wide", space="zoo", budget=0, allow_base_mismatch=True)
    return model


def test_a_swap_into_narrow_parameters_changes_nothing_where_they_do_not_hold_a_value(
    registry: sr.Registry, live: torch.nn.Module
) -> None:
    live.half()
    before = {key: value.clone() for key, value in live.state_dict().items()}
    with sr.Materializer(registry.space("zoo")) as materializer:
        with pytest.raises(sr.RefusedError, match="F16 holds at most"):
            materializer.swap(live, "wide")
        assert all(value.equal(before[key]) for key, value in live.state_dict().items())
        materializer.swap(live, "fits")


def test_a_merge_into_narrow_weights_changes_nothing_where_they_do_not_hold_a_sum(
    registry: sr.Registry, live: torch.nn.Module
) -> None:
    model = zoo.CASES["plain"].base().half()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with sr.Materializer(registry.space("zoo")) as materializer:
        with pytest.raises(sr.RefusedError, match="F16 holds at most"):
            materializer.merge_into(model, "wide")
        assert all(value.equal(before[key]) for key, value in model.state_dict().items())
        materializer.merge_into(model, "fits")
        materializer.unmerge(model)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


SPOILED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "on no device": lambda weight: weight.to("meta"),
    "of float8": lambda weight: weight.to(torch.float8_e4m3fn),
    "rows that are one": lambda weight: weight[:1].expand(weight.shape),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_merge_that_fails_half_way_changes_nothing(
    registry: sr.Registry, live: torch.nn.Module, spoiled: str
) -> None:
    model = zoo.CASES["plain"].base()
    last = model.get_submodule(
        registry.space("zoo")
        .checkout("fits")
        .layout.factors[-1]
        .module.removeprefix("base_model.model.")
    )
    last.register_parameter(
        "weight",
        torch.nn.Parameter(
            SPOILED[spoiled](last.get_parameter("weight").detach()), requires_grad=False
        ),
    )
    before = {
        key: value.clone()
        for key, value in model.state_dict().items()
        if value.dtype == torch.float32 and value.device.type == "cpu"
    }
    with sr.Materializer(registry.space("zoo")) as materializer:
        with pytest.raises((sr.RefusedError, RuntimeError)):
            materializer.merge_into(model, "fits")
        with pytest.raises(sr.InvalidInputError, match="nothing was merged"):
            materializer.unmerge(model)
    assert len(before) > 1
    assert all(model.state_dict()[key].equal(value) for key, value in before.items())


def test_a_swap_wraps_no_integers(registry: sr.Registry, live: torch.nn.Module) -> None:
    adapter = registry.space("zoo").checkout("fits")
    integers = {key: (tensor * 1000).to(torch.int64) for key, tensor in adapter.tensors.items()}
    with pytest.raises(
        sr.InvalidInputError, match=r"is torch.float32 in adapter .* and torch.int64 in this one"
    ):
        swap(live, replace(adapter, tensors=integers))
