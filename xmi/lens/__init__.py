"""From the residual stream to the vocabulary: a Lens protocol, the logit lens and the tuned lens."""

from xmi.arguments import check_calls
from xmi.lens.base import Lens, LensValues, depths, read_depths
from xmi.lens.logit import LogitLens
from xmi.lens.read import read_lens, read_phases
from xmi.lens.tune import tune_lens
from xmi.lens.tuned import LensCard, TunedLens
from xmi.lens.words import find_task_words

__all__ = [
    "Lens",
    "LensCard",
    "LensValues",
    "LogitLens",
    "TunedLens",
    "depths",
    "find_task_words",
    "read_depths",
    "read_lens",
    "read_phases",
    "tune_lens",
]

check_calls(__name__)
