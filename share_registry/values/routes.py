"""Where an input is sent."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A task version that an input may be sent to.

    Attributes:
        ref: `space/task@vN`.
        score: By how much the share is above what is expected; in standard deviations of the
            examples where the index was standardised. The largest is the best.
        share: Share of the input's squared length in the task's row spaces, 0 to 1, the mean over
            modules.
    """

    ref: str
    score: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedTask:
    """A task version of a routing index.

    Attributes:
        ref: `space/task@vN`.
        digest: sha256 of its adapter object.
    """

    ref: str
    digest: str
