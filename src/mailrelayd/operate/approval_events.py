"""The events of the approval loop: the second half of the vocabulary of `operate.events`, under the same rules."""

from __future__ import annotations

from datetime import UTC, datetime

from mailrelayd.operate import log
from mailrelayd.operate.events import SAME_AS_LAST

_repeats = log.Repeats()


def request_opened(
    *, queue_id: str, request_id: str, requested_by: str, approvers: int, expires_at: float, sinks: tuple[str, ...]
) -> None:
    """People are going to be asked; answers count until `expires`."""
    log.emit(
        "info",
        "request.opened",
        {
            "queue_id": queue_id,
            "request_id": request_id,
            "requested_by": requested_by,
            "approvers": approvers,
            "expires": _time(expires_at),
            "sinks": list(sinks),
        },
    )


def request_closed(*, queue_id: str, request_id: str, status: str, by: str | None = None) -> None:
    """Nobody's answer is waited for any more: decided, superseded, expired, cancelled."""
    log.emit("info", "request.closed", {"queue_id": queue_id, "request_id": request_id, "status": status, "by": by})


def request_reminded(*, queue_id: str, request_id: str, copies: int) -> None:
    """Those who have not answered are asked again."""
    log.emit("info", "request.reminded", {"queue_id": queue_id, "request_id": request_id, "copies": copies})


def reply_read(
    *, account: str, uid: int, sender: str, status: str, reason: str, request_id: str | None, decision_id: str
) -> None:
    """A mail was read and archived; `status` is its outcome."""
    log.emit(
        "info",
        "reply.read",
        {
            "account": account,
            "uid": uid,
            "from": f"<{sender}>",
            "request_id": request_id,
            "decision_id": decision_id,
            "status": status,
            "reason": reason,
        },
    )


def decision_recorded(*, decision_id: str, request_id: str, status: str, reason: str, by: str) -> None:
    """An outcome for the sinks is on disk; `by`: whose it is."""
    log.emit(
        "info",
        "decision.recorded",
        {"decision_id": decision_id, "request_id": request_id, "by": f"<{by}>", "status": status, "reason": reason},
    )


def decision_delivered(*, decision_id: str, sink: str, attempt: int) -> None:
    """A sink has taken it."""
    log.emit("info", "decision.delivered", {"decision_id": decision_id, "sink": sink, "attempt": attempt})


def decision_waiting(*, decision_id: str, sink: str, attempt: int, next_attempt: float, reason: str) -> None:
    """A sink has not taken it; it is offered again. In full once per sink and reason, then at info."""
    again = _repeats.again("decision.waiting", sink, reason)
    log.emit(
        "info" if again else "warning",
        "decision.waiting",
        {
            "decision_id": decision_id,
            "sink": sink,
            "attempt": attempt,
            "next_attempt": _time(next_attempt),
            "reason": reason,
        },
    )


def decision_parked(*, decision_id: str, sink: str, attempt: int, reason: str) -> None:
    """It is not offered to this sink any more: a person looks, then `mailrelayd decisions replay`."""
    log.emit(
        "error", "decision.parked", {"decision_id": decision_id, "sink": sink, "attempt": attempt, "reason": reason}
    )


def mail_removed(*, account: str, uid: int, decision_id: str, how: str) -> None:
    """A mail has left the folder: deleted, or moved. It is in the archive."""
    log.emit("info", "mail.removed", {"account": account, "uid": uid, "decision_id": decision_id, "how": how})


def mailbox_polled(*, account: str, folder: str, found: int, read: int, left: int, removed: int) -> None:
    """The folder was looked into. `left` counts mail that is none of ours. Debug where there was nothing new."""
    log.emit(
        "info" if read or removed else "debug",
        "mailbox.polled",
        {"account": account, "folder": folder, "found": found, "read": read, "left": left, "removed": removed},
    )


def mailbox_down(*, account: str, stage: str, response: str, attempt: int, next_attempt: float) -> None:
    """The mailbox cannot be read. In full once, then "same as last" at info."""
    again = _repeats.again("mailbox.down", account, f"{stage} {response}")
    log.emit(
        "info" if again else "warning",
        "mailbox.down",
        {
            "account": account,
            "attempt": attempt,
            "next_attempt": _time(next_attempt),
            "reason": SAME_AS_LAST if again else stage,
            "response": None if again else response,
        },
    )


def mailbox_up(*, account: str, folder: str, outage: float | None) -> None:
    """The mailbox can be read. `outage`: for how many seconds it could not."""
    _repeats.over("mailbox.down", account)
    log.emit(
        "info" if outage is None else "notice", "mailbox.up", {"account": account, "folder": folder, "outage": outage}
    )


def mailbox_refused(*, account: str, folder: str, mails: int, reason: str, hint: str) -> None:
    """Nothing is read there until somebody says what is to happen to the mail that is already there."""
    log.emit(
        "error",
        "mailbox.refused",
        {"account": account, "folder": folder, "mails": mails, "reason": reason, "hint": hint},
    )


def mail_left(*, account: str, uid: int | None, reason: str, mails: int | None = None) -> None:
    """A mail stays where it is; said once. Several for one reason are counted: `mails` in place of `uid`."""
    log.emit("info", "mail.left", {"account": account, "uid": uid, "mails": mails, "reason": reason})


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
