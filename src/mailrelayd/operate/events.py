"""One way to log an event: a function per event. docs/log.md is this vocabulary, for those who read the log.

Names and keys are a promise: programs search for them. Keys keep their order: who, where, how long, what became
of it, why, and the server's words last because they are long. Times of duration are seconds; `next_attempt` is
given as seconds since the epoch and shown as a UTC time. `reason` is a short stable word or phrase; the text
of a server or an exception belongs into `response`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from mailrelayd.operate import log
from mailrelayd.outbound.values import Response, Stage

SAME_AS_LAST = "same as last"

_repeats = log.Repeats()


def message_queued(*, queue_id: str, sender: str, nrcpt: int, size: int, file: str, uid: int | None, rule: str) -> None:
    """A message was taken over: from here on it is ours. `rule` names what its envelope was read from."""
    log.emit(
        "info",
        "message.queued",
        {
            "queue_id": queue_id,
            "from": _address(sender),
            "nrcpt": nrcpt,
            "size": size,
            "file": file,
            "uid": uid,
            "rule": rule,
        },
    )


def message_sent(
    *,
    queue_id: str,
    sender: str,
    recipient: str,
    relay: str,
    delay: float,
    delays: str,
    response: Response,
    attempt: int,
) -> None:
    """The smarthost took the message for this recipient. `delays` is Postfix's a/b/c/d, in seconds."""
    log.emit(
        "info",
        "message.sent",
        {
            **_delivery(queue_id, sender, recipient, relay, delay, delays),
            "dsn": response.enhanced or "2.0.0",
            "status": "sent",
            "attempt": attempt,
            "response": str(response),
        },
    )


def message_deferred(
    *,
    queue_id: str,
    sender: str,
    recipient: str,
    relay: str,
    delay: float,
    delays: str,
    response: Response,
    attempt: int,
    next_attempt: float,
    reason: str,
    ambiguous: bool = False,
) -> None:
    """Not now, but again. `ambiguous`: the body went out and its answer never came, so it may arrive twice."""
    log.emit(
        "info",
        "message.deferred",
        {
            **_delivery(queue_id, sender, recipient, relay, delay, delays),
            "dsn": response.enhanced or "4.0.0",
            "status": "deferred",
            "attempt": attempt,
            "next_attempt": _time(next_attempt),
            "reason": reason,
            "ambiguous": True if ambiguous else None,
            "response": str(response),
        },
    )


def message_failed(
    *,
    queue_id: str,
    sender: str,
    recipient: str | None,
    relay: str,
    delay: float,
    delays: str,
    response: Response,
    attempt: int,
    reason: str,
    file: str | None = None,
) -> None:
    """Given up and kept under failed/. Without a recipient: the message itself could not be read."""
    log.emit(
        "warning",
        "message.failed",
        {
            **_delivery(queue_id, sender, recipient, relay, delay, delays),
            "dsn": response.enhanced or "5.0.0",
            "status": "failed",
            "attempt": attempt,
            "reason": reason,
            "file": file,
            "response": str(response),
        },
    )


def message_unreadable(*, queue_id: str, detail: str, file: str | None = None) -> None:
    """A `message.failed` for a file that tells nobody's address; `detail` is the sentence that says why."""
    message_failed(
        queue_id=queue_id,
        sender="",
        recipient=None,
        relay="none",
        delay=0.0,
        delays="0/0/0/0",
        response=Response(Stage.LOCAL, 0, "", detail),
        attempt=0,
        reason="unreadable",
        file=file,
    )


def message_expired(
    *,
    queue_id: str,
    sender: str,
    recipient: str | None,
    relay: str,
    delay: float,
    delays: str,
    response: Response,
    attempt: int,
    reason: str,
    file: str | None = None,
) -> None:
    """Given up because time ran out; `response` is the last one, `reason` what kept it waiting."""
    log.emit(
        "warning",
        "message.expired",
        {
            **_delivery(queue_id, sender, recipient, relay, delay, delays),
            "dsn": response.enhanced or "4.4.7",  # RFC 3463: delivery time expired
            "status": "expired",
            "attempt": attempt,
            "reason": reason,
            "file": file,
            "response": str(response),
        },
    )


def message_suppressed(*, queue_id: str, sender: str, recipient: str, reason: str) -> None:
    """Not sent because `[guard]` says so, and kept; `reason` is the guard's rule."""
    log.emit(
        "info",
        "message.suppressed",
        {
            "queue_id": queue_id,
            "from": _address(sender),
            "to": _address(recipient),
            "status": "suppressed",
            "reason": reason,
        },
    )


def pickup_refused(*, file: str, owner: str, reason: str, hint: str) -> None:
    """A file in a pickup folder is not taken, and stays. `hint` tells its owner what to do."""
    log.emit("warning", "pickup.refused", {"file": file, "owner": owner, "reason": reason, "hint": hint})


def route_down(*, account: str, response: Response, attempt: int, next_attempt: float) -> None:
    """The way to the smarthost is closed; every message waits. In full once, then "same as last" at info."""
    again = _repeats.again("route.down", account, f"{response.stage} {response.code} {response.enhanced} {response}")
    log.emit(
        "info" if again else "warning",
        "route.down",
        {
            "account": account,
            "attempt": attempt,
            "next_attempt": _time(next_attempt),
            "reason": SAME_AS_LAST if again else str(response.stage),
            "response": None if again else str(response),
        },
    )


def route_up(*, account: str, relay: str, outage: float | None) -> None:
    """The smarthost let us in. `outage`: for how many seconds it had not; None: nothing was wrong before."""
    _repeats.over("route.down", account)
    log.emit("info" if outage is None else "notice", "route.up", {"account": account, "relay": relay, "outage": outage})


def queue_changed(*, verb: str, queue_id: str, by: str, reason: str | None = None) -> None:
    """A person did something to one message: hold, release, retry, fail, delete."""
    log.emit("info", "queue.changed", {"queue_id": queue_id, "verb": verb, "by": by, "reason": reason})


def queue_trouble(*, doing: str, reason: str, queue_id: str | None = None) -> None:
    """A message in the queue could not be handled right now and steps aside; `doing` says what was tried."""
    log.emit("warning", "queue.trouble", {"queue_id": queue_id, "doing": doing, "reason": reason})


def spool_full(*, free: int, min_free: int, full: bool) -> None:
    """`[spool] min_free` (bytes) is no longer there, so nothing is taken; or (full=False) there is room again."""
    log.emit(
        "warning" if full else "notice", "spool.full" if full else "spool.room", {"free": free, "min_free": min_free}
    )


def smtp_protocol(*, relay: str, direction: str, text: str) -> None:
    """What was said (>) or heard (<) after the login, for [log] protocol_debug: never a password, never a body."""
    log.emit("info", "smtp.protocol", {"relay": relay, "direction": direction, "text": text})


def config_loaded(*, file: str, sha256: str, by: str, changed: Sequence[str]) -> None:
    """A configuration is in force. `by`: start, signal, or who asked; `changed` holds keys, never values."""
    log.emit("info", "config.loaded", {"file": file, "sha256": sha256, "by": by, "changed": list(changed)})


def config_rejected(*, file: str, reason: str, by: str) -> None:
    """A configuration is wrong; the one before stays in force."""
    log.emit("error", "config.rejected", {"file": file, "by": by, "reason": reason})


def daemon_ready(*, waiting: int, outbound: str, spool: str) -> None:
    """Start is over. `waiting` counts queued messages; `outbound` is the account's name, or "disabled"."""
    log.emit("info", "daemon.ready", {"outbound": outbound, "waiting": waiting, "spool": spool})


def daemon_stopping(*, reason: str) -> None:
    """The daemon finishes what is under way and ends."""
    log.emit("info", "daemon.stopping", {"reason": reason})


def daemon_silent(*, loop: str, overdue: float) -> None:
    """A loop broke its promise to show up: systemd is told nothing more and will restart the daemon."""
    log.emit("error", "daemon.silent", {"loop": loop, "overdue": overdue})


def daemon_bug(*, where: str, error: BaseException, queue_id: str | None = None, file: str | None = None) -> None:
    """Something the code did not expect, with its traceback. The rest goes on."""
    log.emit_error("daemon.bug", {"queue_id": queue_id, "where": where, "file": file, "reason": repr(error)}, error)


def _delivery(
    queue_id: str, sender: str, recipient: str | None, relay: str, delay: float, delays: str
) -> dict[str, log.Value]:
    return {
        "queue_id": queue_id,
        "from": _address(sender),
        "to": None if recipient is None else _address(recipient),
        "relay": relay or "none",  # Postfix's word for: nobody was asked
        "delay": delay,
        "delays": delays or None,
    }


def _address(address: str) -> str:
    return f"<{address}>"


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
