"""Where a model computes: one file for each place, and a line here.

A place is chosen by what `xmi.load(remote=...)` is given: nothing means this process, an address its scheme. Everything
that differs between places is a method of `Backend`, so that nothing else asks where a model is.
"""

from importlib import import_module

from xmi.backend.base import ON_HOST, Backend, Look
from xmi.backend.gather import Call

BACKENDS = {
    "": "xmi.backend.local:LocalBackend",
    "http": "xmi.remote.backend:RemoteBackend",
    "https": "xmi.remote.backend:RemoteBackend",
}
"""The class for each scheme of an address (for none: this process), imported when it is asked for."""


def backend_for(remote: bool | str | None) -> type[Backend]:
    """The kind of backend that `xmi.load(remote=...)` means.

    Args:
        remote: An address; True for the NDIF host that nnsight is configured for; False or None for this process.

    Returns:
        The class. An address of unknown scheme is left to NDIF's, which says what is wrong with it.
    """
    scheme = "" if not remote else str(remote).partition("://")[0].lower()
    module, name = BACKENDS.get(scheme, BACKENDS["https"]).split(":")
    kind: type[Backend] = getattr(import_module(module), name)
    return kind


__all__ = ["BACKENDS", "ON_HOST", "Backend", "Call", "Look", "backend_for"]
