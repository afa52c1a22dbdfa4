"""Merging tasks: on dW, as a commit with its parents; one task with weight 1 is that task."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import share_registry as sr
from share_registry.catalog.queries import version_lookups
from tests.exchange import zoo
from tests.registry.plain import Floats, files, tensors
from tests.registry.planted import write_planted

Original = Callable[[str], Path]
SPACE = "tiny"
NOT_LINEAR = ("dora", "lora_bias", "grouped", "tied")
ROUNDING = 1e-6
"""Relative: parents and merged are float32."""


@pytest.fixture
def two(registry: sr.Registry, tmp_path: Path) -> dict[str, Path]:
    """Two tasks, every bit of them kept."""
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(refit=False, budget=0))
    folders = write_planted(tmp_path / "adapters", 2)
    for task, place in folders.items():
        registry.commit(place, task=task)
    return folders


def updates(place: Path) -> dict[str, Floats]:
    config, factors = json.loads((place / "adapter_config.json").read_text()), tensors(place)
    scale = config["lora_alpha"] / config["r"]
    return {
        key: scale * factors[key.replace("lora_A", "lora_B")] @ factors[key]
        for key in factors
        if "lora_A" in key
    }


def same(actual: dict[str, Floats], expected: dict[str, Floats]) -> bool:
    return actual.keys() == expected.keys() and all(
        np.linalg.norm(actual[key] - expected[key]) <= ROUNDING * np.linalg.norm(expected[key])
        for key in expected
    )


@pytest.mark.parametrize("name", zoo.CASES)
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_one_task_with_weight_1_is_that_task(
    name: str, method: str, original: Original, registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space("zoo")
    registry.commit(original(name), task="variant", space="zoo", allow_base_mismatch=True)
    commit = registry.space("zoo").merge({"variant": 1.0}, task="again", method=method)
    source = registry.space("zoo").show("variant").report
    assert commit.report is not None
    assert source is not None
    assert (commit.kind, commit.report.bytes_added, commit.report.error) == (
        "merge",
        0,
        source.error,
    )
    with registry.context.reading() as session:
        old, new = (
            version_lookups.version_row(session, "zoo", task, 1) for task in ("variant", "again")
        )
    same_parts = (
        "adapter_digest",
        "layout_digest",
        "tensors_digest",
        "config_digest",
        "source_digest",
        "norm",
        "raw_bytes",
    )
    assert [getattr(old, part) for part in same_parts] == [
        getattr(new, part) for part in same_parts
    ]
    first, second = (
        files(registry.space("zoo").export(task, tmp_path / task).path)
        for task in ("variant", "again")
    )
    assert {key: value for key, value in first.items() if key != "README.md"} == {
        key: value for key, value in second.items() if key != "README.md"
    }
    assert registry.verify("deep").ok


@pytest.mark.parametrize("name", [name for name in zoo.CASES if name not in NOT_LINEAR])
def test_halves_of_a_variant_answer_as_the_whole(
    name: str, original: Original, copied: Original, registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space("zoo", policy=sr.Policy(budget=0, refit=False))
    for task in ("one", "two"):
        registry.commit(original(name), task=task, space="zoo", allow_base_mismatch=True)
    registry.space("zoo").merge({"one": 0.5, "two": 0.5}, task="both")
    exported = registry.space("zoo").export("both", tmp_path / "out").path
    tolerance = zoo.PORTABLE if zoo.CASES[name].dtype is torch.float32 else 0.05
    assert (
        zoo.logits(zoo.load(name, exported)) - zoo.logits(zoo.load(name, original(name)))
    ).abs().max() <= tolerance


def test_linear_is_the_weighted_sum_of_dw(
    registry: sr.Registry, two: dict[str, Path], tmp_path: Path
) -> None:
    first, second = (updates(place) for place in two.values())
    names = list(two)
    registry.merge({names[0]: 0.75, names[1]: -0.5}, task="both")
    merged = updates(registry.export("both", tmp_path / "out").path)
    assert same(merged, {key: 0.75 * first[key] - 0.5 * second[key] for key in first})


def test_the_parents_and_their_weights_stand_in_the_lineage(
    registry: sr.Registry, two: dict[str, Path]
) -> None:
    commit = registry.merge(
        {"t01": 0.25, "t00": 0.5, "t00@v1": 0.25},
        task="both",
        method="ties",
        density=0.3,
        message="why",
        labels={"a": "b"},
    )
    assert (commit.versions, commit.message, commit.labels["a"]) == ({"both": 1}, "why", "b")
    assert "0.75" in commit.detail
    assert [node.ref for node in registry.lineage("both").nodes[1:]] == [
        f"{SPACE}/{task}@v1" for task in ("t00", "t01")
    ]
    assert commit.report is not None
    assert any("ties at density 0.3" in note for note in commit.report.notes)
    assert registry.verify("deep").ok


def test_a_merge_of_the_same_parents_again_shows_its_own_weights(
    registry: sr.Registry, two: dict[str, Path]
) -> None:
    first, second = two
    registry.merge({first: 0.3, second: 0.7}, task="both")
    again = registry.merge({first: 0.6, second: 0.4}, task="both")
    vias = [node.via for node in registry.lineage(again.ref).nodes if node.depth == 1]
    assert vias == ["version", "merged, 0.6", "merged, 0.4"]


def test_weights_that_are_all_zero_merge_nothing(
    registry: sr.Registry, two: dict[str, Path]
) -> None:
    with pytest.raises(sr.InvalidInputError, match="every weight is 0"):
        registry.merge(dict.fromkeys(two, 0.0), task="both")


@pytest.mark.parametrize("weight", [1e160, -1e200, 1e16])
def test_a_weight_that_no_number_survives_is_refused(
    registry: sr.Registry, two: dict[str, Path], weight: float
) -> None:
    task = registry.commit(two[min(two)], task="one").ref
    with pytest.raises(sr.InvalidInputError, match="expected numbers about 1"):
        registry.merge({task: weight}, task="both")


def test_a_key_stands_for_one_merge(registry: sr.Registry, two: dict[str, Path]) -> None:
    first = registry.merge({"t00": 0.5, "t01": 0.5}, task="both", idempotency_key="k")
    again = registry.merge({"t00": 0.5, "t01": 0.5}, task="both", idempotency_key="k")
    assert (again.number, again.created) == (first.number, False)
    with pytest.raises(sr.ConflictError):
        registry.merge({"t00": 0.5, "t01": 0.25}, task="both", idempotency_key="k")


def test_a_dry_run_writes_nothing(registry: sr.Registry, two: dict[str, Path]) -> None:
    before = files(Path(registry.location))
    commit = registry.merge({"t00": 0.5, "t01": 0.5}, task="both", dry_run=True)
    assert (commit.kind, commit.created, commit.refs) == (
        "merge",
        False,
        {"both": f"{SPACE}/both@v1"},
    )
    assert files(Path(registry.location)) == before


def test_dare_is_reproducible(registry: sr.Registry, two: dict[str, Path]) -> None:
    adapters = [
        registry.merge({"t00": 0.5, "t01": 0.5}, task=task, method="dare", seed=seed)
        for task, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    with registry.context.reading() as session:
        rows = [version_lookups.version_row(session, SPACE, task, 1) for task in ("a", "b", "c")]
    digests = [row.tensors_digest for row in rows if row is not None]
    assert len(adapters) == 3
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"method": "slerp"}, sr.InvalidInputError, "slerp"),
        ({"density": 0.5}, sr.InvalidInputError, "density"),
        ({"method": "ties", "seed": 1}, sr.InvalidInputError, "seed"),
        ({"expected": 3}, sr.ConflictError, "expected v3"),
        ({"parents": {}}, sr.InvalidInputError, "0 parents"),
        ({"parents": {"t00": float("nan")}}, sr.InvalidInputError, "finite"),
        ({"parents": {"t09": 1.0}}, sr.NotFoundError, "t09"),
    ],
)
def test_what_makes_no_sense_is_refused(
    registry: sr.Registry,
    two: dict[str, Path],
    options: dict[str, object],
    error: type[Exception],
    text: str,
) -> None:
    before = len(registry.log().commits)
    arguments = {"parents": {"t00": 0.5, "t01": 0.5}, "task": "both", **options}
    with pytest.raises(error, match=text):
        registry.merge(**arguments)  # type: ignore[arg-type]
    assert len(registry.log().commits) == before


def test_parents_under_two_labels_that_the_space_knows_are_merged(
    registry: sr.Registry, two: dict[str, Path]
) -> None:
    first, second = sorted(two)
    config = two[second] / "adapter_config.json"
    values = json.loads(config.read_text()) | {"base_model_name_or_path": "mirror/tiny"}
    config.write_text(json.dumps(values))
    registry.commit(two[second], task="mirrored", space=SPACE, allow_base_mismatch=True)
    registry.merge({first: 0.5, "mirrored": 0.5}, task="both")
    registry.merge({first: 0.5, second: 0.5}, task="same")
    both, one_label = (
        updates(registry.export(task, config.parent / "out").path) for task in ("both", "same")
    )
    assert same(both, one_label)


def test_parents_of_two_spaces_are_refused(registry: sr.Registry, two: dict[str, Path]) -> None:
    registry.create_space("other", base_model="acme/tiny")
    registry.commit(two["t00"], task="t00", space="other")
    with pytest.raises(sr.RefusedError, match="expected one"):
        registry.merge({"tiny/t00": 0.5, "other/t00": 0.5}, task="both")


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_several_are_refused_where_factors_do_not_say_all(
    name: str, original: Original, registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space("zoo")
    for task in ("one", "two"):
        registry.commit(
            shutil.copytree(original(name), tmp_path / task),
            task=task,
            space="zoo",
            allow_base_mismatch=True,
        )
    with pytest.raises(sr.RefusedError, match="cannot be merged"):
        registry.space("zoo").merge({"one": 0.5, "two": 0.5}, task="both")


def test_portable_export_has_the_pseudo_rank(registry: sr.Registry, tmp_path: Path) -> None:
    registry.create_space(SPACE, base_model="acme/tiny", policy=sr.Policy(k=12, pseudo_rank=2))
    folders = write_planted(tmp_path / "adapters", 2)
    for task, place in folders.items():
        registry.commit(place, task=task)
    native = registry.export("t01", tmp_path / "native").path
    portable = registry.export("t01", tmp_path / "portable", profile="portable").path
    config = json.loads((portable / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    assert {value.shape[0] for key, value in tensors(portable).items() if "lora_A" in key} == {2}
    assert same(updates(portable), updates(native))
