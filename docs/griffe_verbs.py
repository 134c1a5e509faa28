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
            module, _, verb = str(getattr(member, "value", None)).partition(".")
            if isinstance(member, Attribute) and verb.isidentifier() and module in vlm.module.members:
                # In the module, since a verb may have its module's name, which in the class is the verb.
                found = pkg[f"{vlm.module.resolve(module).removeprefix('xmi.')}.{verb}"]
                if isinstance(found, Function):
                    vlm.set_member(name, _bound(found, member))


def _bound(verb: Function, place: Attribute) -> Function:
    method = copy(verb)
    method.parameters = Parameters(*list(verb.parameters)[1:])
    method.parent, method.lineno, method.endlineno = place.parent, place.lineno, place.endlineno
    return method
