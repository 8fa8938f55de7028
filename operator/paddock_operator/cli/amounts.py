"""Sizes and durations as people write them in options. Called by the verbs that take one."""

from __future__ import annotations

import re

from paddock_operator.cli.errors import BAD_USAGE, CliError

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?(?:([KMGT])(i?))?B?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_BYTES = (1 << 63) - 1
MAX_SECONDS = 10**9 - 1


def parse_size(option: str, text: str) -> int:
    """Bytes of `20GB` (decimal), `8GiB` (binary) or a plain number. Raises CliError that names the option."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise CliError(f"{option}: {text!r} is no size such as 20GB, 8GiB or 5000000", BAD_USAGE)
    power = " KMGT".index((found[2] or " ").upper())
    count = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if count > MAX_BYTES:
        raise CliError(f"{option}: {text} is more than 2^63-1 bytes", BAD_USAGE)
    return count


def parse_duration(option: str, text: str) -> int:
    """Seconds of `90`, `90s`, `30m`, `1h` or `2d`. Raises CliError that names the option."""
    found = _DURATION.fullmatch(text.strip())
    seconds = int(found[1]) * _SECONDS[found[2]] if found else MAX_SECONDS + 1
    if seconds > MAX_SECONDS:
        raise CliError(f"{option}: {text!r} is no duration such as 90s, 30m, 1h or 2d", BAD_USAGE)
    return seconds
