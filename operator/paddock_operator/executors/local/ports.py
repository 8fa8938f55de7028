"""Which Endpoint listens where: the first one on `--listen`, the others on their `spec.service.port`.

Called by `controller`. "First" is the order of the manifests, and it sticks: whoever has `--listen` keeps it until its
Endpoint is removed, so that a file that happens to sort earlier cannot take the address away from running clients.
"""

from __future__ import annotations

from collections.abc import Mapping

from paddock_operator.core.resources import Endpoint, Ref
from paddock_operator.executors.local.listen import Address, Listener, ListenError, bind

NO_PORT = (
    "only the first Endpoint is served at --listen; give this one a port of its own in spec.service.port, "
    "for example 11435"
)


class Ports:
    """Bound sockets by Endpoint. They stay bound while their Endpoint wants that address."""

    def __init__(self, listen: Address) -> None:
        self._listen = listen
        self._first: Ref | None = None
        self._wanted: dict[Ref, Address] = {}
        self._bound: dict[Address, Listener] = {}

    def claim(self, endpoints: Mapping[Ref, Endpoint]) -> None:
        """Say which Endpoints exist, in order; sockets that nobody wants any more are closed."""
        if self._first not in endpoints:
            self._first = next(iter(endpoints), None)
        self._wanted = {ref: wanted for ref, item in endpoints.items() if (wanted := self._address(ref, item))}
        for address in set(self._bound) - set(self._wanted.values()):
            self._bound.pop(address).close()

    def _address(self, ref: Ref, endpoint: Endpoint) -> Address | None:
        if ref == self._first:
            return self._listen
        port = endpoint.spec.service.port if endpoint.spec.service else None
        return Address(self._listen.host, port) if port else None

    def listener(self, ref: Ref) -> Listener:
        """The socket of an Endpoint, bound now if it is not yet. Raises ListenError when there is none to be had."""
        address = self._wanted.get(ref)
        if address is None:
            raise ListenError(NO_PORT)
        rival = next(other for other, wanted in self._wanted.items() if wanted == address)
        if rival != ref:
            raise ListenError(f"{address} is the address of {rival}; choose another spec.service.port")
        if address not in self._bound:
            self._bound[address] = bind(address)
        return self._bound[address]

    def close(self) -> None:
        """Refuse new connections everywhere."""
        for listener in self._bound.values():
            listener.close()
        self._bound.clear()
