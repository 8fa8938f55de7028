"""Vectors as clients get them: finite, cut to the wanted dimensions, of length 1. Called by `engine.embed_loop`."""

from __future__ import annotations

import numpy as np

from paddock_runner.core.generation import InvalidRequestError
from paddock_runner.engine.embed_backend import Vector

NOT_FINITE = "embedding contains NaN or Inf values"


def finished_vector(vector: Vector, dimensions: int, *, score: bool) -> bytes:
    """Little-endian float32 of `vector`, or of the first number alone for a score. `dimensions` 0 keeps all of it.

    Raises InvalidRequestError when it is not finite, as Ollama blames the text: the same one would fail again.
    """
    if not np.isfinite(vector).all():
        raise InvalidRequestError("input", NOT_FINITE)
    if score:
        return vector[:1].astype("<f4").tobytes()
    cut = vector[: dimensions or None].astype(np.float64)
    length = float(np.linalg.norm(cut))
    return (cut / length if length else cut).astype("<f4").tobytes()
