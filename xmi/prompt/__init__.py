"""Tasks, prompts, and the role and modality of every token of an encoded batch."""

from xmi.prompt.batch import Batch
from xmi.prompt.encode import Encoder
from xmi.prompt.prompt import Prompt, Prompts, Segment, Template, free_prompt
from xmi.prompt.task import Item, Task, load_task, task_names

__all__ = [
    "Batch",
    "Encoder",
    "Item",
    "Prompt",
    "Prompts",
    "Segment",
    "Task",
    "Template",
    "free_prompt",
    "load_task",
    "task_names",
]
