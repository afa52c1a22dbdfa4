"""What the rules of servers look at, and what they say.

A rule is a pure function of a `Subject`: one server's behaviour, seen in a run of it or read in its
source. Each note is a clause without a full stop, which goes on from the name of the server.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.exchange.base_model import Family, class_of
from share_registry.exchange.config import PREFIX
from share_registry.exchange.pipeline_parts import parts_of
from share_registry.exchange.selection import module_scales
from share_registry.format.layout import Form, Layout

# What PEFT saves of a base model beside the factors of its embeddings.
COPY: Final = re.compile(r"(^|.*\.)(embed_tokens|lm_head)\.base_layer\.weight")
# One expert's module with a pair of its own: path of the experts, name.
EXPERT: Final = re.compile(r"(.*\.experts)\.\d+\.(\w+)")
# What one expert's modules are called in transformers 4: gate, up, down.
EXPERT_NAMES: Final = (("w1", "w3", "w2"), ("gate_proj", "up_proj", "down_proj"))
# Where BERT and DistilBERT, and models named after them, have their layers.
ENCODER: Final = re.compile(r"((bert\.)?encoder\.layer|(distilbert\.)?transformer\.layer)\.\d+\..*")
# Where GPT-2, and models named after it, such as BLOOM, have theirs.
GPT2_LAYER: Final = re.compile(r"transformer\.h\.\d+\..*")
# Tasks of models that generate nothing.
SILENT_TASKS: Final = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
NORMS: Final = re.compile(r".*(_layernorm|\.norm).*")
# Keys of tensors that act in training alone.
TRAINING_ONLY: Final = re.compile(r".*\.(lora_velora_embed|lora_monteclora_sampler\..+)")
ACTIVATED: Final = "reads activated LoRA as plain LoRA"


class ServerOutcome(StrEnum):
    """What a server makes of an adapter: from nothing to say to what is wrong without a word."""

    SETTING = "needs a setting"
    REFUSED = "refused"
    MISREAD = "misread"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerNote:
    """One thing that one server does with an adapter.

    Attributes:
        outcome: What that means for whoever serves it.
        text: What it does, as a clause.
    """

    outcome: ServerOutcome
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the rules look at.

    Attributes:
        config: adapter_config.json, parsed.
        layout: What the tensors are.
        attachments: Names of the other files of the directory.
        family: Family of the base model, None where it is not known.
    """

    config: Mapping[str, object]
    layout: Layout
    attachments: Collection[str]
    family: Family | None

    @property
    def parts(self) -> Mapping[str, tuple[str, str]]:
        """The part of a pipeline of diffusers that every module is of; empty where of none."""
        return parts_of(factor.module for factor in self.layout.factors)

    @property
    def base_class(self) -> str:
        """The class of the base model; "" where the config does not name it."""
        return class_of(self.config)

    @property
    def missing_fields(self) -> str:
        """The fields without a default that the config lacks."""
        needed = ("r", "lora_alpha", "target_modules")
        return " or ".join(field for field in needed if field not in self.config)

    @property
    def passengers(self) -> list[str]:
        """Keys of the tensors of no factor pair."""
        return [self.layout.tensors[position].key for position in self.layout.passengers]

    @property
    def scales(self) -> set[float]:
        """The scales of the modules that the config selects; none where it cannot be evaluated."""
        try:
            return {*module_scales(self.config, self.layout)} - {0.0}
        except (InvalidInputError, RefusedError):
            return set()

    @property
    def experts(self) -> Mapping[str, set[str]]:
        """The modules of experts with pairs of their own: path of the experts -> names."""
        experts: dict[str, set[str]] = defaultdict(set)
        for factor in self.layout.factors:
            if match := EXPERT.fullmatch(factor.module):
                experts[match[1]].add(match[2])
        return experts

    @property
    def has_partial_experts(self) -> bool:
        """Whether experts that have pairs of their own lack some of gate, up and down."""
        return not all(
            any({*complete} <= names for complete in EXPERT_NAMES)
            for names in self.experts.values()
        )

    def has(self, form: Form) -> bool:
        """Tell whether some pair lies in a form."""
        return any(factor.form is form for factor in self.layout.factors)

    def has_module_in(self, place: re.Pattern[str]) -> bool:
        """Tell whether the path of some module matches."""
        paths = (factor.module.removeprefix(PREFIX) for factor in self.layout.factors)
        return any(place.fullmatch(path) for path in paths)


# Returns what one server makes of an adapter.
Rules = Callable[[Subject], list[ServerNote]]


def refused(text: str) -> ServerNote:
    """Return a note on what a server does not load, or does not serve."""
    return ServerNote(outcome=ServerOutcome.REFUSED, text=text)


def misread(text: str) -> ServerNote:
    """Return a note on what a server reads wrongly or leaves out, without a word of its own."""
    return ServerNote(outcome=ServerOutcome.MISREAD, text=text)


def setting(text: str) -> ServerNote:
    """Return a note on how a server has to be started or asked."""
    return ServerNote(outcome=ServerOutcome.SETTING, text=text)


def applying(rules: Mapping[ServerNote, object]) -> list[ServerNote]:
    """Return the notes whose condition holds."""
    return [note for note, applies in rules.items() if applies]


def refused_keys(layout: Layout, expected: re.Pattern[str]) -> list[ServerNote]:
    """Return a note on the tensors that a server does not know by their keys."""
    strange = [tensor.key for tensor in layout.tensors if not expected.fullmatch(tensor.key)]
    return [refused(f"refuses {count_tensors(strange)}")] if strange else []


def count_tensors(keys: Sequence[str], where: str = "") -> str:
    """Return how many tensors these are, with one of them; "" for none."""
    if len(keys) == 1:
        return f"1 tensor{where}, {keys[0]}"
    return f"{len(keys)} tensors{where}, such as {keys[0]}" if keys else ""
