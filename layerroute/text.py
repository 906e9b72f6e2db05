"""Text from outside: what cannot be encoded as UTF-8 (half of a surrogate pair) is refused or replaced at every entry.

Such text comes from JSON escapes, from bytes in argv or a file name that are no UTF-8, and from `surrogateescape`. It
would end in a `TypeError` inside the tokenizer, or in a file that cannot be read again.
"""

import re

from layerroute.errors import RequestError

_SURROGATE = re.compile("[\ud800-\udfff]")


def require_encodable(text: str, what: str) -> str:
    """Return `text`, if it can be encoded; `what` names it in the message.

    Raises:
        RequestError: it holds half of a surrogate pair.
    """
    found = _SURROGATE.search(text)
    if found:
        byte = ord(found[0]) - 0xDC00  # what `surrogateescape` made of a byte
        why = f"the byte 0x{byte:02X} that is no UTF-8" if 0x80 <= byte <= 0xFF else "half of a surrogate pair"
        raise RequestError(
            f"{what} holds {found[0]!r} at character {found.start()}, {why}: no encoding has it: "
            "decode its bytes with errors='replace', or leave it out"
        )
    return text


def is_encodable(text: str) -> bool:
    """Whether `text` holds no half of a surrogate pair."""
    return _SURROGATE.search(text) is None


def replace_unencodable(text: str) -> str:
    """Return `text` with U+FFFD for what cannot be encoded: for output of tools, which nobody can mend."""
    return _SURROGATE.sub("\ufffd", text)
