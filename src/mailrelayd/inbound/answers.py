"""What an IMAP server's responses mean. Pure.

What cannot be understood at all is Nonsense; a mail of which something is missing is only left out.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator
from typing import Final

from mailrelayd.inbound.names import LAST_UID, MONTHS, decoded
from mailrelayd.inbound.values import Mailbox, Summary
from mailrelayd.inbound.wire import Nonsense, Response, Status, Value, status, values

_FETCH: Final = re.compile(rb"[0-9]{1,10} FETCH ", re.IGNORECASE)
_NUMBERED: Final = re.compile(rb"([0-9]{1,10}) (EXISTS|EXPUNGE)", re.IGNORECASE)
_DATE_TIME: Final = re.compile(rb" ?(\d{1,2})-([A-Za-z]{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")


def opened(name: str, told: Iterable[Response], last_word: Status, *, read_only: bool) -> Mailbox:
    """The folder that SELECT or EXAMINE opened. Raises Nonsense where it cannot be used."""
    codes: dict[str, str] = {}
    exists = 0
    for response in told:
        said, count = status(response), numbered(response)
        if said is not None:
            codes[said.code] = said.arguments
        elif count is not None and count[1] == "EXISTS":
            exists = count[0]
    uidvalidity = number(codes.get("UIDVALIDITY", "").encode(), LAST_UID)
    if not uidvalidity:
        raise Nonsense(f"the folder {name!r} has no UIDVALIDITY: its mails have no lasting names")
    if "UIDNOTSTICKY" in codes:  # RFC 4315 section 2
        raise Nonsense(f"the UIDs of the folder {name!r} do not last (UIDNOTSTICKY)")
    uidnext = number(codes.get("UIDNEXT", "").encode(), LAST_UID + 1)
    return Mailbox(name, uidvalidity, uidnext, exists, read_only or last_word.code == "READ-ONLY")


def listed(told: Iterable[Response]) -> Iterator[str]:
    """The folders that can hold mail, of all "* LIST (attributes) delimiter name" (RFC 3501 section 7.2.2)."""
    for response in told:
        word, _, rest = response.text.partition(b" ")
        if word.upper() != b"LIST":
            continue
        match values((rest, *response.pieces[1:])):
            case [list() as attributes, _, bytes() as name, *_]:
                if not {b"\\NOSELECT", b"\\NONEXISTENT"} & {a.upper() for a in attributes if isinstance(a, bytes)}:
                    yield decoded(name)


def data(response: Response, name: str) -> bytes | None:
    """What follows `name` in "* NAME ..."; None where it is something else. Only for what cannot hold literals."""
    word, _, rest = response.text.partition(b" ")
    return rest if word.upper() == name.encode() else None


def numbered(response: Response) -> tuple[int, str] | None:
    """(n, word) of "* n EXISTS" and "* n EXPUNGE"."""
    found = _NUMBERED.fullmatch(response.text)
    return (int(found[1]), found[2].decode().upper()) if found is not None else None


def fetched(response: Response) -> dict[str, Value] | None:
    """The items of "* n FETCH (...)" by name, in capitals; None where it is something else. Raises Nonsense."""
    found = _FETCH.match(response.text)
    if found is None:
        return None
    match values((response.text[found.end() :], *response.pieces[1:])):
        case [list() as items] if len(items) % 2 == 0:
            pairs = zip(items[::2], items[1::2], strict=True)
            return {_key(name): value for name, value in pairs}
    raise Nonsense("the server sent a FETCH that cannot be understood", response.text)


def _key(name: Value) -> str:
    if not isinstance(name, bytes):
        raise Nonsense("the server sent a FETCH with a nameless item")
    return name.decode("ascii", "backslashreplace").upper()


def number(value: Value, most: int = 2**63 - 1) -> int | None:
    """A number from 0 to `most`, or None."""
    if not isinstance(value, bytes) or not value.isdigit() or len(value) > len(str(most)):
        return None
    return int(value) if int(value) <= most else None


def searched(responses: Iterable[Response]) -> Iterator[int]:
    """The UIDs of all "* SEARCH ..." (RFC 3501 section 7.2.5). Raises Nonsense."""
    for response in responses:
        for word in (data(response, "SEARCH") or b"").split():
            uid = number(word, LAST_UID)
            if not uid:
                raise Nonsense("the server found what is no UID", word)
            yield uid


def moment(value: Value) -> datetime.datetime | None:
    """An INTERNALDATE (RFC 3501 section 9: date-time) in UTC; None where it is none."""
    found = _DATE_TIME.fullmatch(value) if isinstance(value, bytes) else None
    if found is None:
        return None
    day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = (part.decode() for part in found.groups())
    zone = datetime.timedelta(hours=int(zone_hours), minutes=int(zone_minutes))
    try:
        local = datetime.datetime(
            int(year), MONTHS.index(month.title()) + 1, int(day), int(hour), int(minute), min(int(second), 59),
            tzinfo=datetime.timezone(-zone if sign == "-" else zone),
        )  # fmt: skip
        return local.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None


def summary(uid: int, told: dict[str, Value], most: int) -> Summary | None:
    """The summary of a mail; None where something of it is missing or makes no sense."""
    size, internal_date = number(told.get("RFC822.SIZE")), moment(told.get("INTERNALDATE"))
    flags = told.get("FLAGS")
    header = next((value for key, value in told.items() if key.startswith("BODY[HEADER.FIELDS")), None)
    if size is None or internal_date is None or not isinstance(flags, list) or not isinstance(header, bytes):
        return None
    words = (flag.decode("ascii", "backslashreplace") for flag in flags if isinstance(flag, bytes))
    return Summary(uid, size, internal_date, frozenset(words), header[:most])
