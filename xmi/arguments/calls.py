"""Public calls, checked where they come from outside of xmi."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xmi.arguments.annotations import evaluated
from xmi.arguments.bounds import LEFT, meaning
from xmi.arguments.callers import F, caller, from_outside
from xmi.arguments.fits import Misfit, fit
from xmi.arguments.words import told, wanted
from xmi.errors import ArgumentError


def check_calls(package: str, names: Sequence[str] = (), *, leave: Sequence[str] = ()) -> None:
    """Checks the arguments of public calls.

    Args:
        package: Name of the module.
        names: Of its functions and classes; by default those of its `__all__`.
        leave: Names of parameters (`prompt`, or `ensemble.vectors`) that are checked by the functions themselves, with
            errors of their own.
    """
    module = sys.modules[package]
    for name in names or module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value):
            for kind in value.__mro__:
                if kind.__module__.startswith("xmi.") and not issubclass(kind, Exception):
                    _guard_class(kind, leave)
        elif inspect.isfunction(value) and not hasattr(value, "__guarded__"):
            wrapped = checked(value, leave=leave)
            setattr(module, name, wrapped)
            home, own = sys.modules[value.__module__], value.__name__
            if getattr(home, own, None) is value:  # or it could not be pickled
                setattr(home, own, wrapped)


def _guard_class(kind: type, leave: Sequence[str]) -> None:
    pydantic: bool = hasattr(kind, "model_fields")
    for name, value in list(vars(kind).items()):
        function = getattr(value, "__func__", value)
        public = not name.startswith("_") or (name == "__init__" and not pydantic)
        if not public or not inspect.isfunction(function) or hasattr(function, "__guarded__"):
            continue
        whole = checked(function, kind, leave)
        setattr(kind, name, type(value)(whole) if isinstance(value, (classmethod, staticmethod)) else whole)
    if pydantic and "__init__" not in vars(kind):
        kind.__init__ = _validated(kind)  # type: ignore[misc]


def checked(function: F, owner: type | None = None, leave: Sequence[str] = ()) -> F:
    """A function whose arguments are checked where it is called from outside of xmi.

    Args:
        function: The function.
        owner: The class that it is a method of.
        leave: See `check_calls`.

    Returns:
        The same function, which raises `ArgumentError` for an argument that its annotation does not allow.
    """
    title = f"{owner.__name__}.{function.__name__}" if owner else function.__name__
    title = title.removesuffix(".__init__")

    @functools.cache
    def annotated() -> tuple[inspect.Signature, dict[str, Any]]:
        signature = inspect.signature(function)
        module = function.__module__
        kinds = {name: evaluated(p.annotation, module, owner) for name, p in signature.parameters.items()}
        left = [name for name in kinds if name in leave or f"{title}.{name}" in leave or _is_left(kinds[name])]
        return signature, {**kinds, **dict.fromkeys(left, Any)}

    def called(args: tuple[Any, ...]) -> str:
        """What the user called: a method by the class of its object, which may have inherited it."""
        kind = args[0] if args and isinstance(args[0], type) else type(args[0]) if args else None
        return title.replace(owner.__name__, kind.__name__, 1) if owner and kind and issubclass(kind, owner) else title

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not from_outside(caller()):
            return function(*args, **kwargs)
        (signature, kinds), title = annotated(), called(args)
        problem = None
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            problem = f"{title}: {error}. It takes {_shown(signature)}."
        else:
            problem = _fitted(bound, kinds, title)
        if problem is not None:
            raise ArgumentError(problem)
        return function(*bound.args, **bound.kwargs)

    call.__guarded__ = True  # type: ignore[attr-defined]
    return typing.cast(F, call)


def _validated(kind: type) -> Callable[..., None]:
    """The constructor of a pydantic model, whose error is xmi's where it is called from outside."""
    from pydantic import BaseModel, ValidationError

    @functools.wraps(BaseModel.__init__)
    def build(self: Any, /, **given: Any) -> None:
        try:
            BaseModel.__init__(self, **given)
        except ValidationError as error:
            if not from_outside(caller()):
                raise
            first = error.errors(include_url=False, include_input=False)[0]
            problem = f"{kind.__name__}: {'.'.join(map(str, first['loc']))}: {first['msg']}."
        else:
            return
        raise ArgumentError(problem)

    build.__guarded__ = True  # type: ignore[attr-defined]
    return build


def _is_left(kind: Any) -> bool:
    """Whether a type, or a part of it, is refused where it is understood."""
    return any(part is LEFT or _is_left(part) for part in typing.get_args(kind))


def _fitted(bound: inspect.BoundArguments, kinds: Mapping[str, Any], title: str) -> str | None:
    """Puts arguments into the form that is wanted; returns what is wrong with the first that cannot be."""
    for name, value in list(bound.arguments.items()):
        form, kind = bound.signature.parameters[name].kind, kinds[name]
        try:
            if form is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(fit(part, kind) for part in value)
            elif form is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: fit(part, kind) for key, part in value.items()}
            elif value is not bound.signature.parameters[name].default:
                bound.arguments[name] = fitted = fit(value, kind)
                if kinds[name] is not Any and (problem := meaning(f"{title}.{name}", fitted, kinds[name])) is not None:
                    return f"{title}: {name} must be {problem}; found {told(value)}."
        except Misfit as misfit:
            inner = f" ({misfit})" if str(misfit) else ""
            return f"{title}: {name} must be {wanted(kind)}; found {told(value)}{inner}."
    return None


def _shown(signature: inspect.Signature) -> str:
    names = [str(p).partition(":")[0].partition("=")[0].strip() for p in signature.parameters.values()]
    return ", ".join(name for name in names if name not in ("self", "session")) or "none"
