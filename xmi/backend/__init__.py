"""Where a model computes: one file for each place, and a line here.

A place is chosen by what `xmi.load(remote=...)` is given: nothing means this process, an address its scheme. Everything
that differs between places is a method of `Backend`, so that nothing else asks where a model is.
"""

from importlib import import_module

from xmi.backend.base import ON_HOST, Backend, Look
from xmi.backend.gather import Call
from xmi.errors import RemoteError

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
        The class.

    Raises:
        RemoteError: An address whose scheme is not in `BACKENDS`.
    """
    scheme, has_scheme, _ = ("https", "://", "") if remote is True else str(remote or "").partition("://")
    if remote and not (scheme and has_scheme and scheme.lower() in BACKENDS):
        shown = scheme if has_scheme else scheme.partition("?")[0].rpartition("@")[-1]  # elsewhere may be a secret
        known = ", ".join(f"{one}://" for one in BACKENDS if one)
        raise RemoteError(
            f"remote: {shown + has_scheme!r} is not the address of a host: it begins with none of {known}. Give the "
            "host's address, or remote=True for the one that nnsight is configured for."
        )
    module, name = BACKENDS[scheme.lower()].split(":")
    kind: type[Backend] = getattr(import_module(module), name)
    return kind


__all__ = ["BACKENDS", "ON_HOST", "Backend", "Call", "Look", "backend_for"]
