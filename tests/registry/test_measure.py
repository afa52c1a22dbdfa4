"""An adapter is measured a group of its tensors at a time; that nothing shows is the promise."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.algebra.error import pooled_error
from share_registry.algebra.rate_distortion import bound
from share_registry.catalog.queries import version_lookups
from share_registry.exchange.export_files import digest_in_order, digest_of_file
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.tensors import tensor_groups
from share_registry.materialize.decoder import CACHE_BYTES, Reader
from share_registry.outside.files import Outside
from share_registry.registry.commands import measure
from share_registry.values.cost_reports import AdapterReport
from tests.registry.conftest import DEMO

MODULES, RANK, WIDTH = 12, 8, 8192
BUDGET = 0.025
CLOSE = 1e-9
"""What rounding of the Grams' sums may do to an error of a few percent."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of several groups, with a passenger, all A of which stand before all B."""
    generator = torch.Generator().manual_seed(7)
    modules = [f"base_model.model.layers.{number}.proj" for number in range(MODULES)]
    tensors = {
        f"{module}.lora_{side}.weight": torch.randn(*shape, generator=generator) / 50
        for module in modules
        for side, shape in (("A", (RANK, WIDTH)), ("B", (WIDTH, RANK)))
    }
    tensors["base_model.model.score.weight"] = torch.randn(4, WIDTH, generator=generator)
    path = tmp_path_factory.mktemp("large")
    # safetensors puts wide element types first
    save_file(
        {key: value.half() if "lora_B" in key else value for key, value in tensors.items()},
        path / "adapter_model.safetensors",
    )
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "some/base",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["proj"],
        "modules_to_save": ["score"],
    }
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def test_groups_have_every_tensor_once_in_the_order_of_the_file(folder: Path) -> None:
    layout = read_place(folder, outside=Outside()).layout
    groups = tensor_groups(layout, elements=100_000)
    factors = [number for group in groups for number in group.factors]
    assert len(groups) > 2
    assert sorted(factors) == list(range(len(layout.factors)))
    assert [index for group in groups for index in group.passengers] == layout.passengers
    places = [min(layout.factors[number].a, layout.factors[number].b) for number in factors]
    assert all(before < after for before, after in pairwise(places))


def test_an_adapter_of_several_groups_is_what_its_commit_says(
    registry: sr.Registry, folder: Path
) -> None:
    report = registry.commit(folder, task="large", budget=BUDGET).reports["large"]
    source, stored = read_place(folder, outside=Outside()), registry.checkout("large")
    assert len(tensor_groups(source.layout, elements=measure._GROUP)) > 1
    error = pooled_error(stored.factor_pairs(), source.factor_pairs())
    assert report.error == pytest.approx(error, rel=CLOSE)
    assert 0.9 * BUDGET < report.error <= BUDGET
    assert report.bits_bound == pytest.approx(bound(stored.factor_pairs(), budget=error), rel=CLOSE)
    assert registry.verify(level="deep").ok


def test_an_adapter_of_several_groups_is_kept_bit_for_bit(
    registry: sr.Registry, folder: Path
) -> None:
    registry.commit(folder, task="large", budget=0)
    tensors = registry.checkout("large").tensors
    source = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(tensors[key], source[key]) for key in source)
    assert registry.verify(level="deep").ok


def test_tensors_in_order_have_the_digest_of_their_file() -> None:
    adapter = read_place(DEMO / "wn-pos-gloss" / "v1", outside=Outside())
    tensors = iter([adapter.tensors[spec.key] for spec in adapter.layout.tensors])
    assert digest_in_order(adapter.layout, tensors) == digest_of_file(
        adapter.layout, adapter.tensors
    )


def test_an_adapter_too_large_to_be_kept_is_measured_alike(folder: Path, tmp_path: Path) -> None:
    commits = (
        (DEMO / "wn-pos-gloss" / "v1", "gloss", 0.025),
        # with its previous version, and rows of earlier adapters
        (DEMO / "wn-pos-gloss" / "v2", "gloss", 0.025),
        (DEMO / "wn-syn-ant" / "s42", "syn", 0.05),
        (DEMO / "wn-verb-frame" / "s42", "exact", 0.0),
        (folder, "large", BUDGET),
    )
    reports: list[list[AdapterReport]] = []
    for cache_bytes in (CACHE_BYTES, 1):
        with sr.Registry.open(tmp_path / str(cache_bytes)) as registry:
            registry.context._reader = Reader(registry.context.store, cache_bytes=cache_bytes)
            reports.append(
                [
                    registry.commit(path, task=task, budget=budget).reports[task]
                    for path, task, budget in commits
                ]
            )
            assert registry.verify(level="deep").ok
    kept, in_parts = reports
    references = {module.reference for report in kept for module in report.modules}
    assert {"none", "lossless"} < references
    assert kept == in_parts


def test_what_is_too_large_to_be_kept_is_not_expanded_as_a_whole(
    registry: sr.Registry, folder: Path
) -> None:
    registry.commit(folder, task="large", budget=BUDGET)
    with registry.context.catalog.begin() as session:
        (row,) = version_lookups.all_versions(session)
    layout = registry.context.reader().open(row.adapter_digest).layout
    decoded = Reader(registry.context.store, cache_bytes=1).in_groups(row.adapter_digest)
    assert not any(module is not None and module.a.own.any() for module in decoded.stored.modules)
    expected = registry.checkout("large").tensors
    groups = tensor_groups(layout, elements=100_000)
    assert len(groups) > 2
    for group in reversed(groups):
        tensors = decoded.tensors(group, decoded.modules(group))
        assert all(torch.equal(tensor, expected[key]) for key, tensor in tensors.items())
