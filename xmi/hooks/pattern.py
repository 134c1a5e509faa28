"""Where the tokens of a prompt look, as a result that draws itself."""

from __future__ import annotations

import numpy as np

from xmi.errors import PromptError
from xmi.hooks.run import run_with_cache
from xmi.measure import AttentionPattern
from xmi.model import from_end
from xmi.prompt import PromptLike
from xmi.prompt.token_roles import PADDING
from xmi.session import Session


def pattern(session: Session, prompt: PromptLike, layer: int) -> AttentionPattern:
    """The attention pattern of one prompt at one layer, images included.

    Patterns exist only in eager attention: this call runs with it, with a warning if the model runs otherwise.

    Args:
        prompt: One prompt.
        layer: The block; -1 is the last.

    Returns:
        Attention [head, query, key]; its `figure()` is a heat map with a menu of the heads.

    Raises:
        PromptError: Several prompts.
        HookError: No such layer, or the layer has no pattern (the error says why), or the model is on a host.

    Examples:
        >>> found = vlm.pattern(task.queries("image", n=1), layer=3)
        >>> found.values.shape  # head, query, key
        (4, 15, 15)
        >>> found.joined().tokens[3]
        'image 0 (9 tokens)'
    """
    number = from_end(layer, session.backbone.n_layers)
    batch = session.encode(prompt)
    if len(batch) != 1:
        raise PromptError(f"A pattern is that of one prompt; {len(batch)} were given. For several, run_with_cache.")
    _, cache = run_with_cache(session, batch, names=f"blocks.{number}.attn.hook_pattern")
    real = np.flatnonzero(batch.first[0] != PADDING)
    values = cache["pattern", number][0].float().cpu().numpy()[:, real][:, :, real]
    kinds = batch.modalities(0)
    return AttentionPattern(tuple(batch.tokens[0][i] for i in real), tuple(kinds[i] for i in real), values, number)
