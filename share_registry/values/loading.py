"""How a version is loaded: text to be copied."""

from collections.abc import Sequence
from dataclasses import dataclass
from json import dumps
from shlex import quote

from share_registry.values.commits import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """How one program loads a version.

    Attributes:
        program: Whose.
        language: Of the text.
        text: What is typed.
    """

    program: str
    language: str
    text: str


def snippets(commit: Commit, *, base_model: str) -> Sequence[Snippet]:
    """Return how programs load the version that a commit is about."""
    ref, task = commit.ref, commit.task or "adapter"
    return (
        Snippet(
            program="PEFT",
            language="python",
            text=f"""\
import share_registry as sr
from peft import PeftModel
from transformers import AutoModel

with sr.Registry.open(mode="r") as registry:
    export = registry.export("{ref}", "serve/")
base = AutoModel.from_pretrained(
    {dumps(base_model)}
)
model = PeftModel.from_pretrained(base, export.path)
""",
        ),
        Snippet(
            program="vLLM",
            language="console",
            text=f"""\
$ share-registry export {ref} serve/ --target vllm --name {task}
$ vllm serve {quote(base_model)} --enable-lora --lora-modules {task}=serve/{task}
""",
        ),
        Snippet(
            program="SGLang",
            language="console",
            text=f"""\
$ share-registry export {ref} serve/ --target sglang --name {task}
$ python -m sglang.launch_server --model-path {quote(base_model)} \\
    --enable-lora --lora-paths {task}=serve/{task}
""",
        ),
        Snippet(
            program="files",
            language="console",
            text=f"$ share-registry export {ref} serve/\n",
        ),
    )
