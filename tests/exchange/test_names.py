"""Names that are derived: base labels, space and task names, environment labels."""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.exchange.base_model import (
    BaseModelLabel,
    base_of,
    derive_task,
    is_local,
    space_name_of,
)
from share_registry.exchange.environment import default_author, environment_labels
from share_registry.names import space_name, task_name
from share_registry.outside.files import Outside
from share_registry.values.tasks import AUTOMATIC_LABELS


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("/models/My Llama (v2)/", "my-llama-v2"),
        (r"C:\models\Llama_3", "llama_3"),
        ("gpt2", "gpt2"),
        ("org/..name..", "name"),
        ("org/" + "x" * 100, "x" * 64),
    ],
)
def test_a_space_is_named_for_the_base_model(label: str, name: str) -> None:
    assert space_name_of(label) == name


@pytest.mark.parametrize("label", ["", "/", "org/日本語", "org/---", "org/CON"])
def test_a_label_that_gives_no_space_name_is_refused(label: str) -> None:
    with pytest.raises(RefusedError, match="no space name can be made"):
        space_name_of(label)


@given(label=st.text())
def test_a_derived_space_name_is_a_space_name_or_refused(label: str) -> None:
    try:
        name = space_name_of(label)
    except RefusedError:
        return
    assert space_name(name) == name


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("adapters/cola", "cola"),
        ("/data/SST2/", "sst2"),
        ("./wn-pos-gloss", "wn-pos-gloss"),
        ("owner/My Adapter!", "my-adapter"),
        ("x/final_exam", "final_exam"),
        ("runs/v2-cola", "v2-cola"),
    ],
)
def test_a_task_is_named_for_its_directory(location: str, name: str) -> None:
    assert derive_task(location) == name


GENERIC = [
    "v1",
    "s42",
    "checkpoint-500",
    "checkpoint",
    "final",
    "final_v2",
    "best",
    "best-model",
    "last",
    "adapter",
    "adapters",
    "adapter_v3",
    "output",
    "output-1",
    "outputs",
    "lora",
    "default",
    "V12",
]


@pytest.mark.parametrize("name", GENERIC)
def test_a_generic_directory_name_is_refused_with_a_better_one(name: str) -> None:
    with pytest.raises(
        RefusedError, match=f"{name}' is generic, expected one that names a task"
    ) as caught:
        derive_task(f"/data/adapters/cola/{name}")
    assert "task='cola'" in caught.value.hint


@pytest.mark.parametrize("name", ["run-" + "20" * 100 + "x", "v1" * 100 + "é", "step_" * 60 + "~"])
def test_a_long_name_is_told_from_a_generic_one_at_once(name: str) -> None:
    start = time.process_time()
    with suppress(RefusedError):
        derive_task(f"/data/{name}")
    with suppress(RefusedError):
        space_name_of(f"/data/{name}")
    assert time.process_time() - start < 1


@given(location=st.text())
def test_a_derived_task_name_is_a_task_name_or_refused(location: str) -> None:
    try:
        name = derive_task(location)
    except RefusedError:
        return
    assert task_name(name) == name


def test_the_base_is_read_from_the_config() -> None:
    assert base_of({"base_model_name_or_path": "org/m", "revision": "main"}) == BaseModelLabel(
        label="org/m", revision="main"
    )
    assert base_of({}) == BaseModelLabel(label="", revision=None)
    cached = f"/home/a/.cache/huggingface/hub/models--org--m/snapshots/{'a' * 40}"
    assert base_of({"base_model_name_or_path": cached}) == BaseModelLabel(
        label="org/m", revision="a" * 40
    )
    assert (
        base_of({"base_model_name_or_path": "org/m", "layer_replication": [[0, 2], [1, 2]]}).label
        == "org/m#layers=[[0,2],[1,2]]"
    )
    for wrong in (
        {"base_model_name_or_path": 3},
        {"revision": ["x"]},
        {"base_model_name_or_path": "x" * 513},
    ):
        with pytest.raises(InvalidInputError, match="expected texts"):
            base_of(wrong)


@pytest.mark.parametrize(
    ("label", "local"),
    [
        ("org/m", False),
        ("gpt2", False),
        ("/a/b", True),
        ("./m", True),
        ("~/m", True),
        ("C:/m", True),
        (r"a\b", True),
        ("a/b/c", True),
    ],
)
def test_a_path_is_told_from_a_hub_id(label: str, local: bool) -> None:
    assert is_local(label) is local


class Given(Outside):
    """The real world with chosen variables, a working directory and a user."""

    login: str | None = "login"

    def __init__(self, variables: dict[str, str], here: Path) -> None:
        super().__init__()
        self.variables, self.here = variables, here

    def environment(self, name: str) -> str | None:
        return self.variables.get(name)

    def user(self) -> str | None:
        return self.login

    def absolute(self, path: Path) -> Path:
        return self.here / path


def test_labels_come_from_the_environment(tmp_path: Path) -> None:
    variables = {
        "GITHUB_SHA": "ab" * 20,
        "GITHUB_RUN_ID": "77",
        "MLFLOW_RUN_ID": " m1 ",
        "WANDB_RUN_ID": "w1",
        "CI_JOB_ID": "9",
    }
    labels = environment_labels(Given(variables, tmp_path))
    assert labels == {
        "git.sha": "ab" * 20,
        "ci.run": "77",
        "mlflow.run_id": "m1",
        "wandb.run": "w1",
    }
    assert tuple(labels) == AUTOMATIC_LABELS
    assert (
        environment_labels(Given({"WANDB_RUN_ID": "x" * 300, "MLFLOW_RUN_ID": "a\nb"}, tmp_path))
        == {}
    )


def git(folder: Path, *words: str) -> str:
    settings = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a",
    }
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_commit_of_the_working_tree_is_read_without_git(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "deep" / "er").mkdir(parents=True)
    git(repository, "init", "-q", "-b", "main")
    assert environment_labels(Given({}, repository)) == {}
    git(repository, "commit", "-q", "--allow-empty", "-m", "x")
    sha = git(repository, "rev-parse", "HEAD")
    assert environment_labels(Given({}, repository / "deep" / "er")) == {"git.sha": sha}
    git(repository, "worktree", "add", "-q", "-b", "other", str(tmp_path / "linked"))
    assert environment_labels(Given({}, tmp_path / "linked")) == {"git.sha": sha}
    git(repository, "pack-refs", "--all")
    assert environment_labels(Given({}, repository)) == {"git.sha": sha}
    git(repository, "checkout", "-q", "--detach")
    assert environment_labels(Given({}, repository)) == {"git.sha": sha}


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"ref: ../../../etc/passwd",
        b"ref: refs/heads/../../x",
        b"\xff",
        b"ref: refs/heads/none",
    ],
)
def test_a_strange_head_is_no_label_and_no_error(head: bytes, tmp_path: Path) -> None:
    (tmp_path / ".git" / "refs" / "heads").mkdir(parents=True)
    (tmp_path / ".git" / "x").write_text("a" * 40)
    (tmp_path / ".git" / "HEAD").write_bytes(head)
    assert environment_labels(Given({}, tmp_path)) == {}


CONFIG = """
[core]
\tname = not this
[user "other"]
\tname = nor this
[user] ; me
\temail = ada@example.org
\tName = "Ada Lovelace" # maiden name: Byron
"""


def test_the_author_is_named_by_the_nearest_that_knows(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    variables = {"HOME": str(home)}
    here = Given(variables, tmp_path)
    here.login = None
    assert default_author(here) is None
    here.login = "ada1815"
    assert default_author(here) == "ada1815"
    (home / ".gitconfig").write_text(CONFIG)
    assert default_author(here) == "Ada Lovelace"
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    git(repository, "config", "user.name", "Ada at work")
    git(repository, "commit", "-q", "--allow-empty", "-m", "x")
    git(repository, "worktree", "add", "-q", "-b", "other", str(tmp_path / "linked"))
    for place in (repository, tmp_path / "linked"):
        assert default_author(Given(variables, place)) == "Ada at work"
    variables |= {"GITLAB_USER_LOGIN": "bot"}
    assert default_author(Given(variables, repository)) == "bot"
    assert default_author(Given(variables | {"SHARE_REGISTRY_AUTHOR": "eve"}, repository)) == "eve"
    assert default_author(Given(variables | {"SHARE_REGISTRY_AUTHOR": ""}, repository)) is None


@pytest.mark.parametrize(
    ("config", "author"),
    [
        (b"[user]\nname = a\n[other]\nname = b\n[user]\nname=c", "c"),
        (b"[user] name = one line", "one line"),
        (b"[user]\nname = caf\xe9", "login"),
        (b"[user]\nname =", "login"),
        (b"[user", "login"),
        (b"[user]\nname = " + b"x" * 300, "x" * 256),
        (b"[user]\nname = \x1b[31mred", "[31mred"),
    ],
)
def test_a_strange_git_config_is_no_error(config: bytes, author: str, tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_bytes(config)
    assert default_author(Given({"HOME": str(tmp_path)}, tmp_path)) == author


def test_an_author_of_the_environment_is_text_that_a_note_can_hold(tmp_path: Path) -> None:
    given = {"SHARE_REGISTRY_AUTHOR": " caf\udce9\n " + "x" * 300}
    author = default_author(Given(given, tmp_path))
    assert author == "caf? " + "x" * 251
