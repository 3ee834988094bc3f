"""Bytes -> text: charset labels as mail carries them, encoded words, transfer encodings.

Python's codec registry is never asked for a label from a mail: it knows codecs that are no charsets (rot13, utf-7,
unicode_escape). What had to be guessed is marked, since no approval may rest on a guess.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

_CODECS = {
    **dict.fromkeys(("utf-8", "utf8", "utf8mb4", "utf-8-mac", "unicode-1-1-utf-8", "cp65001"), "utf-8"),
    # Clients write "us-ascii" over any 8-bit text; UTF-8 is checked strictly, and contains ASCII.
    **dict.fromkeys(("us-ascii", "ascii", "ansi-x3.4-1968", "iso646-us", "646", "7bit", ""), "utf-8"),
    # RFC 1428 section 3 and Pine: the author's program did not know; what is ASCII in it is ASCII.
    **dict.fromkeys(("unknown-8bit", "x-unknown", "unknown"), "utf-8"),
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "l1", "iso-8859-1-windows", "8859-1"), "cp1252"),
    **dict.fromkeys(("ansi", "windows-ansi", "x-ansi", "iso-ir-100", "cp819", "ibm819"), "cp1252"),
    **dict.fromkeys(("iso-8859-9", "iso8859-9", "latin5", "windows-1254", "cp1254", "x-cp1254"), "cp1254"),
    **dict.fromkeys(("iso-8859-8-i", "iso-8859-8-e", "iso-8859-8", "iso8859-8", "logical"), "iso8859-8"),
    **dict.fromkeys(("gb2312", "gbk", "gb18030", "gb-2312", "x-gbk", "cp936", "iso-gb2312", "euc-cn"), "gb18030"),
    **dict.fromkeys(("gb-2312-80", "chinese", "windows-936", "ms936", "x-gb2312"), "gb18030"),
    **dict.fromkeys(("big5", "big-5", "cp950", "x-x-big5", "cn-big5", "ms950", "windows-950"), "cp950"),
    **dict.fromkeys(("big5-hkscs", "big5hkscs"), "big5hkscs"),
    **dict.fromkeys(("shift-jis", "sjis", "x-sjis", "shiftjis", "ms-kanji", "cp932", "windows-31j", "ms932"), "cp932"),
    **dict.fromkeys(("euc-jp", "eucjp", "x-euc-jp"), "euc_jp"),
    **dict.fromkeys(("iso-2022-jp", "iso-2022-jp-ms", "cp50220", "cp50221", "cp50222", "jis"), "iso2022_jp_ext"),
    **dict.fromkeys(("iso-2022-jp-1", "iso-2022-jp-2", "iso-2022-jp-3", "iso-2022-jp-2004"), "iso2022_jp_2"),
    "iso-2022-kr": "iso2022_kr",
    **dict.fromkeys(("euc-kr", "ks-c-5601-1987", "ks-c-5601", "ksc5601", "cp949", "uhc", "windows-949"), "cp949"),
    **dict.fromkeys(("tis-620", "iso-8859-11", "windows-874", "cp874"), "cp874"),
    **dict.fromkeys(("koi8-r", "koi8r", "cskoi8r"), "koi8_r"),
    **dict.fromkeys(("koi8-u", "koi8u"), "koi8_u"),
    **dict.fromkeys(("macintosh", "mac", "x-mac-roman", "macroman", "x-macroman"), "mac_roman"),
    **dict.fromkeys(("x-mac-cyrillic", "mac-cyrillic", "x-mac-ukrainian"), "mac_cyrillic"),
    "x-mac-ce": "mac_latin2",
    "x-mac-greek": "mac_greek",
    "x-mac-turkish": "mac_turkish",
    **{f"iso-8859-{n}": f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 10, 13, 14, 15, 16)},
    **{f"iso8859-{n}": f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 10, 13, 14, 15, 16)},
    **{f"windows-{n}": f"cp{n}" for n in range(1250, 1259)},
    **{f"cp{n}": f"cp{n}" for n in range(1250, 1259)},
    **{f"x-cp{n}": f"cp{n}" for n in range(1250, 1259)},
    **{f"{prefix}{n}": f"cp{n}" for prefix in ("cp", "cp-", "ibm") for n in (437, 850, 852, 855, 857, 858, 862, 866)},
    **dict.fromkeys(("latin2", "l2"), "iso8859-2"),
    **dict.fromkeys(("latin9", "latin-9", "l9"), "iso8859-15"),
    **{label: label for label in ("utf-16", "utf-16le", "utf-16be", "utf-32", "utf-32le", "utf-32be")},
}

_ENCODED_WORD = re.compile(r"=\?([^?\s]{1,75})\?([bBqQ])\?([^?]{0,2000})\?=")  # RFC 2047 section 2, and spaces in Q
_BETWEEN_WORDS = re.compile(r"(\?=)[ \t\r\n]+(?==\?[^?\s]{1,75}\?[bBqQ]\?)")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]*+={0,2}+\s*+\Z")
_BASE64_LINE = re.compile(rb"[A-Za-z0-9+/]*={0,2}[ \t\r]*\Z")


def decode_text(data: bytes, label: str) -> tuple[str, bool]:
    """The text, and whether that is certain: a label that is known, and bytes that it allows."""
    label = label.strip("\"' \t").lower().replace("_", "-").removeprefix("charset=")
    codec = _CODECS.get(label)
    if codec is None:
        return _guess(data), False
    if data.startswith(b"\xef\xbb\xbf"):
        codec = "utf-8"
    try:
        return data.decode(codec), True
    except UnicodeDecodeError:
        pass
    if codec == "cp1252" and label != "windows-1252":
        return data.decode("latin-1"), True  # the five bytes that windows-1252 leaves open
    return _guess(data) if codec == "utf-8" else data.decode(codec, "replace"), False


def _guess(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def decode_words(text: str) -> str:
    """An unfolded header field's content with its encoded words decoded (RFC 2047)."""
    if "=?" not in text:
        return text
    return _ENCODED_WORD.sub(_word, _BETWEEN_WORDS.sub(r"\1", text))


def _word(match: re.Match[str]) -> str:
    label, encoding, content = match.groups()
    raw = content.encode("ascii", "replace")
    if encoding in "bB":
        data, _ = decode_base64(raw)
    else:
        data = binascii.a2b_qp(raw, header=True)
    return decode_text(data, label.partition("*")[0])[0]  # RFC 2231 section 5: the language behind "*"


def decode_transfer(data: bytes, encoding: str) -> tuple[bytes, bool]:
    """A part's body without its Content-Transfer-Encoding (RFC 2045 section 6), and whether that is certain."""
    match encoding.strip().lower():
        case "" | "7bit" | "8bit" | "binary" | "7-bit" | "8-bit":
            return data, True
        case "quoted-printable":
            return binascii.a2b_qp(data), True
        case "base64":
            return decode_base64(data)
    return data, False


def decode_base64(data: bytes) -> tuple[bytes, bool]:
    """Decode up to the padding or the first line that is no base64, such as a footer that a gateway added below."""
    certain = bool(_BASE64.match(data))
    if not certain:
        data = b"".join(_leading(data.strip().split(b"\n")))
    symbols = b"".join(data.split()).rstrip(b"=")
    if len(symbols) % 4 == 1:  # RFC 4648 section 4: no octets end so
        symbols, certain = symbols[:-1], False
    return binascii.a2b_base64(symbols + b"=" * (-len(symbols) % 4)), certain


def _leading(lines: list[bytes]) -> Iterator[bytes]:
    for line in lines:
        if not _BASE64_LINE.match(line):
            return
        yield line
        if b"=" in line:
            return
