"""Turn a request to run notebooks into runs; names and types are checked before anything runs or is imported."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from grsd.support.folders import one_line, read
from grsd.support.parameters import DEVICES, MARK, sensible

PROFILES = ("test", "default", "full")
BOOLEANS = {"true": True, "false": False}
NOTEBOOKS = "[0-9][0-9]_*.ipynb"


class Refused(ValueError):
    """Raised for a wrong request, before anything runs."""


@dataclass
class NotebookRun:
    """One notebook to run: its path, the values of its parameters, and the outcome."""

    notebook: Path
    parameters: dict[str, object]
    output: Path | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    failure: str | None = None
    figures: list[Path] = field(default_factory=list)


def plan(
    root: Path,
    *,
    only: Sequence[str] = (),
    profile: str = "default",
    settings: Sequence[str] = (),
    device: str | None = None,
) -> list[NotebookRun]:
    """Return the notebook runs of a request; raise ``Refused`` in one line for a wrong name or type of a parameter.

    ``only``: names or numbers of notebooks. ``settings``: ``name=value``; a parameter goes to the chosen notebooks that
    have it, and at least one must have it. ``device`` sets the parameter of that name.
    """
    folder = root / "notebooks"
    notebooks = sorted(folder.glob(NOTEBOOKS))
    only = [name.zfill(2) if name.isdecimal() else name for name in only]
    if device is not None:
        _check_device("--device", device)
    chosen = [path for path in notebooks if not only or any(path.stem in (n, f"{n}{path.stem[2:]}") for n in only)]
    for name in only:
        if not any(path.stem in (name, f"{name}{path.stem[2:]}") for path in notebooks):
            raise Refused(f"no notebook {_said(name)}; there are {', '.join(path.stem for path in notebooks)}")
    if not chosen:
        raise Refused(f"no notebooks in {one_line(folder)}")
    if profile not in PROFILES:
        raise Refused(f"no profile {_said(profile)}; there are {', '.join(PROFILES)}")
    profiles = _profiles(folder / "profiles.yaml", profile)
    requested: dict[str, str] = {}
    for name, value in [*map(_split, settings), *([] if device is None else [("device", device)])]:
        if requested.setdefault(name, value) != value:
            raise Refused(f"parameter {name}: expected one value, got {_said(requested[name])} and {_said(value)}")
    if "device" in requested:
        _check_device("parameter device", requested["device"])

    runs, taken = [], set()
    known: set[str] = set()
    for path in chosen:
        declared = declared_in(path)
        known |= declared.keys()
        values = {}
        for name, value in profiles.get(path.stem, {}).items():
            if name not in declared:
                raise Refused(f"profiles.yaml, profile {profile}: {path.stem} has no parameter {_said(name)}")
            values[name] = _typed(str(value).lower() if isinstance(value, bool) else str(value), declared[name], name)
        for name in requested.keys() & declared.keys():
            values[name] = _typed(requested[name], declared[name], name)
            taken.add(name)
        if MARK in declared:
            _refuse_nonsense(values, declared)
        runs.append(NotebookRun(path, values))
    for name in sorted(requested.keys() - taken):
        where = ", ".join(path.stem for path in chosen)
        raise Refused(f"no parameter {_said(name)} in {where}; there are {', '.join(sorted(known))}")
    return runs


def _refuse_nonsense(values: Mapping[str, object], declared: Mapping[str, str]) -> None:
    """Refuse what the notebook itself would refuse; whether there is CUDA is asked later, since that imports torch."""
    for name, value in values.items():
        if name == MARK:
            continue
        try:
            sensible(name, declared[name], value)
        except (ValueError, TypeError) as error:
            raise Refused(str(error).replace(f"parameters({name}=...)", f"parameter {name}")) from None


def declared_in(path: Path) -> dict[str, str]:
    """Return names and annotated types of a notebook's parameters: lines ``name: type = value`` in the tagged cell."""
    return {line.target.id: ast.unparse(line.annotation) for line in _declarations(path)}


def defaults_in(path: Path) -> dict[str, object]:
    """Return the values that a notebook gives its parameters. Errors: ``Refused`` if one is no plain value."""
    try:
        return {line.target.id: ast.literal_eval(line.value) for line in _declarations(path)}
    except ValueError:
        raise Refused(f"{path.name}: expected plain values of its parameters") from None


def _declarations(path: Path) -> list[ast.AnnAssign]:
    try:
        cells = json.loads(read(path))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
        source = "".join(tagged[0]["source"]) if tagged else ""
        lines = ast.parse(source).body
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SyntaxError) as error:
        raise Refused(f"{path.name} cannot be read as a notebook: {one_line(_reason(error))}") from None
    return [line for line in lines if _is_parameter(line)]


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _is_parameter(line: ast.stmt) -> bool:
    return isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None


def _profiles(path: Path, profile: str) -> Mapping[str, Mapping[str, object]]:
    """Return the values of one profile by notebook. Errors: ``Refused`` if the file does not hold profiles."""
    try:
        content = yaml.safe_load(read(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise Refused(f"{path.name} cannot be read as YAML: {one_line(' '.join(str(error).split()))}") from None
    values = content.get(profile, {}) if isinstance(content, dict) else None
    values = {} if isinstance(content, dict) and values is None else values
    if not isinstance(values, dict) or not all(isinstance(v, dict | None) for v in values.values()):
        raise Refused(f"{path.name}: expected profiles such as {profile}: {{NOTEBOOK: {{parameter: value}}}}")
    return {name: own or {} for name, own in values.items()}


def _said(name: object) -> str:
    return one_line(repr(name), 80)


def _check_device(where: str, device: str) -> None:
    if not re.fullmatch(DEVICES, device):
        raise Refused(f"{where}: expected auto, cpu or cuda, got {_said(device)}")


def _split(setting: str) -> tuple[str, str]:
    name, sign, value = setting.partition("=")
    if not sign or not name.isidentifier():
        raise Refused(f"--set {one_line(setting, 80)}: expected name=value")
    return name, value


def _typed(text: str, kind: str, name: str) -> object:
    try:
        if kind == "bool":
            return BOOLEANS[text.strip().lower()]
        if kind in {"int", "float"}:
            return {"int": int, "float": float}[kind](text)
        if kind == "str":
            return text
        value = yaml.safe_load(text)
        if kind.startswith(("list", "tuple")) and isinstance(value, list):
            return value
    except (KeyError, ValueError, RecursionError, yaml.YAMLError):
        pass
    raise Refused(f"parameter {name}={one_line(text, 80)}: expected {kind}")
