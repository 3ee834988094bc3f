"""What SMTP and IMAP servers of any make answer: RFC 4954, RFC 5530 and RFC 7628, Postfix, Exim, Dovecot, Cyrus."""

from __future__ import annotations

from typing import Final

from mailrelayd.causes.rules import Rule, rule

_AUTH: Final = ("auth", "login")
_SENDER: Final = ("mail", "rcpt", "data", "body")

_LOGIN: Final[tuple[Rule, ...]] = (
    rule(
        r"password never travels in clear|password would travel in clear",
        "a password or token is to be sent, and the connection is not encrypted",
        'set security = "starttls" or "tls"',
        "security",
        said=True,
    ),
    rule(
        r"^53[08]|\b5\.7\.11\b|encryption required|must issue a STARTTLS|STARTTLS (command )?first|PRIVACYREQUIRED"
        r"|plaintext authentication (is )?disallowed|LOGINDISABLED",
        "the server takes logins only over TLS, or mail only after a login",
        'set security = "starttls" or "tls", and user and password',
        "security",
        at=(*_AUTH, "mail", "rcpt", "ehlo"),
    ),
    rule(
        # Postfix words a refused password so: "authentication failed: (reason unavailable)".
        r"^(454|432)\b.*(authenticat|4\.7\.0|4\.7\.12)|\b454 4\.7\.0|(?<!reason )UNAVAILABLE"
        r"|temporary authentication failure",
        "the server cannot check logins at the moment, because something behind it is down",
        "nothing here needs a change: it is tried again; if it lasts, tell whoever runs the server",
        at=_AUTH,
    ),
    rule(
        r"(server offers|the server offers) .*(for AUTH|for the login|AUTH=)",
        "the server and we have no way to log in in common",
        'look at auth ("password" or "oauth2"), at security (many servers offer logins only over TLS) and at the port '
        '(25 is often without); auth = "none" if the server knows this machine by its address',
        "auth",
        at=_AUTH,
    ),
    rule(
        r"^50[0234]\b.*(auth|mechanism|unrecognized|not (available|supported|enabled))|AUTH not (available|advertised)",
        "the server does not take this way to log in here",
        'look at the port (587 or 465 rather than 25) and at auth; "none" if the server knows us by our address',
        "auth",
        on="smtp",
        at=_AUTH,
    ),
    rule(
        r"^534|\b5\.7\.9\b",
        "the server finds this way to log in too weak",
        "ask its people which it wants: an application password, or OAuth2",
        "auth",
        on="smtp",
        at=_AUTH,
    ),
    rule(
        r"EXPIRED|password (has )?expired",
        "the password or the token has expired",
        "set a new password, or run `mailrelayd authorize`",
        "password",
        on="imap",
        at=_AUTH,
        token=False,
    ),
    rule(
        r"too many (simultaneous |concurrent )?connections|maximum number of connections|mail_max_userip|\bLIMIT\b",
        "this user has more connections open than the server allows",
        "end other programs that use the mailbox, or have the limit raised (Dovecot: mail_max_userip_connections)",
        on="imap",
    ),
    rule(
        r"insufficient[_ ]scope",
        "the token does not allow this: its scope or its audience is for something else",
        "leave oauth.scopes out or correct it, grant the permission to the application, and authorise anew: "
        "`mailrelayd authorize {account}`",
        "oauth.scopes",
        at=_AUTH,
        token=True,
    ),
    rule(
        r"invalid[_ ]token|token (is )?(expired|not (yet )?valid|revoked|inactive)|expired.*token",
        "the server takes the token for expired, revoked or made for another server",
        "authorise anew: `mailrelayd authorize {account}` shows what is in it and tries it",
        "oauth",
        at=_AUTH,
        token=True,
    ),
    rule(
        r"AUTHORIZATIONFAILED",
        "the login is right, and this user may not read that mailbox",
        "write the mailbox's own user, or have it opened to this one",
        "user",
        on="imap",
        at=_AUTH,
    ),
    rule(
        r"^535|\b5\.7\.8\b|AUTHENTICATIONFAILED|AUTHENTICATE failed|authentication (failed|unsuccessful)"
        r"|invalid credentials|login failed",
        "the server does not accept the token for this user: it is expired, another user's, or without the permission",
        "compare user with whom the token is for: `mailrelayd authorize {account}` shows it and tries it",
        "user",
        at=_AUTH,
        token=True,
    ),
    rule(
        r"^535|\b5\.7\.8\b|AUTHENTICATIONFAILED|authentication (failed|unsuccessful)|invalid credentials"
        r"|login failed|incorrect (authentication|password)|bad (user ?name or )?password",
        "user or password is wrong",
        "correct {account}.user and {account}.password, or have the account unlocked if it was tried too often",
        "password",
        at=_AUTH,
        token=False,
    ),
    rule(
        r"CONTACTADMIN|\[ALERT\]|^ALERT\b",
        "the server has something to say to this user, and it stands in its words",
        "do what they ask for, mostly in a browser, as this user",
        "user",
        on="imap",
        at=_AUTH,
    ),
)
_SENDING: Final[tuple[Rule, ...]] = (
    rule(
        r"not owned by user|not (allowed|permitted|authori[sz]ed) to send (as|from)|sender (address )?(is )?not allowed"
        r"|sender verify failed|must (match|be) .*(login|authenticated)|send as this sender|sender mismatch",
        "the login is fine, and this user may not send with that sender's address",
        "set {account}.from_address to an address of this user, or have the server's people allow it",
        "from_address",
        on="smtp",
        at=_SENDER,
    ),
    rule(
        r"sender address rejected: domain not found|domain of sender address .* does not (resolve|exist)|\b5\.1\.8\b",
        "the sender's domain is not in DNS",
        "set {account}.from_address to an address in a domain of yours that exists",
        "from_address",
        on="smtp",
        at=_SENDER,
    ),
    rule(
        r"sender address rejected|sender (denied|rejected|refused)|^5\d\d.*\b5\.[17]\.[0178]\b",
        "the server refuses the sender's address",
        "set {account}.from_address to an address that it takes mail from",
        "from_address",
        on="smtp",
        at=("mail",),
    ),
    rule(
        r"relay(ing)? (access )?(denied|not permitted)|relaying denied|unable to relay|not a relay",
        "the server does not take mail for other domains from us",
        "log in (auth, user, password), use the submission port 587 or 465, or have this machine's address allowed",
        "auth",
        on="smtp",
        at=_SENDER,
    ),
    rule(
        r"^(421|451|452|450)\b.*(too many|\brate\b|limit|concurrent|throttl)",
        "the server takes no more at this pace",
        "lower {account}.connections or set [guard] rate; it is tried again in any case",
        "connections",
        on="smtp",
    ),
    rule(
        r"block(ed|list)|black ?list|spamhaus|\bRBL\b|\bDNSBL\b|reputation",
        "the server refuses this machine's address",
        "look it up in the list that the answer names, or send through another smarthost",
        "host",
        on="smtp",
        at=("greeting", "ehlo", "mail", "rcpt"),
    ),
    rule(
        r"^(554|521|550)",
        "the server takes no mail from this machine",
        "ask its people to allow this machine's address, or set another host",
        "host",
        on="smtp",
        at=("greeting", "ehlo"),
    ),
    rule(
        r"^421\b|^4\d\d\b",
        "the server is busy, or goes down for a while",
        "nothing here needs a change: it is tried again",
        on="smtp",
        at=("greeting", "ehlo"),
    ),
    rule(
        r"no greeting within",
        "somebody takes the connection, and says nothing",
        "look whether host and port are right and whether the server is overloaded",
        "port",
        at=("greeting",),
    ),
)
_FOLDERS: Final[tuple[Rule, ...]] = (
    rule(
        r"there is no folder|NONEXISTENT|(mailbox|folder) (doesn't|does not) exist|TRYCREATE|no such mailbox",
        "there is no folder",
        "set folder to one of those that exist (`mailrelayd doctor` lists them), or create_folder = true",
        "folder",
        on="imap",
        at=("select", "list", "create", "move"),
    ),
    rule(
        r"NOPERM|permission denied|not allowed|\bACL\b",
        "this user may not open or change the folder",
        "have the right granted there, or set folder to one of the user's own",
        "folder",
        on="imap",
        at=("select", "create", "store", "expunge", "move"),
    ),
    rule(
        r"OVERQUOTA|over quota",
        "the mailbox is full",
        "remove mail from it, or have its quota raised",
        on="imap",
    ),
    rule(
        r"INUSE|\blocked\b",
        "somebody else holds the mailbox",
        "end other programs that read it; it is tried again",
        on="imap",
    ),
    rule(
        r"UNAVAILABLE|SERVERBUG|internal error",
        "something behind the IMAP server is down",
        "nothing here needs a change: it is tried again; if it lasts, tell whoever runs the server",
        on="imap",
    ),
    rule(
        r"PREAUTH",
        "the server logs in whoever connects, and nobody knows into whose mailbox",
        "set the port that asks for a login ({tls} with TLS, {starttls} with STARTTLS)",
        "port",
        on="imap",
        at=("greeting",),
    ),
)
RULES: Final = _LOGIN + _SENDING + _FOLDERS
