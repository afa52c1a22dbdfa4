"""The table of servers, and what they say of an adapter.

To add a server, write its rules as a function in a file of its own, and enter it in `TARGETS`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from share_registry.errors import InvalidInputError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import family_of
from share_registry.exchange.targets.diffusers_rules import diffusers
from share_registry.exchange.targets.llama_cpp_rules import llama_cpp
from share_registry.exchange.targets.lorax_rules import lorax
from share_registry.exchange.targets.onnxruntime_rules import onnxruntime
from share_registry.exchange.targets.openvino_rules import openvino
from share_registry.exchange.targets.peft_rules import peft
from share_registry.exchange.targets.sglang_rules import sglang
from share_registry.exchange.targets.subject import (
    Rules,
    ServerNote,
    ServerOutcome,
    Subject,
    refused,
)
from share_registry.exchange.targets.vllm_rules import vllm
from share_registry.format.layout import Form
from share_registry.names import near_misses


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTarget:
    """A server that an adapter may be exported for.

    Attributes:
        title: Its name, as notes begin.
        release: The release whose behaviour the rules are.
        rules: What it makes of an adapter.
        of_pipelines: Whether it serves models of pipelines of diffusers, else language models; None
            for both.
        reads_directories: Whether it reads what is exported without a target; else a file that
            depends on the base model.
    """

    title: str
    release: str
    rules: Rules
    of_pipelines: bool | None = False
    reads_directories: bool = True


# What may be served to, by the name that `target=` takes
TARGETS: Final[Mapping[str, ServerTarget]] = {
    "peft": ServerTarget(title="PEFT", release="0.21", rules=peft, of_pipelines=None),
    "vllm": ServerTarget(title="vLLM", release="0.33", rules=vllm),
    "sglang": ServerTarget(title="SGLang", release="0.5.23", rules=sglang),
    "lorax": ServerTarget(title="LoRAX, TGI", release="of May 2026", rules=lorax),
    "llama.cpp": ServerTarget(
        title="llama.cpp", release="b11549", rules=llama_cpp, reads_directories=False
    ),
    "openvino": ServerTarget(title="OpenVINO GenAI", release="2026.4", rules=openvino),
    "onnxruntime": ServerTarget(title="ONNX Runtime GenAI", release="0.18", rules=onnxruntime),
    "diffusers": ServerTarget(
        title="diffusers", release="0.42", rules=diffusers, of_pipelines=True
    ),
}
_LANGUAGE_MODELS: Final = "servers of language models"


def notes_by_target(
    adapter: Adapter, *, base_model: str = ""
) -> Iterator[tuple[str, ServerOutcome, str]]:
    """Yield what each target refuses, misreads or needs: target, which of these, and how.

    Arguments as in `lint`.
    """
    subject = _subject(adapter, base_model)
    for target in TARGETS:
        for note in _notes_of(target, subject):
            yield target, note.outcome, note.text


def targets_for(adapter: Adapter) -> list[str]:
    """Return the targets that serve models of the adapter's kind."""
    subject = _subject(adapter, "")
    return [name for name in TARGETS if _serves(name, subject)]


def lint(adapter: Adapter, *, base_model: str = "", target: str | None = None) -> tuple[str, ...]:
    """Return what to know before serving, one sentence each, the server first.

    Args:
        adapter: The adapter.
        base_model: Label of the base model where the config names none, or a path.
        target: The one server that is asked; None for all that serve models of its kind.
    """
    subject = _subject(adapter, base_model)
    if target is not None:
        asked = {TARGETS[target].title: _notes_of(target, subject)}
    else:
        serving = [each for name, each in TARGETS.items() if _serves(name, subject)]
        # what is of all servers of language models is said once
        asked = {} if subject.parts else {_LANGUAGE_MODELS: _convolutions(subject)}
        asked |= {each.title: each.rules(subject) for each in serving}
    return tuple(f"{server}: {note.text}." for server, notes in asked.items() for note in notes)


def check_target(name: str) -> str:
    """Return the name of a target. Raises InvalidInputError."""
    ensure(
        name in TARGETS,
        InvalidInputError(
            f"target {name!r} is not one of {', '.join(TARGETS)}.",
            hint=near_misses(name, [*TARGETS]),
        ),
    )
    return name


def _serves(target: str, subject: Subject) -> bool:
    """Tell whether a target serves models of a kind at all."""
    return TARGETS[target].of_pipelines in (None, bool(subject.parts))


def _notes_of(target: str, subject: Subject) -> list[ServerNote]:
    """Return the notes of one target, with what is of all servers of its kind."""
    server = TARGETS[target]
    if not _serves(target, subject):
        kind = "pipelines of diffusers" if server.of_pipelines else "language models"
        return [refused(f"takes no adapters of models that are not of {kind}")]
    is_of_language = server.of_pipelines is False
    return [*(_convolutions(subject) if is_of_language else ()), *server.rules(subject)]


def _convolutions(subject: Subject) -> list[ServerNote]:
    return [refused("take no convolutions")] if subject.has(Form.CONV) else []


def _subject(adapter: Adapter, base_model: str) -> Subject:
    return Subject(
        config=adapter.config,
        layout=adapter.layout,
        attachments=adapter.attachments.keys(),
        family=family_of(adapter.config, base_model),
    )
