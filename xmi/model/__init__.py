"""Load any checkpoint and find its language backbone from the model's own structure."""

from xmi.model.anatomy import Anatomy
from xmi.model.backbone import Backbone, find_backbone
from xmi.model.check import CheckReport, Probes, check_model
from xmi.model.engine import Engine, Host
from xmi.model.gather import Call
from xmi.model.inside import attention
from xmi.model.load import Checkpoint, load_checkpoint
from xmi.model.points import Point, full_name, select

__all__ = [
    "Anatomy",
    "Backbone",
    "Call",
    "CheckReport",
    "Checkpoint",
    "Engine",
    "Host",
    "Point",
    "Probes",
    "attention",
    "check_model",
    "find_backbone",
    "full_name",
    "load_checkpoint",
    "select",
]
