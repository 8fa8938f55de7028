"""What a source can fail with beyond the store's own errors. Raised by `sources`, reported by `commands.pull`."""

from __future__ import annotations

from paddock_runner.store.errors import StoreError


class SourceUnsupportedError(StoreError):
    """The kind of source, or a value of it, is not supported."""

    reason = "SourceUnsupported"


class ForbiddenAddressError(StoreError):
    """The host resolves to an address that a puller must not reach."""

    reason = "ForbiddenAddress"


class InsecureSourceError(StoreError):
    """Plain HTTP, or a redirect to it, for a host that is not listed as allowed."""

    reason = "InsecureSource"


class UnauthorizedError(StoreError):
    """The host refuses, or the Secret with its credentials is not usable; `retryable` if the latter may be cured."""

    reason = "Unauthorized"

    def __init__(self, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class NetworkError(StoreError):
    """The transfer failed; `retryable` unless the server said that trying again is useless.

    `retry_after`: seconds that the server asks to wait, 0 if it does not say.
    """

    reason = "NetworkError"

    def __init__(self, message: str, retryable: bool = True, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after = retry_after


class OfflineError(StoreError):
    """The network must not be used, and the cache does not hold what is asked for."""

    reason = "Offline"
