"""What runs inside a trace: plain functions over a model, builtins and tensors.

No closures, no dataclasses, no state: the same function can be shipped to another machine by value. Each opens
traces of its own and returns small results on the CPU.
"""

from xmi.kernels.activations import cache_kernel, generate_kernel
from xmi.kernels.check import proof_kernel, sight_kernel
from xmi.kernels.inputs import grown
from xmi.kernels.lens import decode_kernel, lens_kernel
from xmi.kernels.next_tokens import next_token_kernel
from xmi.kernels.packing import pack_inputs
from xmi.kernels.residuals import ResidPost, residual_kernel, score, stream_kernel
from xmi.kernels.sweep import blend, rows_kernel, sweep_kernel, swept
from xmi.kernels.trajectory import trajectory_kernel

__all__ = [
    "ResidPost",
    "blend",
    "cache_kernel",
    "decode_kernel",
    "generate_kernel",
    "grown",
    "lens_kernel",
    "next_token_kernel",
    "pack_inputs",
    "proof_kernel",
    "residual_kernel",
    "rows_kernel",
    "score",
    "sight_kernel",
    "stream_kernel",
    "sweep_kernel",
    "swept",
    "trajectory_kernel",
]
