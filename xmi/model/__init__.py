"""Load any checkpoint and find its language backbone from the model's own structure."""

from xmi.model.backbone import Backbone, find_backbone
from xmi.model.check import CheckReport, check_model
from xmi.model.engine import Engine
from xmi.model.load import Checkpoint, load_checkpoint

__all__ = [
    "Backbone",
    "CheckReport",
    "Checkpoint",
    "Engine",
    "check_model",
    "find_backbone",
    "load_checkpoint",
]
