"""What must hold for every mail that is read, as somebody would say who knows little of the reader.

Two views. `broken` looks at any bytes: what an approval needs to stand in them is sought by the standard library's mail
parser and by plain searching. `unwritten` knows the text, because it was put together from PIECES, and reads it as a
person would: the first own line, and what speaks against it. Both are narrower than the reader, never cleverer.
"""

from __future__ import annotations

import email
import html
import re
import unicodedata
from base64 import encodebytes
from collections.abc import Sequence
from email.message import Message
from quopri import encodestring

from mailrelayd.approvals.values import Decision, Kind, Reading
from mailrelayd.approvals.vocabulary import LANGUAGES

WORDS = tuple(sorted({word for one in LANGUAGES for word in one.approve.split("|") if word}))
"""Every phrase that approves, in all languages."""
REFUSALS = tuple(
    sorted({word for one in LANGUAGES for word in one.reject.split("|") if word and not word.startswith("=")})
)
QUOTES = (
    *("> ", "On 2026-11-21 10:00, Ann wrote:\n", "From: Ann <a@b>\nSent: today\n", "-----Original Message-----\n"),
    *("-- \n", "Am 21.11.2026 um 10:00 schrieb Ann:\n", "________________________________\n", "Sent from my iPhone\n"),
)
DOUBTS = ("not", "never", "if", "unless", "but", "only", "?", "n't", "tomorrow", "nicht", "aber", "falls", "no")
PIECES = (
    *("Approved", "approve", "Approve", "APPROVED", "Genehmigt", "approuvé", "承認します", "Aprobado"),
    *("Rejected", "reject", "Abgelehnt", "refusé", *DOUBTS, *QUOTES),
    *("thanks", "thank you", "Hi Ann,\n", "because", "I", "Ann", "legal", "approver", "un", "dis", "yes", "ok"),
    *("\u200b", "\u202e", "\xa0", "*", '"', "----", "(", "!", ".", ",", "/", ":", "-", "\t", "\x0b", "\u2028"),
    *(" ", " ", " ", "\n", "\n", "\n", "\n\n", "\r\n", *WORDS, *REFUSALS),
)
_AGAINST = re.compile(r"(?i)(?<!\w)(?:not|never|unless|rejected|reject|nicht|abgelehnt)(?!\w)|\?")
_ADDRESS = re.compile(r"(?i)\b(?:https?://|www\.)[^\s<>]*")
_OBSOLETE = re.compile(rb"(?m)^([!-9;-~]+)[ \t]+:")  # RFC 5322 section 4.5.3, which the library does not know
_WAYS = 6

HEADER = b"From: boss@example.com\nSubject: Re: PO-42\nMIME-Version: 1.0\n"


def dressed(text: str, way: int) -> bytes:
    """The text as a mail: plain, quoted-printable, base64, HTML, both renditions, or beside an attachment."""
    data = text.encode("utf-8", "replace")
    plain = b"Content-Type: text/plain; charset=utf-8\n"
    markup = html.escape(text).replace("\n", "<br>\n").encode("utf-8", "replace")
    rich = b"Content-Type: text/html; charset=utf-8\n\n<html><body><div>" + markup + b"</div></body></html>\n"
    match way % _WAYS:
        case 1:
            return HEADER + plain + b"Content-Transfer-Encoding: quoted-printable\n\n" + encodestring(data)
        case 2:
            return HEADER + plain + b"Content-Transfer-Encoding: base64\n\n" + encodebytes(data)
        case 3:
            return HEADER + rich
        case 4:
            parts = b"--b\n" + plain + b"\n" + data + b"\n--b\n" + rich + b"\n--b--\n"
            return HEADER + b"Content-Type: multipart/alternative; boundary=b\n\n" + parts
        case 5:
            parts = b"--b\n" + plain + b"\n" + data + b"\n--b\nContent-Type: image/png\n\nx\n--b--\n"
            return HEADER + b"Content-Type: multipart/mixed; boundary=b\n\n" + parts
        case _:
            return HEADER + plain + b"\n" + data


def broken(data: bytes, reading: Reading) -> str:
    """What is wrong with the reading of these bytes; "" where nothing is."""
    if (reading.kind is Kind.REPLY) != (reading.decision is not None):
        return "only a reply carries a decision, and each does"
    if reading.decision is not Decision.APPROVED:
        return ""
    first = next((line for line in reading.new_text.splitlines() if line.strip()), "")
    if not first:
        return "approved without a word"
    if re.search("[?？]", _ADDRESS.sub("", reading.new_text)):
        return "approved with a question mark"
    if not _says(reading.new_text, WORDS):
        return "approved, and no approve-word stands in what is called the new text"
    if not _says(_all_text(email.message_from_bytes(_OBSOLETE.sub(rb"\1:", data))), WORDS):
        return "approved, and no approve-word stands in the mail"
    return ""


def unwritten(text: str, reading: Reading) -> str:
    """Why a text made of PIECES must not be read as an approval; "" where it was none, or may be one."""
    if reading.decision is not Decision.APPROVED:
        return ""
    lines = _own_lines(text)
    if not lines:  # everything stands below a quotation: then it is in a line of its own somewhere
        lines = [line for line in _lines(text) if _says(line, WORDS)]
        return "" if lines else "approved, and nobody wrote it"
    own = "\n".join(lines)
    if not _says(own, WORDS):
        return "approved by what stands in a quotation or a signature"
    if found := _AGAINST.search("\n".join("".join(_letters(line)) for line in lines)):
        return f"approved, although {found[0]!r} stands in the own lines"
    if "\u202e" in own:
        return "approved, although a letter turns the direction of reading"
    return ""


def _lines(text: str) -> Sequence[str]:
    return re.split(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)


def _own_lines(text: str) -> list[str]:
    """The lines above anything that could be quoted."""
    lines = []
    for line in _lines(text):
        bare = _plain(line)
        if bare.startswith((">", "on2026", "am21.", "from:", "sent", "--", "__")):
            break
        if bare:
            lines.append(line)
    return lines


def _says(text: str, phrases: Sequence[str]) -> bool:
    """White space does not count: format=flowed may part a word."""
    plain = _plain(text)
    return any(_plain(phrase) in plain for phrase in phrases)


def _plain(text: str) -> str:
    """Without case, accents, white space, and what cannot be seen."""
    return "".join(_letters(re.sub(r"\s", "", text)))


def _letters(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKD", text.casefold())
    return [one for one in folded if not unicodedata.combining(one) and unicodedata.category(one) not in ("Cf", "Cc")]


def _all_text(mail: Message) -> str:
    """All that the standard library's parser finds to read, markup removed, however it was meant."""
    texts = []
    for part in mail.walk():
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            charset = re.sub("-[ie]$", "", part.get_content_charset("utf-8"))  # order of writing: the same letters
            for name in (charset, "utf-8", "latin-1"):
                try:
                    texts.append(payload.decode(name, "replace"))
                except (LookupError, ValueError):
                    continue
    joined = "\n".join(texts)
    return joined + "\n" + html.unescape(re.sub(r"<[^>]*>", "", joined))
