"""Bytes of tokens to text, never half a character. Called by `engine.loop`, one decoder for each sequence.

A token may end inside a UTF-8 character; its bytes wait for the next token. Bytes that can never become a character
show as U+FFFD; an unfinished character at the very end is dropped, because no reader can use it.
"""

from __future__ import annotations

import codecs


class TextDecoder:
    """Feed the bytes of each token; get the text that is complete."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """Whole characters that `data` completes, possibly none."""
        return self._decoder.decode(data)
