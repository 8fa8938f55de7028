"""What a puller of a Model really asks: in cache mode Node a variant's bytes are not where its base's are.

Called by `model`, `node_pulls` and `pull_pod`.
"""

from __future__ import annotations

from paddock_operator.core.bases import Origin, find_base
from paddock_operator.core.cluster.observed import ModelSeen
from paddock_operator.core.model_spec import Source
from paddock_operator.core.resources import Model


def origin_of(seen: ModelSeen) -> Origin | None:
    """The source that has the bytes of a variant, None for other Models and where all nodes share a cache."""
    base = find_base(seen.model, seen.others) if seen.settings.cache.mode == "Node" else None
    return base.origin if base else None


def asked_source(seen: ModelSeen, model: Model) -> Source:
    """The source whose Secret and claim a puller needs."""
    origin = origin_of(seen)
    return origin.source if origin else model.spec.source
