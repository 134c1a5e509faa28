"""What runs inside a trace: plain functions over a model, builtins and tensors.

No closures, no dataclasses, no state: the same function can be shipped to another machine by value. Each opens its
own trace, does one forward, and returns small results on the CPU.
"""

from xmi.kernels.packing import pack_inputs
from xmi.kernels.residuals import ResidPost, lens_kernel, next_token_kernel, residual_kernel, score
from xmi.kernels.sweep import blend, sweep_kernel

__all__ = [
    "ResidPost",
    "blend",
    "lens_kernel",
    "next_token_kernel",
    "pack_inputs",
    "residual_kernel",
    "score",
    "sweep_kernel",
]
