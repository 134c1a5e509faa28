"""The TransformerLens dialect: cached activations, hooks and generation, run eagerly, with images and batches."""

from xmi.eager.cache import ActivationCache
from xmi.eager.run import Generation, Hook, HookFunction, generate, hooked, run_with_cache

__all__ = ["ActivationCache", "Generation", "Hook", "HookFunction", "generate", "hooked", "run_with_cache"]
