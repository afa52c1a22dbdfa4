"""Exports for one server: in a form that it reads rightly, or not at all."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import share_registry as sr
from share_registry.format.canonical import sha256
from share_registry.values.sync_reports import SyncStatus
from tests.cli.conftest import Runner
from tests.registry.plain import files
from tests.registry.planted import write as write_tensors, write_planted


def variant(root: Path, name: str, **config: object) -> Path:
    """Write an adapter of scale 2 with members in its config."""
    folder = write_planted(root / name, 1, modules=2, width=64, module="o_proj")["t00"]
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a plain adapter, one with rsLoRA and an activated one, all behind prod."""
    root = tmp_path_factory.mktemp("targets")
    with sr.Registry.open(root / "registry") as opened:
        opened.commit(variant(root, "plain"), task="plain")
        opened.commit(variant(root, "rs", use_rslora=True), task="rs")
        opened.commit(variant(root, "activated", alora_invocation_tokens=[3]), task="activated")
        for task in ("plain", "rs", "activated"):
            opened.set_alias(task, "prod")
    return root / "registry"


@pytest.fixture
def registry(committed: Path, tmp_path: Path) -> Iterator[sr.Registry]:
    shutil.copytree(committed, tmp_path / "registry")
    with sr.Registry.open(tmp_path / "registry") as opened:
        yield opened


def config_of(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text())


def test_a_target_gets_the_form_that_it_reads_rightly(
    registry: sr.Registry, tmp_path: Path
) -> None:
    for target, profile in (("vllm", "native"), ("openvino", "portable"), ("sglang", "portable")):
        export = registry.export("rs", tmp_path / "out", target=target)
        assert (export.profile, export.target) == (profile, target)
        assert export.path.name.startswith("rs-v1-portable-") is (profile == "portable")
        assert config_of(export.path).get("use_rslora", False) is (profile == "native")
        assert registry.lint("rs", target=target, profile=profile).ok
    assert registry.export("rs", tmp_path / "out").profile == "native"


def test_what_a_target_refuses_is_refused_before_anything_is_written(
    registry: sr.Registry, tmp_path: Path
) -> None:
    with pytest.raises(sr.RefusedError, match=r"vLLM 0\.33.*refuses alora_invocation_tokens") as no:
        registry.export("activated", tmp_path / "out", target="vllm")
    assert "activated@v1" in no.value.message
    assert no.value.hint == "Served as it is by: peft."
    assert not (tmp_path / "out").exists()


def test_a_form_that_is_asked_for_is_refused_with_the_one_that_is_read(
    registry: sr.Registry, tmp_path: Path
) -> None:
    with pytest.raises(sr.RefusedError, match="leaves out the scale") as no:
        registry.export("plain", tmp_path / "out", target="openvino", profile="native")
    assert "profile='portable'" in no.value.hint
    with pytest.raises(sr.RefusedError, match="no portable form"):
        registry.export("activated", tmp_path / "out", target="vllm", profile="portable")
    with pytest.raises(sr.InvalidInputError, match="peft, vllm"):
        registry.export("plain", tmp_path / "out", target="vlm")
    assert not (tmp_path / "out").exists()


def test_the_notes_of_an_export_for_a_target_are_of_that_alone(
    registry: sr.Registry, tmp_path: Path
) -> None:
    assert registry.export("rs", tmp_path / "out").notes != ()
    assert registry.export("rs", tmp_path / "out", target="vllm").notes == ()


def test_the_log_says_for_which_server_a_version_was_exported(
    registry: sr.Registry, tmp_path: Path
) -> None:
    registry.export("rs", tmp_path / "out", target="sglang", record=True)
    assert "(portable for sglang, " in registry.log()[0].detail


def test_a_sync_for_a_target_serves_what_it_takes_and_names_the_rest(
    registry: sr.Registry, tmp_path: Path
) -> None:
    report = registry.sync(tmp_path / "serve", target="sglang")
    tasks = {str(each.task): each for each in report.tasks}
    assert tasks["activated"].status is SyncStatus.FAILED
    assert "reads activated LoRA as plain LoRA" in tasks["activated"].reason
    assert tasks["activated"].name is None
    index = json.loads((tmp_path / "serve" / "index.json").read_text())
    served = {each["task"]: (each["profile"], each["target"]) for each in index["adapters"]}
    assert served == {"plain": ("native", "sglang"), "rs": ("portable", "sglang")}
    # what stands is not export again, in whichever form
    shutil.rmtree(tmp_path / "registry" / "objects")
    assert registry.sync(tmp_path / "serve", target="sglang").unchanged == 2


def test_a_version_that_a_target_refuses_leaves_the_one_before_in_service(
    registry: sr.Registry, tmp_path: Path
) -> None:
    before = registry.sync(tmp_path / "serve", target="sglang")
    registry.commit(variant(tmp_path, "next", alora_invocation_tokens=[3]), task="rs")
    registry.set_alias("rs", "prod")
    report = registry.sync(tmp_path / "serve", target="sglang")
    (task,) = [each for each in report.tasks if each.task == "rs"]
    assert (task.status, task.ref.endswith("@v2")) == (SyncStatus.FAILED, True)
    (name,) = [each.name for each in before.tasks if each.task == "rs"]
    assert task.name == name
    index = json.loads((tmp_path / "serve" / "index.json").read_text())
    assert name in {each["name"] for each in index["adapters"]}


def test_the_commands_take_a_target(
    registry: sr.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.close()
    run = Runner(tmp_path / "registry", capsys)
    assert "portable" in run("export", "rs", str(tmp_path / "out"), "--target", "openvino").out
    refused = run("export", "activated", str(tmp_path / "out"), "--target", "vllm", code=7)
    assert "refuses alora_invocation_tokens" in refused.err
    assert "1 version" in run("sync", str(tmp_path / "in"), "--target", "vllm", code=7).err


SIZES = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture
def language_model(tmp_path: Path) -> Iterator[sr.Registry]:
    """A registry with an adapter of a model that llama.cpp knows, and the config of that."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(SIZES))
    tensors = {
        f"base_model.model.model.layers.{layer}.mlp.down_proj.lora_{side}.weight": torch.randn(
            shape, generator=torch.Generator().manual_seed(layer)
        )
        for layer in (0, 1)
        for side, shape in (("A", (4, 96)), ("B", (64, 4)))
    }
    folder = write_tensors(tmp_path / "words", tensors, 4)
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"target_modules": ["down_proj"], "use_rslora": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with sr.Registry.open(tmp_path / "registry") as opened:
        opened.commit(folder, task="words")
        opened.set_alias("words", "prod")
        yield opened


def test_for_llama_cpp_one_file_is_written_under_an_immutable_name(
    language_model: sr.Registry, tmp_path: Path
) -> None:
    export = partial(
        language_model.export, "words", target="llama.cpp", base_config=tmp_path / "base"
    )
    first, again = export(tmp_path / "out"), export(tmp_path / "out")
    digest = sha256(first.path.read_bytes())
    assert first.path == again.path == tmp_path / "out" / f"words-v1-{digest[:8]}.gguf"
    assert (first.digest, first.tensors, first.profile) == (digest, digest, "gguf")
    named = export(tmp_path / "mine.gguf")
    assert named.path == tmp_path / "mine.gguf"
    assert export(tmp_path / "out", name="other").path.read_bytes() == named.path.read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["other", first.name]
    # rsLoRA's scale is what llama.cpp makes of alpha and rank
    reader = gguf.GGUFReader(named.path)
    assert reader.fields["adapter.lora.alpha"].contents() == 8 * 2
    assert {tensor.data.dtype for tensor in reader.tensors} == {np.dtype(np.float32)}
    half = export(tmp_path / "half.gguf", dtype="float16")
    assert {tensor.data.dtype for tensor in gguf.GGUFReader(half.path).tensors} == {
        np.dtype(np.float16)
    }


def test_a_file_for_llama_cpp_is_made_anew_for_another_config_of_the_model(
    language_model: sr.Registry, tmp_path: Path
) -> None:
    sync = partial(language_model.sync, tmp_path / "serve", target="llama.cpp")
    (first,) = sync(base_config=tmp_path / "base").tasks
    (same,) = sync(base_config=tmp_path / "base").tasks
    (tmp_path / "llama").mkdir()
    sizes = SIZES | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "llama" / "config.json").write_text(json.dumps(sizes))
    (other,) = sync(base_config=tmp_path / "llama").tasks
    assert (same.status, same.name) == (SyncStatus.UNCHANGED, first.name)
    assert other.status is SyncStatus.WRITTEN
    assert other.digest != first.digest


def test_a_file_for_llama_cpp_replaces_only_its_like(
    language_model: sr.Registry, tmp_path: Path
) -> None:
    export = partial(
        language_model.export, "words", target="llama.cpp", base_config=tmp_path / "base"
    )
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"GGUF of another adapter")
    with pytest.raises(sr.RefusedError, match="holds something else"):
        export(path)
    assert path.read_bytes() == b"GGUF of another adapter"
    assert export(path, overwrite=True).path.read_bytes()[:4] == b"GGUF"
    path.write_bytes(b"a letter")
    with pytest.raises(sr.RefusedError, match="no file of this kind"):
        export(path, overwrite=True)
    assert path.read_bytes() == b"a letter"
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(sr.RefusedError, match="is a directory"):
        export(tmp_path / "folder.gguf", overwrite=True)
    assert not [name for name in tmp_path.iterdir() if name.name.startswith(".")]


def test_what_a_file_for_llama_cpp_cannot_be_is_refused_before_it_is_written(
    language_model: sr.Registry, tmp_path: Path
) -> None:
    export = partial(language_model.export, "words", tmp_path / "out", target="llama.cpp")
    base = tmp_path / "base"
    with pytest.raises(sr.NotFoundError, match="sizes of the base model 'acme/tiny'") as unknown:
        export()
    assert "base_config=" in unknown.value.hint
    with pytest.raises(sr.RefusedError, match="signatures are of directories"):
        export(base_config=base, sign="key.pem")
    with pytest.raises(sr.RefusedError, match="directories of PEFT alone"):
        export(base_config=base, record=True)
    with pytest.raises(sr.InvalidInputError, match="which reads GGUF"):
        export(base_config=base, profile="portable")
    for wrong in ({"base_config": base}, {"dtype": "float16"}):
        with pytest.raises(sr.InvalidInputError, match=r"llama\.cpp alone"):
            language_model.export("words", tmp_path / "out", target="vllm", **wrong)
    (base / "config.json").write_text(json.dumps(SIZES | {"hidden_size": 60}))
    with pytest.raises(sr.RefusedError, match="is 60 wide"):
        export(base_config=base / "config.json")
    assert not (tmp_path / "out").exists()


def test_the_sizes_of_a_base_model_are_found_in_the_cache_of_the_hub(
    language_model: sr.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "cache" / "models--acme--tiny" / "snapshots" / "abc"
    (snapshot.parent.parent / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    (snapshot.parent.parent / "blobs" / "1").write_text(json.dumps(SIZES))
    (snapshot / "config.json").symlink_to("../../blobs/1")
    cached = language_model.export("words", tmp_path / "a.gguf", target="llama.cpp")
    named = language_model.export(
        "words", tmp_path / "b.gguf", target="llama.cpp", base_config=tmp_path / "base"
    )
    assert cached.digest == named.digest


def test_a_sync_for_llama_cpp_serves_files(language_model: sr.Registry, tmp_path: Path) -> None:
    sync = partial(language_model.sync, target="llama.cpp", base_config=tmp_path / "base")
    report = sync(tmp_path / "serve")
    (name,) = [each.name for each in report.tasks]
    assert report.written == 1
    assert [path.name for path in (tmp_path / "serve" / str(name)).iterdir()] == ["adapter.gguf"]
    (entry,) = json.loads((tmp_path / "serve" / "index.json").read_text())["adapters"]
    assert (entry["profile"], entry["target"]) == ("gguf", "llama.cpp")
    assert sync(tmp_path / "serve").unchanged == 1
    assert language_model.sync(tmp_path / "other", target="llama.cpp").failed == 1


def test_the_lint_names_gguf_as_the_way_out_for_llama_cpp(language_model: sr.Registry) -> None:
    (verdict,) = language_model.lint("words", target="llama.cpp").verdicts
    assert verdict.note == "ignores use_rslora, so scales are wrong"
    assert "target='llama.cpp'" in verdict.hint


def test_the_command_writes_for_llama_cpp(
    language_model: sr.Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    language_model.close()
    run = Runner(tmp_path / "registry", capsys)
    options = ("--target", "llama.cpp", "--base-config", str(tmp_path / "base"))
    for _ in range(2):
        run("export", "words", str(tmp_path / "mine.gguf"), *options)
    assert (tmp_path / "mine.gguf").read_bytes()[:4] == b"GGUF"
    run("sync", str(tmp_path / "serve"), *options)


@pytest.mark.parametrize(("first", "second"), [(None, "vllm"), ("vllm", None), ("vllm", "sglang")])
def test_a_directory_of_another_target_is_refused(
    first: str | None, second: str | None, registry: sr.Registry, tmp_path: Path
) -> None:
    root = tmp_path / "serve"
    registry.sync(root, target=first)
    before = files(root)
    with pytest.raises(sr.RefusedError, match=r"kept for (vllm|any server), and is to be") as no:
        registry.sync(root, target=second)
    assert files(root) == before
    # the way out that it names
    assert "remove its index.json" in no.value.hint
    (root / "index.json").unlink()
    assert registry.sync(root, target=second).tasks
    index = json.loads((root / "index.json").read_bytes())
    assert {each["target"] for each in index["adapters"]} == {second}


def test_one_name_of_a_model_is_not_given_to_several(registry: sr.Registry, tmp_path: Path) -> None:
    other = variant(tmp_path, "other", base_model_name_or_path="acme/other")
    ref = registry.commit(other, task="other", space=None).ref
    registry.set_alias(ref, "prod")
    with pytest.raises(sr.InvalidInputError, match="in spaces of 2: ") as caught:
        registry.sync(tmp_path / "serve", base_model="meta/llama")
    assert "space=" in str(caught.value.hint)
    with pytest.raises(sr.InvalidInputError, match="base_config is of one model"):
        registry.sync(tmp_path / "serve", target="llama.cpp", base_config=tmp_path)
    assert not (tmp_path / "serve").exists()
    own = registry.space(ref.partition("/")[0])
    assert own.sync(tmp_path / "serve", base_model="meta/llama").failed == 0


@pytest.mark.parametrize("inside", ["", "objects", "serve/deep"])
def test_nothing_is_exported_into_the_store(
    registry: sr.Registry, tmp_path: Path, inside: str
) -> None:
    place = tmp_path / "registry" / inside
    for write in (partial(registry.export, "plain"), registry.sync):
        with pytest.raises(sr.InvalidInputError, match="is in the store of the registry"):
            write(place)
    assert registry.verify().ok


@pytest.mark.parametrize("verb", ["checkout", "routing-index"])
def test_no_verb_writes_into_the_store(
    verb: str, committed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(committed, tmp_path / "registry")
    run = Runner(tmp_path / "registry", capsys)
    place = tmp_path / "registry" / "objects" / "x.safetensors"
    words = ("plain", "-o", place) if verb == "checkout" else (place, "plain")
    assert "is in the store of the registry" in run(verb, *words, code=2).err
    assert not place.exists()
