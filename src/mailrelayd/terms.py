"""What the configuration means for each part of the program: settings in, the parts' own words out."""

from __future__ import annotations

from mailrelayd.alerts import bell
from mailrelayd.clock import Clock
from mailrelayd.config.relaying import OutboundAccount
from mailrelayd.config.settings import Settings
from mailrelayd.outbound import intake, local, relay, smtp
from mailrelayd.outbound.asking import Asking
from mailrelayd.outbound.delivery import Policy
from mailrelayd.outbound.envelope import Producer
from mailrelayd.outbound.examine import Rules
from mailrelayd.outbound.guard import Guard
from mailrelayd.outbound.postmaster import Postmaster
from mailrelayd.outbound.results import Results
from mailrelayd.outbound.spool import Spool
from mailrelayd.outbound.stored import Reading


def reading_of(settings: Settings) -> Reading:
    """How a header tells its envelope."""
    account, rule = settings.account, settings.spool.envelope
    named = tuple(Producer(name, folder.envelope, folder.allowed_senders) for name, folder in settings.pickup.items())
    if account is None:
        return Reading(rule, named=named)
    return Reading(rule, account.from_address, account.rewrite_from, named)


def rules_of(settings: Settings) -> Rules:
    """How the pickup judges files."""
    spool = settings.spool
    return Rules(
        reading_of(settings),
        settle=spool.settle,
        max_message_size=spool.max_message_size,
        min_free=spool.min_free,
        results=spool.results,
        approvals=settings.asking is not None,
    )


def blocks_of(settings: Settings) -> frozenset[str]:
    """The producers in whose folders an X-Sender/X-Receiver block is the envelope."""
    return frozenset(name for name, folder in settings.pickup.items() if folder.envelope == "pickup")


def guard_of(settings: Settings) -> Guard:
    """Who may be sent to."""
    guard = settings.guard
    return Guard(guard.redirect_to, guard.allow_recipients, guard.deny_recipients, guard.dry_run)


def intake_of(settings: Settings) -> intake.Terms:
    """What may be handed in through submit.sock."""
    submit, spool = settings.submit, settings.spool
    site = local.site(submit.default_domain, submit.local_recipient)
    return intake.Terms(site, spool.max_message_size, spool.min_free, settings.guard.producer_rate)


def relay_of(settings: Settings, account: OutboundAccount, node: str) -> relay.Terms:
    """How mail is sent."""
    return relay.Terms(
        node=node,
        own_address=account.from_address,
        reading=reading_of(settings),
        policy=Policy(settings.retry.message, settings.retry.expire, settings.spool.settle),
        max_recipients=settings.spool.max_recipients,
        strict_order=account.strict_order,
        slowest=account.data_timeout + account.command_timeout + smtp.BODY_STALL,
        blocks=blocks_of(settings),
        guard=guard_of(settings),
        rate=settings.guard.rate,
        asking=asking_of(settings, node),
    )


def asking_of(settings: Settings, node: str) -> Asking | None:
    """How copies of requests differ from the message they are copies of."""
    approvals = settings.asking
    if approvals is None:
        return None
    return Asking(
        node=node,
        reply_address=settings.reply_address,
        separator=approvals.subaddress_separator,
        subaddressing=approvals.subaddressing,
        subject_tag=approvals.subject_tag,
        mark_body=approvals.mark_body,
    )


def postmaster_of(settings: Settings, spool: Spool, node: str, clock: Clock) -> Postmaster:
    """Who tells senders of failures."""
    return Postmaster(
        spool,
        clock,
        enabled=settings.retry.dsn,
        node=node,
        from_address=settings.account.from_address if settings.account else "",
        reading=reading_of(settings),
        blocks=blocks_of(settings),
    )


def alerts_of(settings: Settings, node: str) -> bell.Terms:
    """Who is alerted, and which secrets end when."""
    account = settings.account
    expiring = {  # an inherited secret is one secret: the account that writes it comes first
        (one.oauth.client_secret, one.oauth.client_secret_expires): one.name
        for one in reversed(settings.accounts)
        if one.auth == "oauth2" and one.oauth is not None and one.oauth.client_secret_expires is not None
    }
    return bell.Terms(
        node,
        settings.alerts.to if account is not None else "",  # it would wait, one an hour, for an account to come
        settings.alerts.ping_url,
        account.from_address if account is not None else "",
        (*(one.name for one in settings.accounts), settings.log.syslog),
        tuple((name, day) for (_, day), name in expiring.items() if day is not None),
    )


def apply_to(spool: Spool, settings: Settings) -> None:
    """What the spool itself needs to know."""
    spool.set_reading(reading_of(settings))
    spool.keep_sent = settings.spool.keep_sent
    spool.strict_order = settings.account is not None and settings.account.strict_order
    # Another one each time: producers' folders may have other groups now, and it follows when it opens its own.
    spool.results = Results(settings.spool.directory) if settings.spool.results else None
