"""The heaviest mails that we know how to make, and how one is judged: for replies.py, and for tests/test_heavy.py.

Each is as large as what is looked at of a mail, and was found by looking for what takes the reader longest.
"""

from __future__ import annotations

import random
from base64 import encodebytes
from collections.abc import Mapping, Sequence
from typing import Final

from mailrelayd.approvals import bounces, dkim
from mailrelayd.approvals.kinds import kind_of
from mailrelayd.approvals.memory import Memory
from mailrelayd.approvals.mime import JUDGED, Mail, parse
from mailrelayd.approvals.reading import read_mail
from mailrelayd.approvals.sender import SenderCheck
from mailrelayd.approvals.tokens import header_texts, tokens_in
from mailrelayd.approvals.values import Kind, Options

PLAIN, HTML = 98_000, 260_000  # bytes of a text that are read

_HEADER = (
    "Authentication-Results: mx.dest.test; dmarc=pass header.from=dest.test\r\n"
    "Received: from client.dest.test by mx.dest.test with ESMTPS; Sat, 21 Nov 2026 09:00:00 +0000\r\n"
    "From: Somebody <a@dest.test>\r\nTo: approvals@dest.test\r\nSubject: Re: x\r\nMIME-Version: 1.0\r\n"
)
_BASE64: Final = "Content-Transfer-Encoding: base64\r\n"
ASKED: Final = tuple(f"line {n} with some words that the request has, number {n * 7}" for n in range(4000))
_CHECK = SenderCheck("authentication-results", ("mx.dest.test",), dkim.verify)
# What costs most in a line, in any of the languages and formats that are recognised.
_LINES: Mapping[str, str] = {
    "attributions": "On 21.11.2026 at 09:00, ERP <erp@dest.test> wrote",
    "combining marks": "a" + "\u0301" * 100,
    "dates": "21.11.2026 10:00,",
    "header lines": "From: a@b.c; Sent: d@e.f,",
    "honorifics": "\ufdfa" * 1300,
    "honorifics, short": "\ufdfa" * 100,
    "lines of Notes": "a---20.11.2026 10:05:11---b",
    "long words": "a." * 1999,
    "mailto": "mailto:" * 570,
    "pictures": "[cid:" * 799,
    "separators": "-----Original Message-----x",
    "web addresses": "https://a/b?c www.x.y a.b/c?d",
}


def hear(data: bytes, asked: Sequence[str] = ASKED) -> None:
    """Judge a mail as an answer to a request with these lines, as far as neither disk nor network are needed."""
    mail = parse(data[: JUDGED + 1])
    if not isinstance(mail, Mail):
        return
    kind, _ = kind_of(mail)
    if kind is Kind.BOUNCE:
        bounces.read(mail)
    tokens_in(mail)
    read_mail(mail, Options(), Memory(asked))
    _CHECK(data, 0.0)
    header_texts(mail)


def mails() -> dict[str, bytes]:
    """All of them, by name."""
    chance = random.Random(1)
    noise = chance.randbytes(JUDGED)
    found = {}
    for name, line in _LINES.items():
        lines, markup = f"{line}\r\n", f"{line.replace('<', '&lt;')}<br>\r\n"
        found[f"{name}, plain"] = _mail("text/plain", "Approved\r\n\r\n" + _times(lines, JUDGED))
        found[f"{name}, both"] = _both("Approved\r\n\r\n" + _times(lines, PLAIN), "Approved<br>" + _times(markup, HTML))
    for name, element in {
        "breaks": "<br>x",
        "bold": "<b>",
        "references": "&amp;&#1234567890123;&notanentity;",
        "quotations": "<blockquote>x",
        "cells": "<td>x",
        "attributes": f"<p {'a=b ' * 1900}>x",
        "styles": f"<p style='{'color:a;' * 240}'>x",
        "decorations": f"<p style='{'text-decoration' * 130}'>x",
        "style sheets": f"<style>{'.a{display:none}' * 30}</style>",
        "scripts": "<script></script>",
    }.items():
        found[f"HTML, {name}"] = _mail("text/html", "Approved<br>" + _times(element, HTML))
    markup = encodebytes(b"<b>x</b>" * 450).decode()
    found |= {
        "parts of text": _parts("text/plain", "", "Approved or not? word\r\n" * 230),
        "parts of HTML": _parts("text/html", "", "<p>Approved <b>or</b> not? word\r\n" * 160),
        "parts of HTML, base64": _parts("text/html", _BASE64, markup),
        "parts with many fields": _parts("text/plain", "X: y\r\n" * 800, "x"),
        "parts, deep": _deep(),
        "base64": _mail("text/plain", encodebytes(b"word " * 150_000).decode(), _BASE64),
        "encoded words": _mail("text/plain", "Approved", f"X-B: {'=?utf-8?q?a?= ' * 4400}\r\n" * 3),
        "addresses": _mail("text/plain", "Approved", f"Cc: {', '.join(f'a{n}@dest.test' for n in range(10_000))}\r\n"),
        "results": _mail("text/plain", "Approved", f"Authentication-Results: x; {'dkim=pass ' * 1500}\r\n" * 14),
        "signatures": _mail("text/plain", "Approved", f"DKIM-Signature: d=dest.test; h={'to:' * 90}to\r\n" * 20),
        "flowed": _mail('text/plain; format="flowed"', "Approved\r\n" + _times("word \r\n", JUDGED)),
        "S/MIME": _mail("application/pkcs7-mime", encodebytes(b"\x30\x80" * 350_000).decode(), _BASE64),
    }
    for charset in ("utf-7", "iso-2022-jp", "gb18030", "utf-16", "windows-1255", "bogus"):
        head = f"{_HEADER}Content-Type: text/html; charset={charset}\r\n\r\n".encode()
        found[f"noise as {charset}"] = head + noise
    return {name: data[:JUDGED] for name, data in found.items()}


def _mail(media: str, text: str, fields: str = "") -> bytes:
    return f"{_HEADER}{fields}Content-Type: {media}; charset=utf-8\r\n\r\n{text}".encode()


def _times(text: str, size: int) -> str:
    """The text as often as it fits."""
    return text * (size // len(text.encode()))


def _both(plain: str, markup: str) -> bytes:
    parts = "".join(
        f"--b\r\nContent-Type: {media}; charset=utf-8\r\n\r\n{text}\r\n"
        for media, text in (("text/plain", plain), ("text/html", markup))
    )
    return _mail("multipart/alternative; boundary=b", f"{parts}--b--\r\n")


def _parts(media: str, fields: str, text: str) -> bytes:
    one = f"--b\r\nContent-Type: {media}; charset=utf-8\r\n{fields}\r\n{text}\r\n"
    return _mail("multipart/mixed; boundary=b", one * 199 + "--b--\r\n")


def _deep() -> bytes:
    levels = "".join(f"--b{n}\r\nContent-Type: multipart/mixed; boundary=b{n + 1}\r\n\r\n" for n in range(18))
    return _mail("multipart/mixed; boundary=b0", levels + f"--{'x' * 48}\r\n" * 19_000)
