"""What a first commit creates, where it may, and what it says of that."""

import json
import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from share_registry.cli.main import main
from tests.cli.conftest import Runner

DEFAULT = "share-registry"


def _run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    capsys.readouterr()
    code = main([*map(str, words)])
    return code, capsys.readouterr().err


def _on_base(source: Path, target: Path, base: str) -> Path:
    """Write an adapter as another one of another base model."""
    target.mkdir(parents=True)
    config = json.loads((source / "adapter_config.json").read_text())
    changed = config | {"base_model_name_or_path": base}
    (target / "adapter_config.json").write_text(json.dumps(changed))
    save_file(load_file(source / "adapter_model.safetensors"), target / "adapter_model.safetensors")
    return target


def _hinted(err: str) -> list[str]:
    """Return the command that a hint tells to run, without the program's name."""
    hint = next(line for line in err.splitlines() if line.startswith("hint: "))
    words = shlex.split(hint.split("`")[1])
    assert words[0] == "share-registry"
    return words[1:]


def test_the_first_commit_says_what_it_creates(
    capsys: pytest.CaptureFixture[str], adapters: Path, tmp_path: Path
) -> None:
    code, err = _run(capsys, "commit", adapters / "cola")
    assert code == 0
    assert f"created registry at {tmp_path / DEFAULT}\n" in err
    assert "created space " in err
    assert " for base model " in err
    assert _run(capsys, "commit", adapters / "sst2") == (0, "")
    assert _run(capsys, "-q", "create-space", "other") == (0, "")


def test_init_says_what_it_creates_once(run_new: Runner) -> None:
    assert run_new("init").err == f"created registry at {run_new.registry}\n"
    assert run_new("init").err == ""


@pytest.mark.parametrize("verb", ["commit", "commit-many", "create-space"])
@pytest.mark.parametrize("where", ["option", "variable"])
def test_a_registry_that_is_named_is_not_created_by_the_way(
    verb: str,
    where: str,
    capsys: pytest.CaptureFixture[str],
    adapters: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typo = tmp_path / "my registy"
    words: list[object] = ["-R", typo]
    if where == "variable":
        monkeypatch.setenv("SHARE_REGISTRY_URI", str(typo))
        words = []
    asked: dict[str, list[object]] = {
        "commit": ["commit", adapters / "cola"],
        "commit-many": ["commit-many", f"a={adapters / 'cola'}"],
        "create-space": ["create-space", "new"],
    }
    words += asked[verb]
    code, err = _run(capsys, *words)
    assert (code, list(tmp_path.iterdir())) == (3, [])
    assert _hinted(err) == ["-R", str(typo), "init"]
    assert main(_hinted(err)) == 0
    assert main([*map(str, words)]) == 0


def test_the_hint_for_a_catalog_of_its_own_names_the_store_too(
    capsys: pytest.CaptureFixture[str], adapters: Path, tmp_path: Path
) -> None:
    place = ["-R", f"sqlite:///{tmp_path / 'catalog.sqlite'}", "--store", str(tmp_path / "store")]
    code, err = _run(capsys, *place, "commit", adapters / "cola")
    assert (code, _hinted(err)) == (3, [*place, "init"])
    assert main(_hinted(err)) == 0
    assert _run(capsys, *place, "commit", adapters / "cola")[0] == 0


def test_a_first_commit_that_fails_leaves_nothing(
    capsys: pytest.CaptureFixture[str], adapters: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    generic = _on_base(adapters / "cola", tmp_path / "generic", "./checkpoint-500")
    failing: list[list[object]] = [
        ["commit", empty],
        ["commit", adapters / "cola", "-s", "none"],
        ["commit", generic],
        ["commit-many", f"a={adapters / 'cola'}", f"b={empty}"],
    ]
    for words in failing:
        code, _ = _run(capsys, *words)
        assert code in (2, 3, 7)
        assert not (tmp_path / DEFAULT).exists(), words


@pytest.mark.parametrize(
    "base", ["./bases/checkpoint-500", "/mnt/models/x", "output", "model", r"C:\models\final"]
)
def test_a_generic_base_model_is_refused_with_a_hint_that_works(
    base: str, run_empty: Runner, adapters: Path, tmp_path: Path
) -> None:
    adapter = _on_base(adapters / "cola", tmp_path / "task", base)
    err = run_empty("commit", adapter, code=7).err
    assert "generic name" in err
    words = _hinted(err)
    assert main(words) == 0
    assert run_empty("commit", adapter, "-q").lines == [f"{words[3]}/task@v1"]


def test_a_base_model_whose_name_is_taken_is_refused_with_a_hint_that_works(
    run_empty: Runner, adapters: Path, tmp_path: Path
) -> None:
    first = _on_base(adapters / "cola", tmp_path / "first", "acme/base-7b")
    run_empty("commit", first)
    second = _on_base(adapters / "sst2", tmp_path / "second", "other/base-7b")
    err = run_empty("commit", second, code=7).err
    command = ["create-space", "other-base-7b", "--base-model", "other/base-7b"]
    assert _hinted(err) == ["-R", str(run_empty.registry), *command]
    assert main(_hinted(err)) == 0
    assert run_empty("commit", second, "-q").lines == ["other-base-7b/second@v1"]


def test_a_path_as_base_model_is_remarked_once(
    run_empty: Runner, adapters: Path, tmp_path: Path
) -> None:
    base = "/mnt/models/llama-tiny"
    shown = run_empty("commit", _on_base(adapters / "cola", tmp_path / "first", base))
    assert f"the space's base model is the path '{base}' for ever" in shown.out
    again = run_empty("commit", _on_base(adapters / "sst2", tmp_path / "second", base))
    assert "for ever" not in again.out


def test_a_base_model_accepted_once_is_known_from_then_on(
    run_empty: Runner, adapters: Path, tmp_path: Path
) -> None:
    own = "/mnt/models/llama-tiny"
    run_empty("commit", _on_base(adapters / "cola", tmp_path / "first", own))
    second = _on_base(adapters / "sst2", tmp_path / "second", "acme/llama-tiny")
    err = run_empty("commit", second, code=7).err
    assert "-s llama-tiny" in err or "--space llama-tiny" in err
    assert "--allow-base-mismatch" in err
    assert "--allow-base-mismatch" in run_empty("commit", second, "-s", "llama-tiny", code=7).err
    run_empty("commit", second, "-s", "llama-tiny", "--allow-base-mismatch")
    third = _on_base(adapters / "cola-2", tmp_path / "third", "acme/llama-tiny")
    shown = run_empty("commit", third)
    assert "llama-tiny/third@v1" in shown.out
    assert "that of earlier adapters here" in shown.out
