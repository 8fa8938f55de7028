"""The one error of requests to the API server. Raised by `client`; the controller waits, and logs it."""

from __future__ import annotations

REFUSED = (400, 403, 422)
UNTYPED = "failed to create typed patch object"
"""How an API server begins when a field of an applied object is of the wrong type or unknown; it calls that a 500."""
TERMINATED = "being terminated"
UNANSWERED = "the API server could not be reached or did not answer"


class ApiError(Exception):
    """The API server refused a request, or nobody answered.

    `status` is the HTTP status, 0 when nobody answered. `retry_after` is in seconds, None if the server named none.
    `kind`: the kind of the object that was to be written, where `about` has named it.
    """

    kind = ""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason or status}: {message}")
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after

    def about(self, kind: str, name: str, deed: str = "written") -> ApiError:
        """The same error with a message that names the object and what could not be done to it."""
        if self.refusal and deed == "written":
            message = f"the API server refuses {kind} {name}: {self.message}"
        else:
            words = self.message if self.status else f"{UNANSWERED} ({self.message})"
            message = f"{kind} {name} could not be {deed}: {words}"
        named = ApiError(self.status, self.reason, message, self.retry_after)
        named.kind = kind
        return named

    @property
    def gone(self) -> bool:
        """The resource version or the continue token is too old: list again."""
        return self.status == 410

    @property
    def absent(self) -> bool:
        """There is no such object, or no such kind."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Somebody was faster, or the object is another one than was meant."""
        return self.status == 409

    @property
    def forbidden(self) -> bool:
        """The operator lacks the right."""
        return self.status in (401, 403)

    @property
    def refusal(self) -> bool:
        """The object itself is refused: it is invalid, or a quota, a policy or a missing right is against it.

        In a namespace that is being deleted that is no news.
        """
        refused = self.status in REFUSED or (self.status == 500 and self.message.startswith(UNTYPED))
        return refused and TERMINATED not in self.message

    @property
    def passing(self) -> bool:
        """It says nothing of the object: somebody was faster, we were too fast, or the namespace is being deleted."""
        return self.status in (409, 429) or TERMINATED in self.message
