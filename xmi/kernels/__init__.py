"""What runs inside a trace: plain functions over a model, builtins and tensors.

No closures, no dataclasses, no state: the same function can be shipped to another machine by value. Each opens
traces of its own and returns small results on the CPU.
"""

from xmi.kernels.inputs import grown
from xmi.kernels.packing import pack_inputs
from xmi.kernels.residuals import ResidPost, lens_kernel, next_token_kernel, residual_kernel, score, stream_kernel
from xmi.kernels.sweep import blend, sweep_kernel, swept

__all__ = [
    "ResidPost",
    "blend",
    "grown",
    "lens_kernel",
    "next_token_kernel",
    "pack_inputs",
    "residual_kernel",
    "score",
    "stream_kernel",
    "sweep_kernel",
    "swept",
]
