"""The exceptions of xmi.

One base class, so that `except xmi.XmiError` catches everything xmi refuses on purpose, and one subclass for each
kind of thing a user can get wrong. Every message names the thing, what was found and what to do. docs/errors.md has an
example of each.

The hierarchy (in brackets what else a class is, so that `except ValueError` works as elsewhere):

    XmiError
    - ArgumentError (TypeError, ValueError)
    - StorageError
    - ModelError
    - TaskError
    - PromptError
      - SlotError
    - VectorError (ValueError)
    - MeasureError (ValueError)
    - NotMeasuredError (KeyError)
    - HookError
    - RunError
    - RemoteError
      - JobError
    XmiWarning (UserWarning)
"""


class XmiError(Exception):
    """Base of every error that xmi raises on purpose."""


class ArgumentError(XmiError, TypeError, ValueError):
    """An argument of another type than the function takes, or outside of its bounds; nothing has run."""


class StorageError(XmiError):
    """A file that cannot be written, or that does not hold what it should."""


class ModelError(XmiError):
    """A checkpoint that cannot be loaded, or whose language backbone cannot be found or trusted."""


class TaskError(XmiError):
    """A task or data file that does not exist, cannot be read, or holds faulty items."""


class PromptError(XmiError):
    """A prompt that cannot be built or encoded: too few items, too many images, truncated tokens."""


class SlotError(PromptError):
    """A slot that does not exist in a prompt, or whose token is ambiguous."""


class VectorError(XmiError, ValueError):
    """A task vector that does not fit: another width, layer count, model or template, or non-finite values."""


class MeasureError(XmiError, ValueError):
    """Numbers that cannot be measured: too few, not finite, of other shapes, or not of the same items."""


class NotMeasuredError(XmiError, KeyError):
    """A source, layer, task, score or winner that a result does not hold."""

    def __str__(self) -> str:
        """Returns the message; a `KeyError` would quote it."""
        return str(self.args[0])


class HookError(XmiError):
    """A hook that the model does not have, that returns something of another shape, or that reads NaN."""


class RunError(XmiError):
    """A run folder that cannot be written, read, or continued."""


class RemoteError(XmiError):
    """A remote host that cannot be reached or refuses, or a job there that failed, was lost, or may be paid twice."""


class JobError(RemoteError):
    """A job that a remote host ran, and that failed there."""


class XmiWarning(UserWarning):
    """Something that a number may not be what it seems to be: xmi goes on, and says what it saw."""
