"""The TransformerLens dialect: cached activations, hooks and generation, run eagerly, with images and batches."""

from xmi.arguments import check_calls
from xmi.hooks.cache import ActivationCache
from xmi.hooks.generate import Generation
from xmi.hooks.hooked import Hook, HookFunction, Hooks, Names

__all__ = [
    "ActivationCache",
    "Generation",
    "Hook",
    "HookFunction",
    "Hooks",
    "Names",
]


check_calls(__name__, leave=("fwd_hooks", "bwd_hooks", "names", "positions", "ActivationCache.accumulated_resid.layer"))
