"""Versions from a training: for loops of your own, `Committer`.

`share_registry.transformers.CommitCallback` is the same for the Trainer of transformers and those
of TRL.
"""

from share_registry.training.committer import Committer, RunReport

__all__ = ["Committer", "RunReport"]
