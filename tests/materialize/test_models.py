"""Live models take what a materializer makes.

Swapped into a PEFT model, merged into a plain one, or as a state dict.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import share_registry as sr
from tests.exchange import zoo

Original = Callable[[str], Path]


@pytest.fixture
def trained(
    registry: sr.Registry, original: Original, tmp_path: Path
) -> Callable[[str], sr.Registry]:
    """Commit a case of the zoo as `one`, and with other values and twice the alpha as `two`."""

    def commit(name: str) -> sr.Registry:
        registry.create_space("zoo")
        registry.commit(original(name), task="one", space="zoo", budget=0, allow_base_mismatch=True)
        model = zoo.live(name)
        zoo.scatter(model)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.data.mul_(0.5).add_(0.01)
        changed = zoo.save(model, tmp_path / "two", dtype=zoo.CASES[name].dtype)
        config = changed / "adapter_config.json"
        config.write_text(config.read_text().replace('"lora_alpha": 6', '"lora_alpha": 12'))
        registry.commit(changed, task="two", space="zoo", budget=0, allow_base_mismatch=True)
        return registry

    return commit


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "rank_pattern",
        "alpha_pattern",
        "rslora",
        "dora",
        "modules_to_save",
        "gpt2",
        "embedding",
        "convolution",
        "experts",
    ],
)
def test_a_swapped_model_answers_as_one_that_was_loaded(
    name: str, trained: Callable[[str], sr.Registry], tmp_path: Path
) -> None:
    registry = trained(name)
    paths = {
        task: registry.space("zoo").export(task, tmp_path / "out").path for task in ("one", "two")
    }
    model = zoo.load(name, paths["one"])
    parameters = dict(model.named_parameters())
    before = zoo.logits(model)
    with sr.Materializer(registry.space("zoo")) as materializer:
        assert materializer.swap(model, "two") == "default"
        assert (
            zoo.logits(model) - zoo.logits(zoo.load(name, paths["two"]))
        ).abs().max() == zoo.EXACT
        assert (zoo.logits(model) - before).abs().max() > 0
        materializer.swap(model, "one", adapter_name="default")
    assert (zoo.logits(model) - before).abs().max() == zoo.EXACT
    assert all(parameter is parameters[key] for key, parameter in model.named_parameters())


def test_an_adapter_loaded_anew_under_the_same_name_is_found_by_the_next_swap(
    trained: Callable[[str], sr.Registry], tmp_path: Path
) -> None:
    registry = trained("plain")
    paths = {
        task: registry.space("zoo").export(task, tmp_path / "out").path for task in ("one", "two")
    }
    model = zoo.load("plain", paths["one"])
    expected = zoo.logits(zoo.load("plain", paths["two"]))
    with sr.Materializer(registry.space("zoo")) as materializer:
        materializer.swap(model, "two")
        materializer.swap(model, "one")
        model.load_adapter(str(paths["one"]), adapter_name="other")
        model.set_adapter("other")
        model.delete_adapter("default")
        model.load_adapter(str(paths["one"]), adapter_name="default")
        model.set_adapter("default")
        materializer.swap(model, "two")
        assert (zoo.logits(model) - expected).abs().max() == zoo.EXACT
        model.set_adapter("other")
        assert materializer.swap(model, "two") == "other"
        assert (zoo.logits(model) - expected).abs().max() == zoo.EXACT


@pytest.mark.parametrize(
    ("case", "match"),
    [("rank_pattern", "tensor"), ("regex", "has besides"), ("dora", "has no place")],
)
def test_a_swap_that_does_not_fit_changes_nothing(
    registry: sr.Registry, original: Original, tmp_path: Path, case: str, match: str
) -> None:
    registry.create_space("zoo")
    registry.commit(original(case), task="other", space="zoo", allow_base_mismatch=True)
    registry.commit(original("plain"), task="plain", space="zoo", allow_base_mismatch=True)
    model = zoo.load("plain", registry.space("zoo").export("plain", tmp_path / "out").path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with (
        sr.Materializer(registry.space("zoo")) as materializer,
        pytest.raises(sr.InvalidInputError, match=match),
    ):
        materializer.swap(model, "other")
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_a_swap_into_a_merged_or_plain_model_or_under_an_unknown_name_is_refused(
    trained: Callable[[str], sr.Registry], tmp_path: Path
) -> None:
    registry = trained("plain")
    model = zoo.load("plain", registry.space("zoo").export("one", tmp_path / "out").path)
    with sr.Materializer(registry.space("zoo")) as materializer:
        with pytest.raises(sr.NotFoundError, match="other"):
            materializer.swap(model, "two", adapter_name="other")
        with pytest.raises(sr.InvalidInputError, match="PeftModel"):
            materializer.swap(zoo.llama(), "two")
        model.merge_adapter()
        with pytest.raises(sr.RefusedError, match="merged"):
            materializer.swap(model, "two")


@pytest.mark.parametrize(
    "name",
    ["plain", "rank_pattern", "rslora", "alpha_pattern", "bf16", "gpt2", "convolution", "bert"],
)
def test_a_merged_model_answers_as_the_adapter_and_unmerging_gives_every_bit_back(
    name: str, trained: Callable[[str], sr.Registry], tmp_path: Path
) -> None:
    registry = trained(name)
    model = zoo.CASES[name].base()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = zoo.logits(
        zoo.load(name, registry.space("zoo").export("one", tmp_path / "out").path)
    )
    with sr.Materializer(registry.space("zoo")) as materializer:
        materializer.merge_into(model, "one")
        assert (zoo.logits(model) - expected).abs().max() <= zoo.PORTABLE
        with pytest.raises(sr.RefusedError, match="already"):
            materializer.merge_into(model, "two")
        materializer.unmerge(model)
        assert all(value.equal(before[key]) for key, value in model.state_dict().items())
        with pytest.raises(sr.InvalidInputError, match="nothing was merged"):
            materializer.unmerge(model)


def test_what_a_merged_model_was_is_kept_with_the_model(
    trained: Callable[[str], sr.Registry],
) -> None:
    registry, model = trained("plain"), zoo.CASES["plain"].base()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with sr.Materializer(registry.space("zoo")) as materializer:
        materializer.merge_into(model, "one")
    twin = copy.deepcopy(model)
    with sr.Materializer(registry.space("zoo")) as second:
        for either in (twin, model):
            second.unmerge(either)
            assert all(value.equal(before[key]) for key, value in either.state_dict().items())
            second.merge_into(either, "two")


def test_a_mode_of_autocast_changes_nothing_of_a_merge(
    trained: Callable[[str], sr.Registry],
) -> None:
    registry, models = trained("plain"), [zoo.CASES["plain"].base() for _ in range(2)]
    with sr.Materializer(registry.space("zoo")) as materializer:
        materializer.merge_into(models[0], "one")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            materializer.merge_into(models[1], "one")
    merged = models[1].state_dict()
    assert all(value.equal(merged[key]) for key, value in models[0].state_dict().items())


def test_a_swapped_model_saves_what_it_computes_where_a_config_leaves_options_out(
    trained: Callable[[str], sr.Registry], tmp_path: Path
) -> None:
    registry = trained("plain")
    old = registry.space("zoo").export("two", tmp_path / "out").path
    config = json.loads((old / "adapter_config.json").read_text())
    for member in ("use_rslora", "rank_pattern", "alpha_pattern"):
        config.pop(member, None)
    (old / "adapter_config.json").write_text(json.dumps(config))
    registry.commit(old, task="old", space="zoo", budget=0, allow_base_mismatch=True)
    model = zoo.load("plain", registry.space("zoo").export("one", tmp_path / "out").path)
    said = model.peft_config["default"]
    said.use_rslora, said.alpha_pattern = True, {".*": 100}
    with sr.Materializer(registry.space("zoo")) as materializer:
        materializer.swap(model, "old")
        expected = zoo.logits(model)
        model.save_pretrained(tmp_path / "saved")
        assert (
            zoo.logits(zoo.load("plain", tmp_path / "saved")) - expected
        ).abs().max() == zoo.EXACT
        said.alpha_pattern[".*"] = 7  # of this model alone
        materializer.materialize("old")["old"].config["lora_alpha"] = 800  # type: ignore[index]
        fresh = zoo.load("plain", registry.space("zoo").export("one", tmp_path / "out").path)
        materializer.swap(fresh, "old")
        assert (zoo.logits(fresh) - expected).abs().max() == zoo.EXACT


@pytest.mark.parametrize(
    "name",
    ["dora", "modules_to_save", "experts", "alora", "attention", "grouped", "gpt2_embedding"],
)
def test_what_is_more_than_dw_of_a_weight_is_not_merged(
    name: str, registry: sr.Registry, original: Original
) -> None:
    registry.create_space("zoo")
    registry.commit(original(name), task="one", space="zoo", allow_base_mismatch=True)
    model = zoo.CASES[name].base()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with sr.Materializer(registry.space("zoo")) as materializer, pytest.raises(sr.RefusedError):
        materializer.merge_into(model, "one")
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_a_model_without_the_modules_is_not_merged_into(
    trained: Callable[[str], sr.Registry],
) -> None:
    registry = trained("plain")
    with sr.Materializer(registry.space("zoo")) as materializer:
        with pytest.raises(sr.InvalidInputError, match="no module"):
            materializer.merge_into(zoo.bert(), "one")
        with pytest.raises(sr.RefusedError, match="PEFT model"):
            materializer.merge_into(zoo.live("plain"), "one")


def test_a_state_dict_is_what_peft_loads(
    trained: Callable[[str], sr.Registry], tmp_path: Path
) -> None:
    registry = trained("plain")
    paths = {
        task: registry.space("zoo").export(task, tmp_path / "out").path for task in ("one", "two")
    }
    model, expected = zoo.load("plain", paths["one"]), zoo.load("plain", paths["two"])
    with sr.Materializer(registry.space("zoo")) as materializer:
        state = materializer.state_dict("two")
    result = zoo.peft.set_peft_model_state_dict(model, state)
    assert not result.unexpected_keys
    loaded = zoo.peft.get_peft_model_state_dict(model)
    assert all(
        value.equal(loaded[key])
        for key, value in zoo.peft.get_peft_model_state_dict(expected).items()
    )
