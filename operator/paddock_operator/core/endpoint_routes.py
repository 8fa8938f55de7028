"""Which Models an Endpoint serves, and which public name leads to which.

Called by `plan_endpoint`. Names compare as clients mean them: without case, `x` equals `x:latest`. When two Models
claim one name, the older Model keeps it (then the first in the alphabet), so that every reader agrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paddock_operator.core.endpoint_spec import EndpointModel, EndpointSpec, LabelSelector, SelectorRequirement
from paddock_operator.core.observed import ModelSnapshot


@dataclass(frozen=True, slots=True)
class Route:
    """A Model (None: it does not exist) and the public names that lead to it here."""

    name: str
    names: tuple[str, ...]
    model: ModelSnapshot | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """A public name that `loser` asked for and `winner` has."""

    name: str
    winner: str
    loser: str


def normal(name: str) -> str:
    """The spelling by which public names compare."""
    tagged = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    return tagged.lower()


def routes(spec: EndpointSpec, models: Mapping[str, ModelSnapshot]) -> tuple[tuple[Route, ...], tuple[Conflict, ...]]:
    """Routes in the order of spec (or of names, for a selector), and the names that were refused."""
    wanted = _wanted(spec, models)
    owners: dict[str, str] = {}
    granted: dict[str, tuple[str, ...]] = {}
    conflicts: list[Conflict] = []
    for entry in sorted(wanted, key=lambda entry: _age(entry.name, models)):
        granted[entry.name] = _grant(entry, owners, conflicts)
    found = tuple(Route(entry.name, granted[entry.name], models.get(entry.name)) for entry in wanted)
    return found, tuple(conflicts)


def _wanted(spec: EndpointSpec, models: Mapping[str, ModelSnapshot]) -> list[EndpointModel]:
    if spec.selector is None:
        return list(spec.models)
    chosen = spec.selector
    return [EndpointModel(name) for name in sorted(models) if selects(chosen, models[name].labels)]


def _age(name: str, models: Mapping[str, ModelSnapshot]) -> tuple[bool, str, str]:
    created = models[name].created if name in models else ""
    return (not created, created, name)


def _grant(entry: EndpointModel, owners: dict[str, str], conflicts: list[Conflict]) -> tuple[str, ...]:
    names: list[str] = []
    for name in dict.fromkeys((entry.name, *entry.aliases)):
        owner = owners.setdefault(normal(name), entry.name)
        if owner != entry.name:
            conflicts.append(Conflict(name, owner, entry.name))
        elif normal(name) not in map(normal, names):
            names.append(name)
    return tuple(names)


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches, by the rules of Kubernetes."""
    equal = all(labels.get(key) == value for key, value in selector.match_labels.items())
    return equal and all(_holds(requirement, labels) for requirement in selector.match_expressions)


def _holds(requirement: SelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case _:
            return value is None
