"""For mkdocstrings: verbs, which `VLM` binds from their rooms, are shown as the methods that they become."""

from __future__ import annotations

from copy import copy
from typing import Any

from griffe import Attribute, Class, Extension, Function, Module, Parameters


class BoundVerbs(Extension):
    """Puts a function in the place of every attribute of `VLM` that is one."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Binds the verbs, once all rooms are read."""
        if pkg.path != "xmi":
            return
        vlm: Class = pkg["vlm.VLM"]
        for name, member in list(vlm.members.items()):
            if isinstance(member, Attribute) and hasattr(member.value, "canonical_path"):
                found = pkg[member.value.canonical_path.removeprefix("xmi.")]
                if isinstance(found, Function):
                    vlm.set_member(name, _bound(found, member))


def _bound(verb: Function, place: Attribute) -> Function:
    method = copy(verb)
    method.parameters = Parameters(*list(verb.parameters)[1:])
    method.parent, method.lineno, method.endlineno = place.parent, place.lineno, place.endlineno
    return method
