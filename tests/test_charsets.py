"""Labels and bytes in, text out, and whether anything had to be guessed."""

from __future__ import annotations

import base64
import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.approvals.charsets import decode_base64, decode_text, decode_transfer, decode_words


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("utf-8", "utf-8", "Grüße"),
        ("UTF8", "utf-8", "Grüße"),
        ('"utf-8"', "utf-8", "Grüße"),
        ("charset=us-ascii", "ascii", "x"),
        ("us-ascii", "utf-8", "Grüße"),
        ("", "ascii", "x"),
        ("iso-8859-1", "cp1252", "Grüße – „x“"),
        ("ISO_8859-1", "latin-1", "Grüße"),
        ("ansi", "cp1252", "Grüße"),
        ("iso-8859-8-i", "iso8859-8", "מאושר"),
        ("gb2312", "gb18030", "批准䶮"),
        ("x-sjis", "cp932", "承認①"),
        ("iso-2022-jp", "iso2022_jp", "承認します"),
        ("ks_c_5601-1987", "cp949", "승인"),
        ("cp-850", "cp850", "Grüße"),
        ("x-mac-cyrillic", "mac_cyrillic", "одобрено"),
        ("koi8-r", "koi8_r", "одобрено"),
    ],
)
def test_labels_as_mail_carries_them_are_understood(label: str, codec: str, text: str) -> None:
    """Aliases, vendor names, quotation marks, the superset that clients mean."""
    assert decode_text(text.encode(codec), label) == (text, True)


@pytest.mark.parametrize(
    "label", ["utf-7", "rot13", "unicode_escape", "idna", "punycode", "hex", "zlib", "undefined", "x-bogus", "utf-9"]
)
def test_what_is_no_charset_is_a_guess(label: str) -> None:
    """Python's registry would decode some of these to something else."""
    assert decode_text(b"Approved", label) == ("Approved", False)
    assert decode_text(b"Nccebirq", label) == ("Nccebirq", False)


def test_bytes_that_the_label_does_not_allow_are_a_guess() -> None:
    """Text comes out all the same, for a person to read."""
    for label in ("utf-8", "", "us-ascii", "x-unknown"):
        assert decode_text(b"Gr\xfc\xdfe", label) == ("Grüße", False), label
    text, certain = decode_text(b"\x85\xff\x81", "shift_jis")
    assert text and not certain


def test_encoded_words_are_decoded_and_others_left_alone() -> None:
    """RFC 2047; a language tag (RFC 2231); what is broken stays as it is."""
    assert decode_words("=?utf-8?q?Gr=C3=BC=C3=9Fe?=") == "Grüße"
    assert decode_words("a =?utf-8*de?b?w7w=?=  =?utf-8?q?_x?= b") == "a ü x b"
    for text in ("plain", "=?utf-8?x?a?=", "=?utf-8?q?a", "a =? b ?="):
        assert decode_words(text) == text
    assert decode_words("=?x-bogus?q?Approved?=") == "Approved"


def test_transfer_encodings_are_undone() -> None:
    """RFC 2045 section 6; an unknown one is left, and said to be a guess."""
    assert decode_transfer(b"=41pprov=\r\ned", "Quoted-Printable ") == (b"Approved", True)
    assert decode_transfer(b"QXBw\r\ncm92ZWQ=\r\n", "BASE64") == (b"Approved", True)
    assert decode_transfer(b"Approved", "8bit") == (b"Approved", True)
    assert decode_transfer(b"Approved", "x-uuencode") == (b"Approved", False)


def test_base64_ends_where_something_else_begins() -> None:
    """A footer that a list added below is not decoded to noise."""
    assert decode_base64(b"QXBwcm92ZWQ=\n____\nlist footer\n") == (b"Approved", False)
    assert decode_base64(b"QXBwcm92\n-- footer --\nZWQ=") == (b"Approv", False)
    assert decode_base64(b"QXBwcm92ZWQ")[0] == b"Approved"
    assert decode_base64(b"Q") == (b"", False)


@given(st.binary(max_size=200))
def test_base64_gives_back_what_was_encoded_and_never_raises(data: bytes) -> None:
    """Wrapped or not; and any bytes at all can be given to it."""
    assert decode_base64(base64.encodebytes(data)) == (data, True)
    assert decode_base64(binascii.b2a_base64(data)) == (data, True)
    assert isinstance(decode_base64(data)[0], bytes)


@given(st.binary(max_size=100), st.text(max_size=20))
def test_any_bytes_under_any_label_give_text(data: bytes, label: str) -> None:
    """Total: the mail decides neither over exceptions nor over codecs."""
    assert isinstance(decode_text(data, label)[0], str)
    assert isinstance(decode_words(f"=?{label}?q?{data!r}?="), str)
