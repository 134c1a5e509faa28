"""Numbers from results: answers, phases, similarity, geometry, scoring, statistics. No model is known here."""

from xmi.measure.answers import Answers, Transfer
from xmi.measure.geometry import Projection, Silhouette, project, silhouette
from xmi.measure.phases import PHASES, Phases, merge
from xmi.measure.reading import LensReading
from xmi.measure.result import Result
from xmi.measure.scoring import paper_hit, strict_hit
from xmi.measure.similarity import Similarity, cosine_per_layer
from xmi.measure.stats import Proportion, accuracy, wilson

__all__ = [
    "PHASES",
    "Answers",
    "LensReading",
    "Phases",
    "Projection",
    "Proportion",
    "Result",
    "Silhouette",
    "Similarity",
    "Transfer",
    "accuracy",
    "cosine_per_layer",
    "merge",
    "paper_hit",
    "project",
    "silhouette",
    "strict_hit",
    "wilson",
]
