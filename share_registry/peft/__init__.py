"""Training in the subspace of a space, as a method of PEFT.

`get_peft_model(model, ShareConfig(registry=..., space=...))`.

The basis of the space stays frozen; what is trained are coefficients over it and, where asked for,
a few directions beside it (Share, arXiv 2602.06043, section 3). Importing this package registers
the method under the name SHARE, so that PEFT's own functions know it. Needs peft 0.15 or newer.
"""

from share_registry.errors import RefusedError

try:
    from peft.utils import register_peft_method
except ImportError as error:
    raise RefusedError(
        "peft 0.15 or newer is not installed, expected it for training.",
        hint="pip install -U 'share-registry[peft]'",
    ) from error

from share_registry.peft.layer import ShareLayer, ShareLinear
from share_registry.peft.share_config import NAME, PREFIX, ShareConfig
from share_registry.peft.subspace import Subspace
from share_registry.peft.tuner import ShareModel

__all__ = ["ShareConfig", "ShareLayer", "ShareLinear", "ShareModel", "Subspace"]

register_peft_method(name=NAME.lower(), config_cls=ShareConfig, model_cls=ShareModel, prefix=PREFIX)
