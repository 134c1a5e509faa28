"""Tasks, prompts, and the role and modality of every token of an encoded batch."""

from xmi.prompt.batch import Batch, find_segment
from xmi.prompt.encode import Encoder
from xmi.prompt.files import load_task, task_names
from xmi.prompt.geometry import patch_grid
from xmi.prompt.prompt import Prompt, PromptLike, Prompts, Segment, Template, as_prompts, free_prompt
from xmi.prompt.task import Item, Task, check_task

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
    "check_task",
    "find_segment",
    "free_prompt",
    "load_task",
    "patch_grid",
    "task_names",
]
