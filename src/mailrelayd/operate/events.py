"""One way to log an event: a function per event. docs/log.md is this vocabulary, for those who read the log.

Names and keys are a promise: programs search for them. Keys keep their order: who, where, how long, what became
of it, why, and the server's words last because they are long. Times of duration are seconds; `next_attempt` is
given as seconds since the epoch and shown as a UTC time. `reason` is a short stable word or phrase; the text
of a server or an exception belongs into `response`.

What happens to mail is told twice where [log] syslog is set: as Postfix would word it (`maillog`), to the system log.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from mailrelayd.operate import log, maillog, syslog
from mailrelayd.outbound.values import Response, Stage

SAME_AS_LAST = "same as last"

together = log.together

_repeats = log.Repeats()


def message_queued(
    *,
    queue_id: str,
    sender: str,
    nrcpt: int,
    size: int,
    file: str,
    uid: int | None,
    rule: str,
    producer: str | None = None,
    about: str | None = None,
) -> None:
    """A message was taken over: from here on it is ours. `rule` names what its envelope was read from.

    `producer` is the NAME of [pickup.NAME], or "submit"; `about` the message whose failure this one, our own, reports.
    """
    log.emit(
        "info",
        "message.queued",
        {
            "queue_id": queue_id,
            "from": _address(sender),
            "nrcpt": nrcpt,
            "size": size,
            "file": file or None,
            "producer": producer or None,
            "uid": uid,
            "rule": rule,
            "about": about or None,
        },
    )
    if about:
        syslog.write(maillog.reported, queue_id, about)
    else:
        syslog.write(maillog.received, queue_id, sender, uid)


def message_duplicate(*, queue_id: str, file: str, uid: int | None, producer: str | None = None) -> None:
    """A message was handed in again under its idempotency key; `queue_id` took it the first time."""
    log.emit(
        "info",
        "message.duplicate",
        {"queue_id": queue_id, "file": file or None, "producer": producer or None, "uid": uid},
    )


def message_active(*, queue_id: str, sender: str, size: int, nrcpt: int) -> None:
    """The relay begins with a message; `nrcpt` recipients are owed."""
    if log.is_wanted("debug", "message.active"):
        log.emit(
            "debug",
            "message.active",
            {"queue_id": queue_id, "from": _address(sender), "nrcpt": nrcpt, "size": size},
        )
    syslog.write(maillog.active, queue_id, sender, size, nrcpt)


def message_removed(*, queue_id: str) -> None:
    """A message has left the queue: sent to everybody, given up, or deleted."""
    if log.is_wanted("debug", "message.removed"):
        log.emit("debug", "message.removed", {"queue_id": queue_id})
    syslog.write(maillog.removed, queue_id)


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
    dsn = response.enhanced or "2.0.0"
    log.emit(
        "info",
        "message.sent",
        {
            **_delivery(queue_id, sender, recipient, relay, delay, delays),
            "dsn": dsn,
            "status": "sent",
            "attempt": attempt,
            "response": str(response),
        },
    )
    syslog.write(_outcome, "sent", queue_id, recipient, relay, delay, delays, dsn, response)


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
    dsn = response.enhanced or "4.0.0"
    log.emit(
        "info",
        "message.deferred",
        {
            **_delivery(queue_id, sender, recipient, relay, delay, delays),
            "dsn": dsn,
            "status": "deferred",
            "attempt": attempt,
            "next_attempt": _time(next_attempt),
            "reason": reason,
            "ambiguous": True if ambiguous else None,
            "response": str(response),
        },
    )
    syslog.write(_outcome, "deferred", queue_id, recipient, relay, delay, delays, dsn, response)


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
    dsn = response.enhanced or "5.0.0"
    log.emit(
        "warning",
        "message.failed",
        {
            **_delivery(queue_id, sender, recipient, relay, delay, delays),
            "dsn": dsn,
            "status": "failed",
            "attempt": attempt,
            "reason": reason,
            "file": file,
            "response": str(response),
        },
    )
    syslog.write(_outcome, "bounced", queue_id, recipient, relay, delay, delays, dsn, response, file)


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
    dsn = response.enhanced or "4.4.7"  # RFC 3463: delivery time expired
    log.emit(
        "warning",
        "message.expired",
        {
            **_delivery(queue_id, sender, recipient, relay, delay, delays),
            "dsn": dsn,
            "status": "expired",
            "attempt": attempt,
            "reason": reason,
            "file": file,
            "response": str(response),
        },
    )
    syslog.write(_outcome, "expired", queue_id, recipient, relay, delay, delays, dsn, response, file)


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
    syslog.write(maillog.suppressed, queue_id, sender, recipient, reason)


def pickup_refused(*, file: str, owner: str, reason: str, hint: str) -> None:
    """A file in a pickup folder is not taken, and stays. `hint` tells its owner what to do."""
    log.emit("warning", "pickup.refused", {"file": file, "owner": owner, "reason": reason, "hint": hint})
    syslog.write(maillog.not_taken, file, reason, hint)


def submit_refused(*, uid: int | None, reason: str, hint: str) -> None:
    """Nothing was taken from a caller of `submit` or `sendmail`, who was told the same and keeps the message."""
    log.emit("warning", "submit.refused", {"uid": uid, "reason": reason, "hint": hint or None})
    syslog.write(maillog.refused, uid, reason)


def guard_waiting(*, rate: str, seconds: float) -> None:
    """[guard] rate is used up: the next message goes out in so many seconds. Once per time of waiting."""
    log.emit("notice", "guard.waiting", {"rate": rate, "seconds": seconds})


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
    if not again:
        syslog.write(maillog.held, account, response)


def route_up(*, account: str, relay: str, outage: float | None) -> None:
    """The smarthost let us in. `outage`: for how many seconds it had not; None: nothing was wrong before."""
    _repeats.over("route.down", account)
    log.emit("info" if outage is None else "notice", "route.up", {"account": account, "relay": relay, "outage": outage})


def route_narrow(*, account: str, relay: str, reason: str, seconds: float | None = None) -> None:
    """Bodies go to the smarthost one at a time although `window` is larger; `seconds`: for so long, None: from now on.

    Said once per reason.
    """
    keys = {"account": account, "relay": relay, "seconds": seconds, "reason": reason}
    log.emit("notice", "route.narrow", keys)


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


def syslog_trouble(path: str, reason: str, lost: int) -> None:
    """The system log cannot be written to; or (`reason` "") it can again, and `lost` lines are missing there."""
    if reason:
        log.emit("warning", "syslog.down", {"path": path, "reason": reason})
    else:
        log.emit("notice", "syslog.up", {"path": path, "lost": lost})


def smtp_protocol(*, relay: str, direction: str, text: str) -> None:
    """What was said (>) or heard (<) after the login, for [log] protocol_debug: never a password, never a body."""
    log.emit("info", "smtp.protocol", {"relay": relay, "direction": direction, "text": text})


def config_loaded(*, file: str, sha256: str, by: str, changed: Sequence[str]) -> None:
    """A configuration is in force. `by`: start, signal, or who asked; `changed` holds keys, never values."""
    log.emit("info", "config.loaded", {"file": file, "sha256": sha256, "by": by, "changed": list(changed)})


def config_rejected(*, file: str, reason: str, by: str) -> None:
    """A configuration is wrong; the one before stays in force."""
    log.emit("error", "config.rejected", {"file": file, "by": by, "reason": reason})


def secret_expiring(*, account: str, expires: str, days: int) -> None:
    """A client secret's last day is near, or (days <= 0) over; said 30, 7 and 1 days before, and then."""
    log.emit("warning", "secret.expiring", {"account": account, "expires": expires, "days": days})


def alerts_ping(*, reason: str) -> None:
    """[alerts] ping_url was called and did not answer with 2xx; or (`reason` "") it did, and is said after trouble."""
    if reason:
        again = _repeats.again("alerts.ping", "", reason)
        log.emit("debug" if again else "notice", "alerts.ping", {"status": "failed", "reason": reason})
    elif _repeats.over("alerts.ping", ""):
        log.emit("notice", "alerts.ping", {"status": "ok"})


def daemon_ready(*, waiting: int, outbound: str, spool: str, loop: str) -> None:
    """Start is over. `waiting` counts queued messages; `outbound` is the account's name, or "disabled".

    `loop` is the event loop that everything runs on: asyncio or uvloop.
    """
    log.emit("info", "daemon.ready", {"outbound": outbound, "waiting": waiting, "spool": spool, "loop": loop})


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


def _outcome(
    status: maillog.Status,
    queue_id: str,
    recipient: str | None,
    relay: str,
    delay: float,
    delays: str,
    dsn: str,
    response: Response,
    file: str | None = None,
) -> maillog.Line:
    if recipient is None:
        return maillog.unreadable(queue_id, file or "", response)
    return maillog.delivery(
        status,
        queue_id=queue_id,
        recipient=recipient,
        relay=relay or "none",
        delay=delay,
        delays=delays or "0/0/0/0",
        dsn=dsn,
        response=response,
    )


def _address(address: str) -> str:
    return f"<{address}>"


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
