"""Arguments of public calls are what their annotations say, or are refused by name before anything runs.

`check_calls(__name__)` at the end of a package makes it so for every function and class in its `__all__`: what is
written once, as the type of a parameter, is what is checked. Only calls from outside of xmi are checked, so that the
rooms pay nothing for one another; annotations are read when such a call comes, so that an import pays nothing either.

Plain differences of form are taken: numpy's numbers, a list for a tuple, a generator or an array for a
sequence. A text is not a sequence of texts, True is not 1, and NaN is not a number.
"""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import functools
import inspect
import math
import numbers
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from xmi.errors import ArgumentError

F = TypeVar("F", bound=Callable[..., Any])
_LIBRARIES = {"functools", "dataclasses", "copy", "contextlib"}
"""Modules that call on behalf of another."""
_FORWARDING: set[types.CodeType] = set()
"""Functions of xmi that do."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number must lie between, both ends included; stands in `Annotated[int, Bounds(1)]`.

    Attributes:
        low: The least.
        high: The largest.
    """

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        """Returns the bounds in words."""
        if self.high == math.inf:
            return f"of at least {self.low:g}"
        return f"of at most {self.high:g}" if self.low == -math.inf else f"between {self.low:g} and {self.high:g}"


LEFT = object()
"""Stands in `Annotated[..., LEFT]` of a type that is refused, with an error of its own, where it is understood."""

_MEANT: dict[str, Bounds] = {
    **dict.fromkeys(("seed", "permutations", "keep", "rate", "decay", "token"), Bounds(0)),
    **dict.fromkeys(("resamples", "k", "batch_size", "max_new_tokens", "limit", "new"), Bounds(1)),
    "confidence": Bounds(0, 1),
    "held_out": Bounds(0, 1),
}
"""Parameters that mean the same everywhere, and what they lie between."""
_NUMBERS = {"hits", "p"}
"""Parameters that are arrays of numbers, where others may be of texts."""
_SOME = {"slots", "concat.parts"}
"""Parameters of which there must be one at least."""


class _Misfit(Exception):
    """A value that an annotation does not allow."""


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
        kinds = {name: _evaluated(p.annotation, module, owner) for name, p in signature.parameters.items()}
        left = [name for name in kinds if name in leave or f"{title}.{name}" in leave or _is_left(kinds[name])]
        return signature, {**kinds, **dict.fromkeys(left, Any)}

    def called(args: tuple[Any, ...]) -> str:
        """What the user called: a method by the class of its object, which may have inherited it."""
        kind = args[0] if args and isinstance(args[0], type) else type(args[0]) if args else None
        return title.replace(owner.__name__, kind.__name__, 1) if owner and kind and issubclass(kind, owner) else title

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not _from_outside(_caller()):
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
            if not _from_outside(_caller()):
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
    return any(part is LEFT or _is_left(part) for part in get_args(kind))


def forwarding(function: F) -> F:
    """Marks a function of xmi that hands its arguments on: they are checked where they arrive."""
    _FORWARDING.add(getattr(function, "__code__"))  # noqa: B009 (a callable need not have one)
    return function


def _caller() -> Any:
    """The frame that called the function which asks; None where a greenlet of xmi begins with that function."""
    try:
        return sys._getframe(2)
    except ValueError:
        return None


def _from_outside(frame: Any) -> bool:
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name not in _LIBRARIES and name != __name__ and frame.f_code not in _FORWARDING:
            return not _is_inner(name)
        frame = frame.f_back
    return False  # only xmi begins greenlets with its own functions; threads begin with one of threading


def _is_inner(module: str) -> bool:
    return module in _LIBRARIES or module == "xmi" or module.startswith("xmi.")


def outside() -> int:
    """The `stacklevel` of a warning that shall name the line of the user's call, for the function that warns."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_inner(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _fitted(bound: inspect.BoundArguments, kinds: Mapping[str, Any], title: str) -> str | None:
    """Puts arguments into the form that is wanted; returns what is wrong with the first that cannot be."""
    for name, value in list(bound.arguments.items()):
        form, kind = bound.signature.parameters[name].kind, kinds[name]
        try:
            if form is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(_fit(part, kind) for part in value)
            elif form is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: _fit(part, kind) for key, part in value.items()}
            elif value is not bound.signature.parameters[name].default:
                bound.arguments[name] = fitted = _fit(value, kind)
                if kinds[name] is not Any and (problem := _meaning(f"{title}.{name}", fitted, kinds[name])) is not None:
                    return f"{title}: {name} must be {problem}; found {told(value)}."
        except _Misfit as misfit:
            inner = f" ({misfit})" if str(misfit) else ""
            return f"{title}: {name} must be {wanted(kind)}; found {told(value)}{inner}."
    return None


def _meaning(place: str, value: Any, kind: Any) -> str | None:
    """What a value of the right type must be besides, if it is not."""
    name = place.rpartition(".")[2]
    building = place[0].isupper() and place.count(".") == 1  # results may hold NaN; functions and methods take none
    if isinstance(value, float) and math.isnan(value) and not building:
        return "a number"
    bounds = _MEANT.get(name)
    if bounds and isinstance(value, (int, float)) and not bounds.low <= value <= bounds.high:
        return f"a number {bounds}"
    if any(place.endswith(f".{some}") for some in _SOME) and isinstance(value, (list, tuple)) and not value:
        return "at least one"
    if name in _NUMBERS and kind is _ArrayLike and sys.modules["numpy"].asarray(value).dtype.kind == "U":
        return "numbers"
    if name == "device" and isinstance(value, str) and "torch" in sys.modules:
        try:
            sys.modules["torch"].device(value)
        except RuntimeError:
            return "a device such as 'cpu', 'cuda' or 'cuda:1'"
    return None


# What fits an annotation


def _fit(value: Any, kind: Any) -> Any:
    """A value in the form that an annotation asks for.

    Raises:
        _Misfit: It has none; the text says more where a part of it is wrong.
    """
    if kind is Any or kind is object or isinstance(kind, (str, TypeVar)):
        return value
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        value = _fit(value, inner[0])
        for bounds in inner[1:]:
            if isinstance(bounds, Bounds) and not bounds.low <= value <= bounds.high:
                raise _Misfit
        return value
    if origin in (Union, types.UnionType):
        return _fit_one(value, inner)
    if kind is None or kind is type(None):
        return _if(value is None, value)
    if origin is Literal:
        return _if(any(type(value) is type(word) and value == word for word in inner), value)
    if origin is type or kind is type:
        return _if(isinstance(value, type), value)
    if kind is _ArrayLike:
        return _fit_array(value)
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    base = origin or kind
    if base in (collections.abc.Callable, typing.Callable):
        return _if(callable(value), value)
    if isinstance(base, type) and base in _CONTAINERS:
        return _CONTAINERS[base](value, base, inner)
    if hasattr(kind, "array_type"):
        return _if(isinstance(value, kind) or _is_whole_array(value, kind), value)
    if isinstance(base, type):
        return _if(_is_a(value, base), value)
    return value


def _is_whole_array(value: Any, kind: Any) -> bool:
    """Whether an array of integers would fit where one of floats is asked for."""
    if not isinstance(value, kind.array_type):
        return False
    name = str(value.dtype)
    if not ("int" in name or "bool" in name or "float" in name):
        return False
    if hasattr(value, "numpy"):
        return isinstance(value.new_zeros((), dtype=sys.modules["torch"].float32).expand(value.shape), kind)
    numpy = sys.modules["numpy"]
    return isinstance(numpy.broadcast_to(numpy.float32(0), value.shape), kind)


class _ArrayLike:
    """Stands for numpy's `ArrayLike`: numbers or texts in any form."""


def _fit_array(value: Any) -> Any:
    import numpy as np

    try:
        kind = np.asarray(value).dtype.kind
    except Exception:  # its own fault
        raise _Misfit from None
    return _if(kind in "biufU" and not isinstance(value, (str, type(None))), value)


def _fit_one(value: Any, kinds: Sequence[Any]) -> Any:
    """The first of several annotations that a value fits."""
    said = ""
    for kind in kinds:
        try:
            return _fit(value, kind)
        except _Misfit as misfit:
            said = said or str(misfit)
    raise _Misfit(said)


def _if(holds: bool, value: Any) -> Any:
    if not holds:
        raise _Misfit
    return value


def _is_a(value: Any, kind: type) -> bool:
    if getattr(kind, "_is_protocol", False):
        asked = [name for name in dir(kind) if not name.startswith("_")]
        return not isinstance(value, type) and all(hasattr(value, name) for name in asked)
    with suppress(TypeError):
        return isinstance(value, kind)
    return True


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise _Misfit
    return int(value)


def _real(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
        raise _Misfit
    return value


def _truth(value: Any) -> Any:
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise _Misfit
    return bool(value)


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    int: _whole,
    float: _real,
    bool: _truth,
    str: lambda value: _if(isinstance(value, str), value),
}


def _fit_sequence(value: Any, base: type, inner: tuple[Any, ...]) -> Any:
    parts = _parts(value)
    if base is tuple and inner and inner[-1] is not Ellipsis:
        if len(parts) != len(inner):
            raise _Misfit(f"it has {len(parts)}")
        kinds: Sequence[Any] = inner
    else:
        kinds = [inner[0] if inner else Any] * len(parts)
    fitted = [_fit_part(part, kind, place) for place, (part, kind) in enumerate(zip(parts, kinds, strict=True))]
    if base is tuple:
        return tuple(fitted)
    if isinstance(value, base) and all(a is b for a, b in zip(parts, fitted, strict=True)):
        return value
    return fitted if base is list or not isinstance(value, tuple) else tuple(fitted)


def _parts(value: Any) -> Sequence[Any]:
    """The parts of what is taken for a sequence."""
    if isinstance(value, (str, bytes, bytearray, collections.abc.Mapping, collections.abc.Set)):
        if isinstance(value, collections.abc.KeysView):
            return list(value)
        raise _Misfit
    if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1:  # arrays, tensors, columns of tables
        return list(value.tolist())
    if hasattr(value, "ndim"):
        raise _Misfit
    if isinstance(value, (collections.abc.Iterator, collections.abc.ValuesView)):
        return list(value)
    if isinstance(value, collections.abc.Sequence):
        return value
    if not isinstance(value, type) and hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return [value[place] for place in range(len(value))]
    raise _Misfit


def _fit_part(value: Any, kind: Any, place: Any) -> Any:
    try:
        return _fit(value, kind)
    except _Misfit as misfit:
        inner = f": {misfit}" if str(misfit) else ""
    raise _Misfit(f"at {place!r:.40}: {told(value)}{inner}")


def _fit_mapping(value: Any, base: type, inner: tuple[Any, ...]) -> Any:
    if not isinstance(value, collections.abc.Mapping):
        raise _Misfit
    if inner:
        for key, part in value.items():
            _fit_part(key, inner[0], key)
            _fit_part(part, inner[1], key)
    return value


def _fit_iterable(value: Any, base: type, inner: tuple[Any, ...]) -> Any:
    """Several of something in any order of kinds; what can be read once only is left to the reader."""
    if isinstance(value, (str, bytes, bytearray, type)) or not isinstance(value, collections.abc.Iterable):
        raise _Misfit
    if isinstance(value, collections.abc.Iterator):
        return value
    parts = value if isinstance(value, (collections.abc.Set, collections.abc.Mapping)) else _parts(value)
    for place, part in enumerate(parts if inner else ()):
        _fit_part(part, inner[0], place)
    return value


_CONTAINERS: dict[type, Callable[[Any, type, tuple[Any, ...]], Any]] = {
    **dict.fromkeys((list, tuple, collections.abc.Sequence), _fit_sequence),
    **dict.fromkeys((dict, collections.abc.Mapping), _fit_mapping),
    **dict.fromkeys((collections.abc.Iterable, collections.abc.Collection), _fit_iterable),
}


# In words


def wanted(kind: Any) -> str:
    """An annotation in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = " ".join(str(part) for part in inner[1:] if isinstance(part, Bounds))
        return f"{wanted(inner[0])} {bounds}".strip()
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(wanted(part) for part in inner))
        return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    if kind is None or kind is type(None):
        return "None"
    if origin is Literal:
        return "one of " + ", ".join(repr(word) for word in inner)
    if kind in _WORDS:
        return _WORDS[kind]
    base = origin or kind
    if base in (collections.abc.Callable, typing.Callable):
        return "a function"
    if base is tuple and inner and inner[-1] is not Ellipsis:
        return f"{len(inner)} of ({', '.join(wanted(part) for part in inner)})"
    if isinstance(base, type) and base in _CONTAINERS:
        if base in (dict, collections.abc.Mapping):
            return f"a mapping to ({wanted(inner[1])})" if inner else "a mapping"
        return f"a sequence of ({wanted(inner[0])})" if inner else "a sequence"
    if kind is Any or isinstance(kind, (str, TypeVar)):
        return "anything"
    return getattr(kind, "__name__", str(kind))


_WORDS: dict[Any, str] = {
    _ArrayLike: "an array",
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
}


def told(value: Any) -> str:
    """A value as an error shows it."""
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, type):
        return f"{kind} of shape {list(shape) if isinstance(shape, tuple) else shape}"
    if value is None or isinstance(value, (bool, int, float)):
        return reprlib.repr(value)
    try:
        shown = reprlib.repr(value)
    except Exception:  # its own fault
        shown = "..."
    return f"{shown} ({kind})"


def _shown(signature: inspect.Signature) -> str:
    names = [str(p).partition(":")[0].partition("=")[0].strip() for p in signature.parameters.values()]
    return ", ".join(name for name in names if name not in ("self", "session")) or "none"


# Annotations


def _evaluated(annotation: Any, module: str, owner: type | None) -> Any:
    """An annotation's meaning; what cannot be found out is not checked."""
    if annotation is inspect.Parameter.empty:
        return Any
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, vars(sys.modules[module]), _Names(module, owner))
        except Exception:
            return Any
    return annotation


class _Names(dict[str, Any]):
    """The names that a module imports for its annotations alone, found when they are asked for."""

    def __init__(self, module: str, owner: type | None) -> None:
        super().__init__({"ArrayLike": _ArrayLike, **({"Self": owner} if owner else {})})
        self.found = _imported_for_types(module)

    def __missing__(self, name: str) -> Any:
        home, attribute = self.found[name]
        loaded = sys.modules.get(home)
        if loaded is None:  # nothing can be of a type that was never loaded
            return _Absent
        return getattr(loaded, attribute) if attribute else loaded


class _Absent:
    """Stands for a type of a module that was never imported."""


@functools.cache
def _imported_for_types(module: str) -> dict[str, tuple[str, str]]:
    """The imports under `if TYPE_CHECKING:`; module and attribute by name."""
    found: dict[str, tuple[str, str]] = {}
    with suppress(OSError, TypeError):
        for node in ast.parse(inspect.getsource(sys.modules[module])).body:
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                found.update(_imports(node.body))
    return found


def _imports(body: Sequence[ast.stmt]) -> Iterator[tuple[str, tuple[str, str]]]:
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, (node.module, alias.name)) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], (alias.name, "")
