"""What is told of a request that failed: by `serve`, and by `ui`, which answers the same."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

import share_registry as sr
from tests.registry.planted import write as write_tensors
from tests.serving.http_clients import client_of, resolve
from tests.ui.looking import looking_at

SIZES = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
Ask = Callable[..., TestClient]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with an adapter of a model that llama.cpp knows."""
    root = tmp_path_factory.mktemp("words")
    module = "base_model.model.model.layers.0.mlp.down_proj"
    shapes = {"A": (4, 96), "B": (64, 4)}
    tensors = {f"{module}.lora_{side}.weight": torch.ones(shapes[side]) for side in shapes}
    folder = write_tensors(root / "words", tensors, 4)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["down_proj"]}))
    with sr.Registry.open(root / "registry") as registry:
        registry.commit(folder, task="words")
    return root / "registry"


@pytest.fixture(params=("serve", "ui"))
def ask(request: pytest.FixtureRequest, words: Path, tmp_path: Path) -> Iterator[Ask]:
    """Return a client of the registry, served for llama.cpp with a config of the base model."""
    with ExitStack() as stack:

        def client(cache: str = "cache", **options: Any) -> TestClient:
            options = {"target": "llama.cpp", "base_config": tmp_path / "base", **options}
            if request.param == "serve":
                return client_of(stack, words, tmp_path / cache, **options)
            return stack.enter_context(looking_at(words, cache=tmp_path / cache, **options))

        yield client


def test_a_refusal_names_no_path_of_the_machine(
    ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(SIZES | {"architectures": ["Foo"]}))
    answer = ask().get("/v1/resolve/words@v1")
    assert (answer.status_code, answer.json()["error"]) == (422, "RefusedError")
    assert str(tmp_path) not in answer.text
    assert answer.json() == {
        "error": "RefusedError",
        "message": "/v1/resolve/words@v1 cannot be answered.",
        "hint": "The log of the server has the reason.",
        "exit_code": 7,
    }
    assert f"{tmp_path}/base/config.json: architecture 'Foo'" in caplog.text


def test_a_base_model_without_config_is_refused_until_there_is_one(
    ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = ask()
    answer = client.get("/v1/resolve/words@v1")
    assert (answer.status_code, answer.json()["error"]) == (422, "RefusedError")
    assert "does not have the config.json of its base model" in answer.json()["message"]
    assert "words@v1" in answer.json()["message"]
    assert str(tmp_path) not in answer.text
    assert f"{tmp_path}/base" in caplog.text
    assert ask(base_config=None).get("/v1/resolve/words@v1").status_code == 422
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(SIZES))
    assert [file["path"] for file in resolve(client, "words@v1")["files"]] == ["adapter.gguf"]


def test_an_immutable_name_is_refused_only_while_the_base_model_has_no_config(
    ask: Ask, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(SIZES))
    (file,) = resolve(ask(), "words@v1")["files"]
    (tmp_path / "base").rename(tmp_path / "away")
    client = ask(cache="new")
    answer = client.get(file["url"])
    assert answer.status_code == 422
    assert "does not have the config.json of its base model" in answer.json()["message"]
    (tmp_path / "away").rename(tmp_path / "base")
    assert len(client.get(file["url"]).content) == file["size"]


def test_what_was_typed_is_told_as_it_is(ask: Ask) -> None:
    client = ask(target=None, base_config=None)
    assert "'/etc/passwd'" in client.get("/v1/resolve//etc/passwd").json()["message"]
    missing = client.get("/v1/adapters/nothing/adapter_model.safetensors").json()
    assert missing["hint"] == "Ask /v1/resolve/REF, which says it."


def test_what_was_typed_into_a_query_is_told_as_it_is(words: Path) -> None:
    with looking_at(words) as client:
        answer = client.get("/v1/log", params={"since": "/etc/passwd"})
        assert answer.status_code == 400
        assert "'/etc/passwd'" in answer.json()["message"]
