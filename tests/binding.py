"""The same binding of arguments as ``inspect``'s in a fraction of the time.

Jaxtyping binds the arguments of every annotated call by ``inspect``, which takes longer than many of these calls do.
Where nothing but names and defaults is asked for, two dictionaries say the same; all other calls go to ``inspect``, and
so do errors. Importing this installs it, for packages that are imported later.
"""

import functools
import inspect
import types

from jaxtyping import _decorator

VARIADIC = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


class Complete(inspect.BoundArguments):
    """Bound arguments in which the defaults stand already."""

    def apply_defaults(self):
        pass


class Signature(inspect.Signature):
    """A signature that binds most calls by itself."""

    @functools.cached_property
    def quick(self):
        """(names by position, names by keyword, defaults), or None where arguments are collected by a star."""
        parameters = self.parameters.values()
        if VARIADIC & {p.kind for p in parameters}:
            return None
        positions = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        keywords = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
        return positions, keywords, {p.name: p.default for p in parameters if p.default is not p.empty}

    def bind(self, /, *args, **kwargs):
        if self.quick is not None:
            positions, keywords, defaults = self.quick
            if len(args) <= len(positions) and keywords.issuperset(kwargs):
                given = dict(zip(positions, args, strict=False))
                if given.keys().isdisjoint(kwargs):
                    found = {**defaults, **given, **kwargs}
                    if len(found) == len(self.parameters):
                        return Complete(self, found)
        return super().bind(*args, **kwargs)


if getattr(_decorator, "inspect", None) is inspect:  # a version that does not ask it stays as it is
    own = types.SimpleNamespace(**vars(inspect))
    own.signature = Signature.from_callable
    _decorator.inspect = own
