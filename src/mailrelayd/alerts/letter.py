"""The digest as a mail: what happened, how often, and what to do. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from mailrelayd.alerts.tally import Digest, Kind, Outage
from mailrelayd.outbound import headers

RULE: Final = "alert"  # how a digest's envelope was found: we made it
LONGEST_LINE: Final = 900  # octets; RFC 5322 section 2.1.1 allows 998
LONGEST_SUBJECT: Final = 200  # characters

# Event -> what it is called, for one and for several, and what to do about it.
_WORDS: Final = {
    "message.failed": ("delivery given up", "deliveries given up", "mailrelayd queue --failed"),
    "message.expired": ("delivery expired", "deliveries expired", "mailrelayd queue --failed"),
    "pickup.refused": ("file not taken", "files not taken", "mailrelayd spool explain FILE"),
    "submit.refused": ("caller sent away", "callers sent away", "journalctl -u mailrelayd -p warning"),
    "decision.parked": ("decision parked", "decisions parked", "mailrelayd decisions"),
    "decision.waiting": ("decision not taken yet", "decisions not taken yet", "mailrelayd decisions"),
    "mailbox.refused": ("mailbox not read", "mailboxes not read", "mailrelayd status"),
    "secret.expiring": ("secret that expires", "secrets that expire", "mailrelayd authorize ACCOUNT"),
    "config.rejected": ("configuration refused", "configurations refused", "mailrelayd check"),
    "queue.trouble": ("trouble with the queue", "times trouble with the queue", "mailrelayd status"),
}
_OTHER: Final = "journalctl -u mailrelayd -p warning"
_DOWN: Final = {
    "route.down": "route {name} is held",
    "mailbox.down": "mailbox {name} cannot be read",
    "spool.full": "the spool's disk is full",
    "syslog.down": "the system log cannot be written to",
}


def letter(digest: Digest, *, node: str, sender: str, to: str, number: str, now: float) -> bytes:
    """The whole mail, CRLF throughout, ASCII only. `number` makes the Message-ID one of its own."""
    facts = [*(_outage(one) for one in digest.outages), *(_kind(one) for one in digest.kinds)]
    subject = f"mailrelayd on {node}: {', '.join(facts)}"
    top = [
        f"From: mailrelayd on {node} <{sender or f'MAILER-DAEMON@{node}'}>",
        f"To: <{to}>",
        f"Subject: {subject if len(subject) <= LONGEST_SUBJECT else subject[:LONGEST_SUBJECT] + '...'}",
        f"Date: {headers.date(now)}",
        f"Message-ID: <{number}.alert@{node}>",
        "Auto-Submitted: auto-generated",  # RFC 3834 section 5: no programs answer it
        "X-Auto-Response-Suppress: All",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "Content-Transfer-Encoding: 7bit",
    ]
    return "".join(_cut(line) + "\r\n" for line in [*top, "", *_text(digest)]).encode("ascii")


def _text(digest: Digest) -> list[str]:
    lines = []
    for outage in digest.outages:
        until = f"until {_time(outage.ended)}" if outage.ended else "and it goes on"
        lines += [f"{_outage(outage)}: since {_time(outage.since)}, {until}", f"    {outage.line}", ""]
    for kind in digest.kinds:
        when = _time(kind.first) if kind.count == 1 else f"{_time(kind.first)} to {_time(kind.last)}"
        more = kind.count - len(kind.lines)
        lines += [f"{_kind(kind)}, {when}", *(f"    {line}" for line in kind.lines)]
        lines += [f"    ... and {more} more"] if more else []
        lines += [f"    see: {_WORDS[kind.event][2] if kind.event in _WORDS else _OTHER}", ""]
    return [*lines, "At most one such mail is sent in an hour."]


def _kind(kind: Kind) -> str:
    one, several, _ = _WORDS.get(kind.event, (kind.event, kind.event, ""))
    return f"{kind.count} {one if kind.count == 1 else several}"


def _outage(outage: Outage) -> str:
    text = _DOWN.get(outage.event, outage.event).format(name=outage.name)
    return f"{text}, now over" if outage.ended else text


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _cut(line: str) -> str:
    """Printable ASCII on one line that any server takes."""
    text = "".join(c if c.isprintable() else " " for c in line).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}..."
