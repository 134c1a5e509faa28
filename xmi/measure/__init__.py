"""Numbers from results: answers, phases, similarity, geometry, scoring, statistics. No model is known here."""

from xmi.arguments import check_calls
from xmi.measure.alignment import Alignment, alignment
from xmi.measure.answers import Answers, Transfer
from xmi.measure.attention import AttentionPattern
from xmi.measure.base_comparison import BaseComparison, BaseSimilarity, similarity_to_base
from xmi.measure.boundaries import Boundaries
from xmi.measure.compare import (
    Comparison,
    LayerComparison,
    compare,
    compare_all,
    layerwise,
)
from xmi.measure.contrasts import comparisons
from xmi.measure.ensembling import EnsembleCurve
from xmi.measure.geometry import Projection, Silhouette, project, silhouette
from xmi.measure.overriding import Overriding
from xmi.measure.paired import benjamini_hochberg, holm
from xmi.measure.phases import PHASES, Phases, boundaries, merge
from xmi.measure.reading import LensReading
from xmi.measure.result import Result
from xmi.measure.scoring import paper_hit, strict_hit
from xmi.measure.sides import answers_at, majority_answers
from xmi.measure.similarity import Similarity, cosine_per_layer
from xmi.measure.stats import Proportion, accuracy, wilson
from xmi.measure.task_words import TaskWords
from xmi.measure.trajectory import Trajectory

__all__ = [
    "PHASES",
    "Alignment",
    "Answers",
    "AttentionPattern",
    "BaseComparison",
    "BaseSimilarity",
    "Boundaries",
    "Comparison",
    "EnsembleCurve",
    "LayerComparison",
    "LensReading",
    "Overriding",
    "Phases",
    "Projection",
    "Proportion",
    "Result",
    "Silhouette",
    "Similarity",
    "TaskWords",
    "Trajectory",
    "Transfer",
    "accuracy",
    "alignment",
    "answers_at",
    "benjamini_hochberg",
    "boundaries",
    "compare",
    "compare_all",
    "comparisons",
    "cosine_per_layer",
    "holm",
    "layerwise",
    "majority_answers",
    "merge",
    "paper_hit",
    "project",
    "silhouette",
    "similarity_to_base",
    "strict_hit",
    "wilson",
]

check_calls(__name__)
