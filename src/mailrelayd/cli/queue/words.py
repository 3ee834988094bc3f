"""What the queue says to people: lines of text without control characters."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from mailrelayd.operate.log import escape

A_DAY = 86400.0  # seconds
FEW = 5  # recipients in a listing
REASON = 60  # characters of a reason in the table
RULES = {
    "headers": "the envelope is that of its header",
    "resent": "the envelope is that of its topmost Resent- fields",
    "pickup": "the envelope is that of its X-Sender and X-Receiver lines",
    "sidecar": "the envelope is that of the sidecar beside it",
    "submit": "the envelope is what its sender's command said",
    "dsn": "a report of our own to the sender of a message that failed",
    "unreadable": "who should receive it could not be read",
}


def message(entry: dict[str, Any], now: float, *, full: bool = False) -> Iterator[str]:
    """One message of a listing; `full`: with every recipient."""
    place = "sending" if entry["in_flight"] else entry["queue_name"]
    size = octets(entry["message_size"])
    line = f"{entry['queue_id']}  {place:8}  {size:>8}  {moment(entry['arrival_time'])}  from {_sender(entry)}"
    if entry["next_attempt"] and entry["queue_name"] != "hold":
        line += f"  next {until(entry['next_attempt'] - now)}"
    yield escape(line)
    if entry["reason"]:
        yield escape(f"    {entry['reason']}")
    recipients = entry["recipients"]
    for recipient in recipients if full else recipients[:FEW]:
        text = f"    {recipient['status']:8} <{recipient['address']}>"
        if recipient.get("delay_reason") and recipient["delay_reason"] != entry["reason"]:
            text += f": {recipient['delay_reason']}"
        elif full and recipient.get("response"):
            text += f": {recipient['response']}"
        if full and recipient["attempts"]:
            text += f" ({tries(recipient['attempts'])})"
        yield escape(text)
    if not full and len(recipients) > FEW:
        yield f"    and {len(recipients) - FEW} more (mailrelayd queue show {entry['queue_id']})"


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Ages by reason, in the manner of qshape: each column counts up to its age, from the one before."""
    width = max(min(len(row["reason"]), REASON) for row in rows)
    names = list(rows[0]["ages"])
    widths = {name: max(len(name), *(len(str(row["ages"][name])) for row in rows)) for name in names}
    total = max(len(str(rows[0]["total"])), 2)
    yield f"{'':{width}}  {'T':>{total}}" + "".join(f"  {name:>{widths[name]}}" for name in names)
    for row in rows:
        reason = row["reason"] if len(row["reason"]) <= REASON else row["reason"][: REASON - 3] + "..."
        counts = "".join(f"  {row['ages'][name]:>{widths[name]}}" for name in names)
        yield f"{escape(reason):{width}}  {row['total']:>{total}}{counts}"


# -- the life of one message ---------------------------------------------------------------------------------------


def life(facts: dict[str, Any], now: float) -> Iterator[str]:
    """What `outbound.life` knows, in sentences."""
    for line in _here(facts, now) if facts["queue_name"] else _not_here(facts, now):
        yield escape(line)


def _here(facts: dict[str, Any], now: float) -> Iterator[str]:
    place = "is being sent" if facts["in_flight"] else _PLACES[facts["queue_name"]]
    yield f"{facts['queue_id']} {place}: {octets(facts['message_size'])} from {_sender(facts)}"
    yield ""
    yield f"{moment(facts['arrived_at'])}  {_origin(facts)}"
    yield f"{'':{len(moment(0))}}  {RULES.get(facts['rule'], facts['rule'])}"
    for past in facts["history"]:
        if past["event"] != "queued":
            yield f"{moment(past['at'])}  {_past(past)}"
    yield ""
    yield from _recipients(facts)
    if facts["queue_name"] in ("failed", "sent"):
        yield from _settled(facts)
    else:
        yield from _waiting(facts, now)


_PLACES = {
    "active": "waits",
    "deferred": "waits, deferred",
    "hold": "is on hold",
    "failed": "was given up",
    "sent": "was sent and is kept",
}


_DONE_BY = {  # what people do: their text says who it was
    "hold": "put on hold by",
    "release": "released by",
    "retry": "tried again on the word of",
    "fail": "given up by",
}


def _origin(facts: dict[str, Any]) -> str:
    if facts["rule"] == "dsn":
        return "made by mailrelayd itself"
    by = f" by uid {facts['uid']}" if facts["uid"] is not None else ""
    if facts["producer"] == "submit":
        return f"handed in{by} with submit or sendmail"
    folder = f"pickup/{facts['producer']}/" if facts["producer"] else "pickup/"
    # Without a record beside it only the log knows what its producer called it.
    name = facts["file"] or " (the file's name: message.queued in the log)"
    return f"taken from {folder}{name}{f', handed in{by}' if by else ''}"


def _past(past: dict[str, Any]) -> str:
    event, text = past["event"], past["text"]
    if text.startswith("uid ") and event in _DONE_BY:
        text = f"{_DONE_BY[event]} {text}"
    else:
        text = f"{event}: {text}" if text else event
    return text if past["times"] == 1 else f"{text} ({past['times']} times since {moment(past['since'])})"


def _recipients(facts: dict[str, Any]) -> Iterator[str]:
    for recipient in facts["recipients"]:
        text = f"  {recipient['status']:8} <{recipient['address']}>"
        if recipient.get("response"):
            text += f": {recipient['response']}"
        if recipient["attempts"]:
            text += f" ({tries(recipient['attempts'])})"
        yield text


def _waiting(facts: dict[str, Any], now: float) -> Iterator[str]:
    around, queue_id = facts["situation"], facts["queue_id"]
    after = facts["next_attempt"]
    when = f"{moment(after)}, {until(after - now)}" if after else ""
    held = f"{around['account']} held since {moment(around['held_since'] or now)} at {around['stage']}"
    waits, then, advice = {
        "answer": ("the smarthost's answer: it is being sent right now", "", "wait a moment, and ask again"),
        "release": (
            facts["reason"] or f"somebody to release it{_held_by(facts)}",
            "not before it is released",
            f"mailrelayd queue release {queue_id}",
        ),
        "route": (
            f"the route: {held}: {around['reason']}",
            f"as soon as the smarthost takes mail again; it is asked every {around['probe']:g} s",
            "mailrelayd check --connect shows what is wrong; this message needs nothing, and does not expire meanwhile",
        ),
        "outbound": (
            "an account: no [outbound.NAME] is enabled",
            "once one is",
            "enabled = true in [outbound.NAME], then mailrelayd reload",
        ),
        "daemon": ("the daemon: none runs", "once it runs", "systemctl start mailrelayd"),
        "not_before": ("the time that its producer named", when, f"mailrelayd queue retry {queue_id} sends it now"),
        "next_attempt": (
            "its next attempt: it was refused for now",
            when,
            f"mailrelayd queue retry {queue_id} tries now, queue fail gives it up, queue delete forgets it",
        ),
        "turn": ("its turn: messages go in the order in which they came", "now", "mailrelayd status"),
    }[facts["waits_for"]]
    yield ""
    yield f"waits for   {waits}"
    if then:
        yield f"next try    {then}"
    if facts["waits_for"] != "release":
        yield f"expires     at the first refusal after {moment(facts['expires_at'])}, and at least three tries"
    yield f"what to do  {advice}"


def _held_by(facts: dict[str, Any]) -> str:
    """Who put it on hold, as far as anybody knows."""
    for past in reversed(facts["history"]):
        if past["event"] == "hold":
            return f"; {past['text']} put it on hold at {moment(past['at'])}"
    return ""


def _settled(facts: dict[str, Any]) -> Iterator[str]:
    around, queue_id = facts["situation"], facts["queue_id"]
    yield ""
    if facts["queue_name"] == "sent":
        yield f"kept        for {span(around['keep_sent'])} after it was sent ([spool] keep_sent)"
        return
    if facts["reason"]:
        yield f"reason      {facts['reason']}"
    yield f"kept        for {span(around['keep_failed'])} after it was given up ([spool] keep_failed)"
    if facts["rule"] == "unreadable":
        yield f"what to do  mend it and hand it in again; mailrelayd queue cat {queue_id} shows it"
    elif facts["reason"] == "suppressed":
        yield f"what to do  [guard] does not let it out; once it does: mailrelayd queue retry {queue_id}"
    else:
        yield f"what to do  once the reason is gone: mailrelayd queue retry {queue_id}; those who got it are left out"


def _not_here(facts: dict[str, Any], now: float) -> Iterator[str]:
    queue_id = facts["queue_id"]
    if not facts["valid"] or facts["arrived_at"] > now + A_DAY:
        because = "it would be of the future" if facts["valid"] else "those have 16 characters out of 2-7 and a-z"
        yield f"{queue_id} is no queue id: {because}"
        yield "what to do  mailrelayd queue list, or search the log for the sender or the recipient"
        return
    here = {True: " by this node", False: " by another node: look there", None: ""}[facts["given_here"]]
    yield f"{queue_id} is not here: neither waiting, nor failed, nor kept as sent"
    yield f"the id      was given at {moment(facts['arrived_at'])}{here}"
    yield "so          it was sent, or deleted, or has been in failed/ for longer than [spool] keep_failed"
    yield f"what to do  journalctl --unit mailrelayd --grep {queue_id}"
    yield "            message.sent says who took it, queue.changed who deleted it"


# -- words for numbers ---------------------------------------------------------------------------------------------


def _sender(entry: dict[str, Any]) -> str:
    return "<>" if entry["sender"] == "MAILER-DAEMON" else f"<{entry['sender']}>"


def moment(seconds: float) -> str:
    """A time on this machine's clock."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def tries(count: int) -> str:
    """How often it was tried."""
    return "1 try" if count == 1 else f"{count} tries"


def octets(size: float) -> str:
    """A size, short."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"


def until(seconds: float) -> str:
    """How long from now."""
    return "now" if seconds <= 0 else f"in {span(seconds)}"


def span(seconds: float) -> str:
    """A time, short."""
    for unit, length in (("s", 60), ("min", 60), ("h", 24)):
        if seconds < length:
            return f"{max(seconds, 0):.0f} {unit}"
        seconds /= length
    return f"{seconds:.0f} d"
