"""The one error of requests to the API server. Raised by `client`; the controller waits, and logs it."""

from __future__ import annotations


class ApiError(Exception):
    """The API server refused a request, or nobody answered.

    `status` is the HTTP status, 0 when nobody answered. `retry_after` is in seconds, None if the server named none.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason or status}: {message}")
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after

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
