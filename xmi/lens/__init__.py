"""From the residual stream to the vocabulary: a Lens protocol, the logit lens and the tuned lens."""

from xmi.arguments import check_calls
from xmi.lens.base import Lens, LensValues, depths, read_depths
from xmi.lens.logit import LogitLens
from xmi.lens.tuned import LensCard, TunedLens

__all__ = [
    "Lens",
    "LensCard",
    "LensValues",
    "LogitLens",
    "TunedLens",
    "depths",
    "read_depths",
]

check_calls(__name__)
