"""Events as Postfix would word them, so that pflogsumm and its kin count our mail. No socket here: see `syslog`.

What they look for are a few fixed shapes: a pickup line with `uid=`, a qmgr line with `size=`, delivery lines with
`to=<...>, relay=..., status=...`, and reject lines. They search for them anywhere in a line, so nothing that a
stranger chose (an address, a server's answer, a file's name) may contain one: see `_address` and `_text`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mailrelayd.operate import log
from mailrelayd.outbound.values import Response, Stage

Status = Literal["sent", "deferred", "bounced", "expired"]

_ADDRESS = 256  # octets shown; RFC 5321 section 4.5.3.1.3 allows a path no more
_RELAY = 256
_TEXT = 320  # octets of what was said; all of a line fits into RFC 3164's packet with that
_COMMANDS = {
    Stage.MAIL: "MAIL FROM command",
    Stage.RCPT: "RCPT TO command",
    Stage.DATA: "DATA command",
    Stage.BODY: "end of DATA command",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: which of Postfix's programs would have written it, and what."""

    service: str
    text: str
    severity: Literal["info", "warning"] = "info"


def received(queue_id: str, sender: str, uid: int | None) -> Line:
    """A message was handed in."""
    return Line("pickup", f"{queue_id}: uid={'unknown' if uid is None else uid} from=<{_address(sender)}>")


def reported(queue_id: str, about: str) -> Line:
    """`queue_id` is our own report on the failure of `about`."""
    return Line("bounce", f"{about}: sender non-delivery notification: {queue_id}")


def active(queue_id: str, sender: str, size: int, nrcpt: int) -> Line:
    """The relay begins with a message."""
    return Line("qmgr", f"{queue_id}: from=<{_address(sender)}>, size={size}, nrcpt={nrcpt} (queue active)")


def removed(queue_id: str) -> Line:
    """A message has left the queue."""
    return Line("qmgr", f"{queue_id}: removed")


def delivery(
    status: Status,
    *,
    queue_id: str,
    recipient: str,
    relay: str,
    delay: float,
    delays: str,
    dsn: str,
    response: Response,
) -> Line:
    """What became of one recipient. Postfix's bounced is our failed."""
    said = str(response)
    if status != "sent" and response.code and relay != "none":
        said = f"host {relay.rpartition(':')[0]} said: {said}"
        if command := _COMMANDS.get(response.stage):
            said = f"{_text(said)} (in reply to {command})"
    shown = f"to=<{_address(recipient)}>, relay={_clip(log.escape(relay), _RELAY)}, delay={_seconds(delay)}, "
    return Line("smtp", f"{queue_id}: {shown}delays={delays}, dsn={dsn}, status={status} ({_text(said, _TEXT + 50)})")


def unreadable(queue_id: str, file: str, response: Response) -> Line:
    """A message that nobody could read. pflogsumm wants to know of which part one speaks: header, body."""
    return Line("cleanup", f"{queue_id}: reject: header {_text(str(response))}; from=<> file=<{_address(file)}>")


def suppressed(queue_id: str, sender: str, recipient: str, reason: str) -> Line:
    """The guard did not let a message through to a recipient. pflogsumm calls that discarded."""
    to = _address(recipient)
    why = f"<{to}>: Recipient address suppressed: {_text(reason)}"
    return Line("smtpd", f"{queue_id}: discard: RCPT from {_OURSELVES}: {why}; from=<{_address(sender)}> to=<{to}>")


def refused(uid: int | None, reason: str) -> Line:
    """Nothing was taken from a caller of submit or sendmail."""
    whom = _OURSELVES if uid is None else f"localhost[uid={uid}]"
    return Line("smtpd", f"NOQUEUE: reject: DATA from {whom}: {_text(reason)}")


def not_taken(file: str, reason: str, hint: str) -> Line:
    """A file in a pickup folder stays there."""
    return Line("pickup", f"warning: {_text(f'{file}: {reason}')}: {_text(hint)}", "warning")


def held(account: str, response: Response) -> Line:
    """The way to the smarthost is closed."""
    return Line("smtp", f"warning: {account}: {response.stage}: {_text(str(response))}", "warning")


_OURSELVES = "localhost[127.0.0.1]"  # pflogsumm wants a client's name and address


def _address(address: str) -> str:
    """An address, or whatever else stands in angle brackets and must not end them."""
    return _clip(log.escape(log.masked(address)).replace("<", r"\x3c").replace(">", r"\x3e"), _ADDRESS)


def _text(text: str, octets: int = _TEXT) -> str:
    """What somebody else said; a server that answers `from=<a>, size=1` is not taken for us."""
    return _clip(log.escape(log.masked(text)).replace("=<", "= <"), octets)


def _clip(text: str, octets: int) -> str:
    if len(text) <= octets and text.isascii():
        return text
    encoded = text.encode("utf-8", "backslashreplace")
    return text if len(encoded) <= octets else encoded[: octets - 3].decode("utf-8", "ignore") + "..."


def _seconds(duration: float) -> str:
    """Two digits that count, as Postfix has them; never an exponent."""
    return f"{duration:.0f}" if duration >= 10 else f"{duration:.2g}"
