"""From the residual stream to the vocabulary."""

from xmi.lens.logit import LensValues, depths, logit_lens
from xmi.lens.read import read_lens, read_phases

__all__ = ["LensValues", "depths", "logit_lens", "read_lens", "read_phases"]
