"""Text that cannot be encoded is refused with its place, or replaced."""

import pytest

from layerroute.errors import RequestError
from layerroute.text import replace_unencodable, require_encodable

WHOLE = ["", "plain", "Grüße, 世界", "\U0001f600", "\ud7ff\ue000", "\x00\x1b"]
BROKEN = ["\ud800", "a\udfffb", "\ude00\ud83d", b"caf\xe9".decode("utf-8", "surrogateescape")]


@pytest.mark.parametrize("text", WHOLE)
def test_text_that_has_an_encoding_stays_as_it_is(text: str):
    assert require_encodable(text, "the message") == text == replace_unencodable(text)


@pytest.mark.parametrize("text", BROKEN)
def test_half_a_pair_is_refused_by_name_and_place_or_replaced(text: str):
    with pytest.raises(RequestError, match=r"the message holds '\\ud.* at character \d"):
        require_encodable(text, "the message")
    replaced = replace_unencodable(text)
    assert len(replaced) == len(text)
    assert "\ufffd" in replaced.encode().decode()
