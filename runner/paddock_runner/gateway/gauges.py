"""Gauges that read the gateway's state when somebody asks for metrics. Set up by `gateway.app`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from paddock_runner.core.gateway_config import Model
from paddock_runner.gateway.backends import Backends
from paddock_runner.gateway.cluster.link import Link
from paddock_runner.gateway.configuration import SOURCES, Configuration, Source
from paddock_runner.gateway.directory import Directory
from paddock_runner.gateway.metrics import Metrics

_STATES = ("healthy", "ejected")


class BackendGauges:
    """Healthy and ejected backends of each configured Model; the series of others are dropped."""

    def __init__(self, metrics: Metrics, directory: Directory, backends: Backends) -> None:
        self._metrics = metrics
        self._directory = directory
        self._backends = backends
        self._names: set[str] = set()

    def follow(self, models: Iterable[Model]) -> None:
        """These are the Models of the configuration in force."""
        known = {model.name: model for model in models}
        gauge = self._metrics.backends
        for name in self._names - known.keys():
            for state in _STATES:
                self._metrics.forget(gauge, name, state)
        for name, model in known.items():
            self._metrics.follow(gauge, self._counter(model, ejected=False), name, "healthy")
            self._metrics.follow(gauge, self._counter(model, ejected=True), name, "ejected")
        self._names = set(known)

    def _counter(self, model: Model, *, ejected: bool) -> Callable[[], float]:
        def count() -> float:
            urls = self._directory.urls(model)
            out = self._backends.ejected(urls)
            return out if ejected else len(urls) - out

        return count


def follow_source(metrics: Metrics, configuration: Configuration) -> None:
    """Tell where the configuration in force came from."""

    def reader(source: Source) -> Callable[[], float]:
        return lambda: configuration.source == source

    for source in SOURCES:
        metrics.follow(metrics.config_source, reader(source), source)


def follow_watches(metrics: Metrics, link: Link) -> None:
    """Tell how the watches of the API server are."""
    for resource, health in link.health.items():
        metrics.follow(metrics.watch_connected, functools.partial(getattr, health, "connected"), resource)
        metrics.follow(metrics.watch_last_event, functools.partial(getattr, health, "last_event"), resource)
