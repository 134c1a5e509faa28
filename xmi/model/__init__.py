"""Load any checkpoint and find its language backbone from the model's own structure."""

from xmi.model.anatomy import Anatomy, eager_attention
from xmi.model.backbone import Backbone, find_backbone
from xmi.model.check import CheckReport, Probes, check_model
from xmi.model.engine import Engine
from xmi.model.load import Checkpoint, load_checkpoint
from xmi.model.points import Point, full_name, select

__all__ = [
    "Anatomy",
    "Backbone",
    "CheckReport",
    "Checkpoint",
    "Engine",
    "Point",
    "Probes",
    "check_model",
    "eager_attention",
    "find_backbone",
    "full_name",
    "load_checkpoint",
    "select",
]
