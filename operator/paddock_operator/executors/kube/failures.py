"""Which keys' writes go on failing, so that their status can say so. Called by the reconcilers.

A refusal is told at once. Anything else may be a blip, and is told from the second time in a row on.
"""

from __future__ import annotations

from paddock_operator.core.resources import Ref
from paddock_operator.executors.kube.errors import ApiError

TOLD_FROM = 2


class Failures:
    """The failures in a row of each key that has any; bounded by the number of keys, which are forgotten when gone."""

    def __init__(self) -> None:
        self._known: dict[Ref, tuple[int, ApiError]] = {}

    def note(self, key: Ref, refused: ApiError | None, failed: ApiError | None) -> ApiError | None:
        """Hear how the writes of a key went (None, None: well); returns what its status should tell of."""
        if failed is None and refused is None:
            self.forget(key)
        elif failed is None and refused is not None:
            self._known[key] = (TOLD_FROM, refused)
        elif failed is not None and not failed.passing:
            count = self._known[key][0] if key in self._known else 0
            self._known[key] = (count + 1, failed)
        return self.told(key)

    def told(self, key: Ref) -> ApiError | None:
        """What keeps a key from being written for longer than a blip."""
        count, error = self._known.get(key, (0, None))
        return error if count >= TOLD_FROM else None

    def forget(self, key: Ref) -> None:
        """The key is gone, or all was written."""
        self._known.pop(key, None)
