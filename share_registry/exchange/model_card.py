"""Write the model card of an export: the adapter, where it came from, its recorded error."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from share_registry.exchange.attachments import CARD_MARK
from share_registry.exchange.base_model import base_of

if TYPE_CHECKING:
    from share_registry.exchange.adapter import Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card says.

    Attributes:
        base_model: Label of the base model; "" where none is known.
        ref: `space/task@vN`, None for an adapter that is in no registry.
        commit_number: Position of the commit in the space's log.
        commit_id: sha256 of the commit's record.
        error: Pooled relative error of scaled dW against the committed adapter.
        budget: The largest error allowed.
        time: Time of the commit, RFC 3339.
    """

    base_model: str
    ref: str | None = None
    commit_number: int | None = None
    commit_id: str | None = None
    error: float | None = None
    budget: float | None = None
    time: str | None = None

    @classmethod
    def of(cls, adapter: "Adapter") -> "CardFacts":
        """Return what an adapter itself says."""
        return cls(base_model=base_of(adapter.config).label, ref=adapter.ref, error=adapter.error)


def card_text(card: CardFacts, *, profile: str) -> bytes:
    """Return README.md: YAML front matter and a few lines; the same facts give the same bytes."""
    front = ["---", "library_name: peft"]
    if card.base_model:
        front.append(f"base_model: {json.dumps(card.base_model)}")
    front += ["tags:", "- lora", "- share_registry", "---", CARD_MARK, ""]
    title = f"# {card.ref or 'LoRA adapter'}"
    return "\n".join([*front, title, "", *_lines(card, profile), ""]).encode()


def _lines(card: CardFacts, profile: str) -> list[str]:
    base = f" for `{card.base_model}`" if card.base_model else ""
    lines = [f"A LoRA adapter{base}, exported by share_registry in the {profile} profile.", ""]
    if card.ref:
        lines.append(f"- version: `{card.ref}`")
    if card.commit_id:
        time = f" of {card.time}" if card.time else ""
        lines.append(f"- commit: c{card.commit_number} `{card.commit_id}`{time}")
    if card.error is not None:
        budget = f" (budget {card.budget:.3g})" if card.budget is not None else ""
        lines.append(
            f"- relative error of scaled dW against the committed adapter: {card.error:.3g}{budget}"
        )
    return lines
