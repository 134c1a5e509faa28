"""Load any checkpoint and find its language backbone from the model's own structure."""

from xmi.arguments import check_calls
from xmi.model.anatomy import Anatomy
from xmi.model.attention import attention
from xmi.model.backbone import Backbone, find_backbone
from xmi.model.check import CheckReport, Probes, check_model
from xmi.model.engine import Engine
from xmi.model.guard import LOADING, Block, Guard, guard_of, guarded, guards_in, once, open_blocks
from xmi.model.hook_points import Point, from_end, full_name, select
from xmi.model.load import Checkpoint, load_checkpoint

__all__ = [
    "LOADING",
    "Anatomy",
    "Backbone",
    "Block",
    "CheckReport",
    "Checkpoint",
    "Engine",
    "Guard",
    "Point",
    "Probes",
    "attention",
    "check_model",
    "find_backbone",
    "from_end",
    "full_name",
    "guard_of",
    "guarded",
    "guards_in",
    "load_checkpoint",
    "once",
    "open_blocks",
    "select",
]

check_calls(__name__)
