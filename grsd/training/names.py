"""States under other names: what a trainer, a wrapper or a compiled module puts before the names of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

Groups = Sequence[Sequence[str]]


def by_own_names(call: str, name: str, state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """Return the part of ``state`` that is the module's, by the module's own names.

    One prefix before all names is looked through, in the state (a trainer's module around the network, a wrapper for
    several devices, a compiled module) or in the module (which wraps what was saved). A tensor that the module uses
    under several names may stand under one of them alone. A state that does not fit is returned as it is.

    Errors: ``ValueError`` in one line if the network stands there under several prefixes.
    """
    groups = _groups(module)
    plain = _taken(state, groups, "", "")
    if plain is not None:
        return {**state, **plain}
    found = {}
    for prefix, around in [*((p, "") for p in _prefixes(state, groups)), *(("", p) for p in _around(groups))]:
        taken = _taken(state, groups, prefix, around)
        if taken is not None:
            found[prefix or around] = taken
    if len(found) > 1:
        shown = " and ".join(repr(prefix)[:40] for prefix in list(found)[:3])
        raise ValueError(
            f"{call}({name}=...): the module's names stand there under {shown}; pass the part that you mean as a state "
            "dict"
        )
    return next(iter(found.values()), state)


def _groups(module: nn.Module) -> Groups:
    """Return the names of the module's state, those of one and the same tensor together."""
    found: dict[int, list[str]] = {}
    own = module.state_dict(keep_vars=True)
    for name, value in own.items():
        found.setdefault(id(value), []).append(name)
    return list(found.values())


def _taken(state: Mapping[str, Tensor], groups: Groups, prefix: str, around: str) -> dict[str, Tensor] | None:
    """Return the state by own names, if it has ``prefix`` and lacks ``around`` before each of them; else ``None``."""
    found = {}
    for names in groups:
        keys = {name: prefix + name.removeprefix(around) for name in names}
        there = [key for key in keys.values() if key in state]
        if not there:
            return None
        found |= {name: state[key if key in state else there[0]] for name, key in keys.items()}
    return found


def _prefixes(state: Mapping[str, Tensor], groups: Groups) -> list[str]:
    """Return what stands before a name of the first tensor in the state, up to a dot."""
    first = groups[0] if groups else []
    found = (str(key)[: -len(name)] for key in state for name in first if str(key).endswith("." + name))
    return list(dict.fromkeys(found))


def _around(groups: Groups) -> list[str]:
    """Return what stands before all names of the module, up to a dot each."""
    names = [name for group in groups for name in group]
    first = names[0] if names else ""
    cut = [first[: place + 1] for place, letter in enumerate(first) if letter == "."]
    return [prefix for prefix in cut if all(name.startswith(prefix) for name in names)]
