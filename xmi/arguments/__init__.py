"""Arguments of public calls are what their annotations say, or are refused by name before anything runs.

`check_calls(__name__)` at the end of a package makes it so for every function and class in its `__all__`: what is
written once, as the type of a parameter, is what is checked. Only calls from outside of xmi are checked, so that the
rooms pay nothing for one another; annotations are read when such a call comes, so that an import pays nothing either.

No library does this: pydantic's `validate_call` copies what it is given and cannot tell who calls; beartype takes no
list for a tuple and no number of numpy's for a number.
"""

from xmi.arguments.bounds import LEFT
from xmi.arguments.callers import forwarding, outside
from xmi.arguments.calls import check_calls

__all__ = ["LEFT", "check_calls", "forwarding", "outside"]
