"""From the residual stream to the vocabulary."""

from xmi.lens.logit import LensValues, depths, logit_lens

__all__ = ["LensValues", "depths", "logit_lens"]
