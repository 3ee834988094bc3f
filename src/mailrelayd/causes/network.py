"""DNS, TCP, TLS, and ports that speak something else: mostly our own words, from `dial`, `tls` and the two clients."""

from __future__ import annotations

from typing import Final

from mailrelayd.causes.rules import Rule, rule

_MAIL: Final = "smtp imap"

RULES: Final[tuple[Rule, ...]] = (
    # -- DNS
    rule(
        r"cannot be resolved: .*(temporary failure|try again)|was not resolved within",
        "DNS does not answer",
        "look at the name servers in /etc/resolv.conf and at the network; if others' names resolve, correct the host",
        "host",
        on=_MAIL,
    ),
    rule(
        r"cannot be resolved",
        "DNS knows no such host",
        "correct the host's name, or enter it in DNS",
        "host",
        on=_MAIL,
    ),
    rule(
        r"cannot be resolved|name or service not known|name resolution|nodename nor servname|was not resolved within",
        "the provider's host name leads to no address",
        "correct oauth.authority or oauth.token_url, or let this machine ask a DNS server that knows the name",
        "oauth.authority",
        on="oauth",
    ),
    # -- TCP
    rule(
        r"connection refused",
        "nothing listens on this port, or a firewall refuses it",
        "correct host and port (usual: {tls} with TLS, {starttls} with STARTTLS), or start the server there",
        "port",
        on=_MAIL,
    ),
    rule(
        r"no answer in time|connection timed out|network is unreachable|no route to host|host is (down|unreachable)",
        "the network leads nowhere: mostly a firewall drops what goes to this port",
        "let this machine connect to this host and port, or correct them",
        "port",
        on=_MAIL,
    ),
    rule(
        r"permission denied|operation not permitted",
        "this machine itself forbids the connection",
        "look at its firewall, and at IPAddressDeny= and RestrictAddressFamilies= of the systemd unit",
        on=_MAIL,
        at=("connect",),
    ),
    rule(
        r"connection refused|connect(ion)? timed? ?out|does not answer within|unreachable|no route to host"
        r"|connection attempts failed|cannot be asked|another process has been asking",
        "the provider's token server cannot be reached",
        "let this machine connect to it with https, or correct oauth.authority or oauth.token_url",
        "oauth.authority",
        on="oauth",
    ),
    # -- a port that speaks something else
    rule(
        r"this port speaks plain text|port that speaks plain text keeps silent",
        "TLS is asked for, and this port speaks plain text",
        'set security = "starttls", or the port for TLS ({tls})',
        "security",
        on=_MAIL,
    ),
    rule(
        r"expects TLS from the first byte",
        "this port keeps silent, as one does that expects TLS from the first byte",
        'set security = "tls", or the port for STARTTLS ({starttls})',
        "security",
        on=_MAIL,
    ),
    rule(
        r"\* (OK|PREAUTH|BYE) |IMAP4",
        "an IMAP server answers here, and this is the account that sends",
        "set host and port of the SMTP server (usual: {tls} with TLS, {starttls} with STARTTLS)",
        "port",
        on="smtp",
        at=("connect", "greeting", "ehlo"),
    ),
    rule(
        r"\b220[ -].*(SMTP|ESMTP|mail)|no greeting: 220[ -]",
        "an SMTP server answers here, and this is the account that reads",
        "set host and port of the IMAP server (usual: {tls} with TLS, {starttls} with STARTTLS)",
        "port",
        on="imap",
        at=("connect", "greeting", "capability"),
    ),
    rule(
        r"\+OK",
        "a POP3 server answers here",
        "set the port of the right service (usual: {tls} with TLS, {starttls} with STARTTLS)",
        "port",
        on=_MAIL,
        at=("connect", "greeting", "ehlo", "capability"),
    ),
    rule(
        r"HTTP/\d|SSH-\d|<html",
        "this port belongs to another service than mail",
        "correct host and port (usual: {tls} with TLS, {starttls} with STARTTLS)",
        "port",
        on=_MAIL,
        at=("connect", "tls", "greeting", "ehlo", "capability"),
    ),
    rule(
        r"offers no STARTTLS",
        "the server cannot change to TLS on this port",
        'set security = "tls" if it has a port for TLS ({tls}), or have STARTTLS switched on there',
        "security",
        on=_MAIL,
        said=True,
    ),
    # -- TLS
    rule(
        r"certificate has expired|certificate verify failed: certificate has expired",
        "the server's certificate has expired",
        "have it renewed there; until then only its fingerprint in tls.fingerprint would let it pass",
        "tls.fingerprint",
        on=_MAIL,
    ),
    rule(
        r"not valid yet",
        "the server's certificate is not valid yet",
        "look at this machine's clock (timedatectl), then have the certificate looked at there",
    ),
    rule(
        r"certificate.*has expired",
        "the token server's certificate has expired",
        "have it renewed there, and look at this machine's clock (timedatectl)",
        on="oauth",
    ),
    rule(
        r"hostname mismatch|doesn't match|is not valid for|ip address mismatch",
        "the server's certificate is made out to another name than the host we ask for",
        "set host to a name in the certificate, or tls.server_name if the host must stay as it is",
        "tls.server_name",
        on=_MAIL,
    ),
    rule(
        r"self-signed|private CA|unknown CA|unable to get (local )?issuer|unable to verify the first",
        "the server's certificate comes from a CA that this machine does not know",
        "give the CA's file in tls.ca_file, or the certificate's fingerprint in tls.fingerprint",
        "tls.ca_file",
        on=_MAIL,
    ),
    rule(
        r"certificate was refused|certificate verify failed|CERTIFICATE_VERIFY_FAILED|self-signed|issuer certificate",
        "the token server's certificate is not one that this machine accepts",
        "update this machine's CA certificates (update-ca-certificates) and look at its clock; "
        "a proxy that opens TLS needs its CA there too",
        on="oauth",
    ),
    rule(
        r"certificate has been revoked",
        "the server's certificate has been revoked",
        "have another one put in place there",
        on=_MAIL,
    ),
    rule(
        r"not the pinned one",
        "the server shows another certificate than the one in tls.fingerprint",
        "if it was renewed, write the new fingerprint; if not, somebody stands between",
        "tls.fingerprint",
        on=_MAIL,
    ),
    rule(
        r"no TLS version or cipher in common",
        "this server and we take no TLS version in common",
        "have TLS 1.2 switched on there; tls.minimum and tls.maximum say what we take",
        "tls.minimum",
        on=_MAIL,
    ),
    rule(
        r"does not accept our certificate|certificate required",
        "the server wants a client certificate, or another one",
        "set tls.certificate and tls.key to the one it was told of",
        "tls.certificate",
        on=_MAIL,
    ),
    rule(
        r"less than \w+ is refused, this server has offered it before|tls\.json",
        "the server offers less security than before, or what we remember of it cannot be read",
        "find out why; `mailrelayd doctor --forget-tls` accepts what it offers now",
        "security",
        on=_MAIL,
    ),
    rule(
        r"no TLS handshake within|TLS handshake failed",
        "the server or something on the way to it ends the TLS handshake",
        "look whether this port speaks TLS at all, and whether tls.minimum and tls.maximum fit it",
        "security",
        on=_MAIL,
    ),
)
