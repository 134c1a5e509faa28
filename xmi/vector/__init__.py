"""Task vectors: extract, average, ensemble, control, save and load."""

from xmi.vector.compare import similarity
from xmi.vector.task_vector import (
    Residuals,
    TaskVector,
    VectorCard,
    check_fits,
    ensemble,
    random_like,
    versions,
)

__all__ = [
    "Residuals",
    "TaskVector",
    "VectorCard",
    "check_fits",
    "ensemble",
    "random_like",
    "similarity",
    "versions",
]
