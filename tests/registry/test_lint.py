"""What servers would make of an export, before it is written."""

import json
import shutil
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.exchange.targets.servers import TARGETS
from tests.cli.conftest import Runner
from tests.registry.planted import write_planted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_planted(tmp_path / "adapters", 1, modules=2, width=64, module="o_proj")["t00"]


def _with(folder: Path, name: str, **config: object) -> Path:
    target = folder.parent / name
    shutil.copytree(folder, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


@pytest.fixture
def registry(tmp_path: Path, folder: Path) -> sr.Registry:
    registry = sr.Registry.open(tmp_path / "registry")
    registry.create_space("tiny", base_model="acme/tiny")
    registry.commit(folder, task="plain")
    registry.commit(_with(folder, "scaled", use_rslora=True), task="scaled")
    registry.commit(_with(folder, "words", bias="lora_only"), task="biased")
    return registry


def test_each_server_says_what_it_refuses_and_what_it_misreads(registry: sr.Registry) -> None:
    lint = registry.lint("scaled")
    outcomes = {(each.target, each.outcome, each.note) for each in lint.verdicts}
    assert ("sglang", "misread", "ignores use_rslora, so the scale is wrong") in outcomes
    assert ("llama.cpp", "misread", "ignores use_rslora, so scales are wrong") in outcomes
    # of models that diffusers does not have
    assert lint.releases.keys() == TARGETS.keys() - {"diffusers"}
    assert not lint.ok
    biased = registry.lint("biased", target="vllm")
    assert ("refused", "refuses bias='lora_only'") in {
        (each.outcome, each.note) for each in biased.verdicts
    }
    assert {each.target for each in biased.verdicts} == {"vllm"}


def test_the_portable_form_is_named_where_it_is_a_way_out(registry: sr.Registry) -> None:
    (verdict,) = registry.lint("scaled", target="sglang").verdicts
    assert verdict.hint == "Export it with profile='portable'."
    assert registry.lint("scaled", target="sglang", profile="portable").ok


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("LlamaForCausalLM", "target='llama.cpp', which makes GGUF of it, and base_config=... of"),
        ("", "of its base model, where that is one of those that docs/serving.md lists."),
        ("FalconForCausalLM", "Export it with profile='portable'."),
    ],
)
def test_gguf_is_named_for_base_models_that_it_is_written_for(
    kind: str, hint: str, registry: sr.Registry, folder: Path
) -> None:
    named = {"auto_mapping": {"base_model_class": kind}} if kind else {}
    registry.commit(_with(folder, "named", use_rslora=True, **named), task="named")
    (verdict,) = registry.lint("named", target="llama.cpp").verdicts
    assert hint in verdict.hint
    # nor for what it cannot hold
    longer = _with(folder, "longer", use_rslora=True, layer_replication=[[0, 2]], **named)
    registry.commit(longer, task="longer")
    hints = {verdict.hint for verdict in registry.lint("longer", target="llama.cpp").verdicts}
    assert hints == {""}


def test_the_notes_are_those_of_the_export(registry: sr.Registry, tmp_path: Path) -> None:
    notes = registry.export("scaled", tmp_path / "out").notes
    said = {verdict.note for verdict in registry.lint("scaled").verdicts}
    assert {note.partition(": ")[2].removesuffix(".") for note in notes} == said


def test_an_unknown_server_is_refused_with_those_that_there_are(registry: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="vllm, sglang") as raised:
        registry.lint("plain", target="vlm")
    assert "vllm" in raised.value.hint


def test_the_command_ends_with_7_where_one_server_refuses_or_misreads(
    registry: sr.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.close()
    run = Runner(tmp_path / "registry", capsys)
    assert "misread" in run("lint", "scaled").out
    assert "portable" in run("lint", "scaled", "--target", "sglang", code=7).err
    run("lint", "scaled", "--target", "sglang", "--profile", "portable")
