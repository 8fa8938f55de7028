"""Whether a model has to be converted after its pull, and what is to be known of its source until that is done.

Called by `plan_pin`. A conversion is asked for with the digest that the pull brought; status.conversion keeps that
digest, so that neither a restart nor a collector loses it, and status.resolved tells it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddock_operator.core.model_spec import ModelSpec
from paddock_operator.core.observed import ModelObserved, PullObserved, PullResult
from paddock_operator.core.quantization import conversion

KEY_END = ">"
"""Ends the pull's key in a conversion's."""
MIN_BYTES = 2 << 30
"""Memory of a converter at least."""
_FRONT_BYTES = 512 << 20
_BYTES_PER_WEIGHT = 8
"""llama.cpp holds one tensor at a time, as 32-bit numbers and as room of that size for what it becomes."""


@dataclass(frozen=True, slots=True)
class Making:
    """A conversion to `type` of the manifest `digest`, which the pull of `pull_key` brought.

    `name`, `revision` and `validator` are the pull's; `memory` is what a converter needs in bytes. `recalled`: all that
    is known of the pull stands in the status.
    """

    digest: str
    type: str
    pull_key: str
    name: str
    revision: str = ""
    validator: str = ""
    memory: int = MIN_BYTES
    recalled: bool = False

    @property
    def key(self) -> str:
        """Equal for conversions that need to be done once."""
        return f"{self.pull_key}{KEY_END}{self.type}:{self.digest.removeprefix('sha256:')[:12]}"

    @property
    def request(self) -> Mapping[str, Any]:
        """What the converter is asked (contracts)."""
        return {"digest": self.digest, "type": self.type}

    @property
    def section(self) -> Mapping[str, Any]:
        """status.conversion."""
        found = {
            "pullKey": self.pull_key,
            "sourceDigest": self.digest,
            "quantization": self.type,
            "name": self.name,
            "revision": self.revision,
            "validator": self.validator,
            "memory": self.memory,
        }
        return {name: value for name, value in found.items() if value}


def decide(o: ModelObserved, pull: PullObserved, held: Mapping[str, Any], key: str) -> Making | None:
    """The conversion that follows the pull of `key`, None if none does or the pull has to be waited for.

    Raises ImpossibleConversionError.
    """
    wanted = o.model.spec.quantization
    if not wanted:
        return None
    if pull.state == "succeeded" and pull.result is not None:
        return _after(o.model.spec, wanted, pull.result, key)
    return recalled(o.status, held, key) if pull.state == "none" else None


def _after(spec: ModelSpec, wanted: str, result: PullResult, key: str) -> Making | None:
    hub = spec.source.hugging_face
    chosen = hub is not None and hub.file is None
    to = conversion(wanted, str(result.details.get("quantization") or ""), chosen=chosen)
    needed = memory_needed(result.details, result.size)
    return Making(result.digest, to, key, result.name, result.revision, result.validator, needed) if to else None


def recalled(status: Mapping[str, Any], held: Mapping[str, Any], key: str) -> Making | None:
    """The conversion of the pull of `key` as far as the status knows it: one that is under way, or that of a pin."""
    kept = status.get("conversion") or {}
    if kept.get("pullKey") != key:
        kept = held if held.get("pullKey") == key else {}
    if not (kept.get("sourceDigest") and kept.get("quantization")):
        return None
    # What was converted has about a quarter of the bytes that it was made of.
    size = 4 * int(kept.get("size") or 0)
    return Making(
        digest=str(kept["sourceDigest"]),
        type=str(kept["quantization"]),
        pull_key=key,
        name=str(kept.get("name") or ""),
        revision=str(kept.get("revision") or ""),
        validator=str(kept.get("validator") or ""),
        memory=int(kept.get("memory") or memory_needed(status.get("details") or {}, size)),
        recalled=True,
    )


def memory_needed(details: Mapping[str, Any], size: int) -> int:
    """Bytes that a converter needs for a model of 16-bit weights with `size` bytes, as far as its header tells.

    The largest tensor counts: the vocabulary's, or (with experts) one of three of a layer.
    """
    vocabulary = int(details.get("vocabSize") or 0) * int(details.get("embeddingLength") or 0)
    of_layer = size // (4 * max(int(details.get("blockCount") or 1), 1))
    return max(MIN_BYTES, _FRONT_BYTES + _BYTES_PER_WEIGHT * max(vocabulary, of_layer))
