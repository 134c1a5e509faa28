"""Tasks, prompts, and the role and modality of every token of an encoded batch."""

from xmi.arguments import check_calls
from xmi.prompt.batch import Batch, find_segment
from xmi.prompt.encode import Encoder
from xmi.prompt.given import PromptLike, as_prompts, flatten, is_encoded
from xmi.prompt.image_grid import patch_grid
from xmi.prompt.prompt import Prompt, Prompts, Segment, Template, free_prompt
from xmi.prompt.room import check_room, new_tokens
from xmi.prompt.task import Item, Task, check_task
from xmi.prompt.task_sources import load_task, task_names

__all__ = [
    "Batch",
    "Encoder",
    "Item",
    "Prompt",
    "PromptLike",
    "Prompts",
    "Segment",
    "Task",
    "Template",
    "as_prompts",
    "check_room",
    "check_task",
    "find_segment",
    "flatten",
    "free_prompt",
    "is_encoded",
    "load_task",
    "new_tokens",
    "patch_grid",
    "task_names",
]

check_calls(__name__, leave=("given", "padding_side", "Prompts.prompts", "free_prompt.images"))
