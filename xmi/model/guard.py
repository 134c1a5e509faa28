"""One thread at a time: the guard over what threads share.

A model is one object with hooks, switches and an nnsight interleaver on it, and a tokenizer pads on the side that it
was last told to. So whatever runs a model or encodes a prompt does it under the guard of the thing that it uses. A
guard belongs to the thing, not to who uses it: two models loaded around one module share one.

Guards are taken in one order, a model's before a tokenizer's. They are held for a forward or an encoding and never over
code of the user's, but for hook functions and the blocks of traces, which run in the middle of a forward.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload
from weakref import WeakKeyDictionary

from xmi.errors import HookError
from xmi.shown import Shown

T = TypeVar("T")
P = ParamSpec("P")

PATIENCE = 60.0
"""How many seconds a thread waits for one call of another one's hook function until it gives up."""


@dataclass(frozen=True, eq=False)
class Inside:
    """Code of the user's that runs in the middle of a forward.

    Attributes:
        what: What it is, for messages.
        hook: Whether it is one call of a hook function.
    """

    what: str
    hook: bool = False


class Guard(Shown):
    """A lock that the thread which holds it may take again.

    Attributes:
        inside: The code of the user's that runs in the middle of a forward now, or None.
    """

    def __init__(self) -> None:
        """Makes an open guard."""
        self.inside: Inside | None = None
        self._lock = threading.RLock()
        self._holder, self._depth = 0, 0

    @property
    def mine(self) -> bool:
        """Whether this thread holds the guard."""
        return self._holder == threading.get_ident()

    def __enter__(self) -> Guard:
        """Waits until no other thread holds the guard.

        Raises:
            HookError: One call of a hook function has held it for `PATIENCE` seconds.
        """
        if not self._lock.acquire(blocking=False):
            seen = self.inside
            while not self._lock.acquire(timeout=PATIENCE):
                if seen is not None and seen.hook and seen is self.inside:
                    raise HookError(
                        f"Another thread runs this model and has been in {seen.what} for {PATIENCE:g} s. If that waits "
                        "for this thread, neither can go on: a hook function must not wait for a thread that runs the "
                        "same model."
                    )
                seen = self.inside
        self._holder, self._depth = threading.get_ident(), self._depth + 1
        return self

    def __exit__(self, *_: object) -> None:
        """Lets others go on, once it was left as often as it was entered."""
        self._depth -= 1
        if not self._depth:
            self._holder = 0
        self._lock.release()

    @contextmanager
    def around(self, inside: Inside) -> Iterator[None]:
        """Says that code of the user's runs in the middle of a forward."""
        before, self.inside = self.inside, inside
        try:
            yield
        finally:
            self.inside = before

    def renew(self) -> None:
        """In a forked process: nobody is left who could let go of what another thread held."""
        if not self.mine:
            self.__init__()  # type: ignore[misc]


_GUARDS: WeakKeyDictionary[Any, Guard] = WeakKeyDictionary()
_FINDING = threading.Lock()
LOADING = Guard()
"""Held while a model is loaded: transformers sets torch's default dtype and device for the whole process meanwhile."""


def guard_of(thing: Any) -> Guard:
    """The guard of a module, a tokenizer or anything else that threads share."""
    with _FINDING:
        return _GUARDS.setdefault(thing, Guard())


def guards_in(module: Any) -> tuple[Guard, ...]:
    """The guards that the parts of a module have."""
    with _FINDING:
        return tuple(_GUARDS[part] for part in module.modules() if part in _GUARDS)


def _forked() -> None:
    global _FINDING
    _FINDING = threading.Lock()
    for guard in _GUARDS.values():
        guard.renew()
    LOADING.renew()


os.register_at_fork(after_in_child=_forked)


class Guarded(Protocol):
    """What has a guard."""

    @property
    def guard(self) -> Guard:
        """The guard."""


class once(Generic[T]):
    """A cached property that one thread makes, under its object's guard.

    `functools.cached_property` locks all objects of a class at once, or makes the value twice, depending on Python.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        """Takes what makes the value."""
        self.make, self.__doc__, self.name = make, make.__doc__, make.__name__

    @overload
    def __get__(self, instance: None, owner: type) -> once[T]: ...

    @overload
    def __get__(self, instance: Guarded, owner: type) -> T: ...

    def __get__(self, instance: Guarded | None, owner: type) -> once[T] | T:
        """Makes the value; afterwards it stands in the object's `__dict__`, which is looked at first."""
        if instance is None:
            return self
        with instance.guard:
            kept = instance.__dict__
            if self.name not in kept:
                kept[self.name] = self.make(instance)
            found: T = kept[self.name]
            return found


class Block(Shown):
    """Hooks that act for the context (the thread, or the asyncio task) that opened them, and for nobody else.

    Attributes:
        guard: The guard of the model they sit on.
        patterns: Whether attention patterns are among them, so that attention must run eagerly.
        steers: Whether they are those of `steer`, under which a trace may read logits.
    """

    def __init__(self, guard: Guard, *, patterns: bool = False, steers: bool = False) -> None:
        """Makes a block that is not open yet."""
        self.guard, self.patterns, self.steers, self._over = guard, patterns, steers, False

    @property
    def acts(self) -> bool:
        """Whether the block is open in this context, and no hook function is running."""
        return not self._over and self in _OPEN.get()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Opens the block in this context."""
        _OPEN.set((*_OPEN.get(), self))
        try:
            yield
        finally:  # blocks may close in another order than that in which they were opened, and in another context
            self._over = True
            _OPEN.set(tuple(block for block in _OPEN.get() if block is not self))

    @contextmanager
    def calling(self, name: str) -> Iterator[None]:
        """Calls a hook function, which is in the middle of a forward: no hooks act on what it computes itself."""
        with no_hooks(), self.guard.around(Inside(f"the hook function at {name}", hook=True)):
            yield


_OPEN: ContextVar[tuple[Block, ...]] = ContextVar("open blocks of hooks", default=())


def open_blocks(guard: Guard) -> tuple[Block, ...]:
    """The blocks of hooks on a model that are open in this context."""
    return tuple(block for block in _OPEN.get() if block.guard is guard and block.acts)


@contextmanager
def no_hooks() -> Iterator[None]:
    """Lets no block of hooks act in this context for a while."""
    before = _OPEN.get()
    _OPEN.set(())
    try:
        yield
    finally:
        _OPEN.set(before)


def guarded(method: Callable[P, T]) -> Callable[P, T]:
    """A method that one thread at a time runs, under its object's guard."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        owner: Any = args[0]
        with owner.guard:
            return method(*args, **kwargs)

    return run
