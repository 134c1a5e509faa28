"""Task vectors: extract, average, ensemble, control, save and load."""

from xmi.arguments import check_calls
from xmi.vector.base_comparison import base_similarity
from xmi.vector.compare import ensemble, similarity
from xmi.vector.override import shared_pairs
from xmi.vector.patch import name_vectors
from xmi.vector.task_vector import (
    Residuals,
    TaskVector,
    VectorCard,
    check_fits,
    random_like,
)
from xmi.versions import versions

__all__ = [
    "Residuals",
    "TaskVector",
    "VectorCard",
    "base_similarity",
    "check_fits",
    "ensemble",
    "name_vectors",
    "random_like",
    "shared_pairs",
    "similarity",
    "versions",
]

check_calls(__name__, leave=("ensemble.vectors", "similarity.vectors", "random_like.vector", "TaskVector.values"))
