"""Which image a model cannot take, when its own code stops in a forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image

from xmi.errors import PromptError, XmiError
from xmi.model import Engine
from xmi.model.engine import first_line
from xmi.prompt.encode import Encoder
from xmi.prompt.encoded import EncodedPrompt
from xmi.prompt.processor import lone_images
from xmi.prompt.prompt import Prompt, free_prompt


@contextmanager
def images_named(engine: Engine, encoder: Encoder, prompts: Sequence[Prompt]) -> Iterator[None]:
    """Names the image that a forward inside fails on; every other failure is left as it is.

    An image is to blame if a forward of it alone fails as well, and one of an ordinary image does not.

    Args:
        engine: The model.
        encoder: Prompts to inputs.
        prompts: What the forwards inside are of.

    Raises:
        PromptError: An image that the model cannot take, with its file, or its place in the prompts, and its size.
    """
    try:
        yield
    except (XmiError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # other people's code: whatever it raises
        if name := _blamed(engine, encoder, prompts):
            raise PromptError(
                f"{engine.checkpoint.name} cannot take {name}: its own code stops there ({type(error).__name__}: "
                f"{first_line(error)}). Give an image of a common size and shape."
            ) from error
        raise


def _blamed(engine: Engine, encoder: Encoder, prompts: Sequence[Prompt]) -> str | None:
    if any(isinstance(prompt, EncodedPrompt) for prompt in prompts):
        return None
    images = list(lone_images(prompts))
    ordinary = free_prompt("<image>is", Image.effect_noise((224, 224), 50.0))[0]
    if not images or _fails(engine, encoder, ordinary):
        return None
    return next((name for name, alone in images if _fails(engine, encoder, alone)), None)


def _fails(engine: Engine, encoder: Encoder, prompt: Prompt) -> bool:
    try:
        engine.backend.require("hooks", engine.checkpoint.name)  # the model itself, here
        with engine.alone(), torch.no_grad():
            engine.model(**engine.forward(encoder.encode([prompt]).inputs))
    except Exception:
        return True
    return False
