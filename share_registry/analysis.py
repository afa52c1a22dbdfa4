"""What `analyze`, `retention` and `similar` return, and `analyze` itself."""

from share_registry.registry.analysis.analyze import analyze
from share_registry.values.analyses import (
    AnalysedAdapter,
    Analysis,
    Continued,
    Forecast,
    Kinship,
    LeaveOneOut,
    Neighbour,
    Retention,
    RetentionCell,
    RetentionCommit,
    RetentionRow,
    Similar,
    Spectrum,
    Statement,
)

__all__ = [
    "AnalysedAdapter",
    "Analysis",
    "Continued",
    "Forecast",
    "Kinship",
    "LeaveOneOut",
    "Neighbour",
    "Retention",
    "RetentionCell",
    "RetentionCommit",
    "RetentionRow",
    "Similar",
    "Spectrum",
    "Statement",
    "analyze",
]
