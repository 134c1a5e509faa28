"""The TransformerLens dialect: cached activations, hooks and generation, run eagerly, with images and batches."""

from xmi.arguments import check_calls
from xmi.hooks.cache import ActivationCache
from xmi.hooks.generate import Generation, generate
from xmi.hooks.hooked import Hook, HookFunction, Hooks, Names, hooked
from xmi.hooks.run import run, run_with_cache

__all__ = [
    "ActivationCache",
    "Generation",
    "Hook",
    "HookFunction",
    "Hooks",
    "Names",
    "generate",
    "hooked",
    "run",
    "run_with_cache",
]


check_calls(__name__, leave=("fwd_hooks", "bwd_hooks", "names", "positions", "ActivationCache.accumulated_resid.layer"))
