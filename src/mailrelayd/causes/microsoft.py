"""Exchange Online and Microsoft Entra.

Sources: learn.microsoft.com "Microsoft Entra authentication and authorization error codes", "Authenticate an IMAP, POP
or SMTP connection using OAuth", "Fix issues with printers, scanners, and LOB applications that send email using
Microsoft 365", "Enable or disable authenticated client SMTP submission (SMTP AUTH)", and what people met in the threads
of email-oauth2-proxy (271, 275), MailKit (1126, 1494, 1770) and getmail6 (214).
"""

from __future__ import annotations

from typing import Final

from mailrelayd.causes.rules import Rule, rule

_LOGIN: Final = ("auth", "login")
_SENDING: Final = ("mail", "rcpt", "data", "body")


def _entra(numbers: str, text: str, cure: str, setting: str = "") -> Rule:
    """AADSTS`numbers`, separated by |. They stand in the text, behind an error of RFC 6749."""
    return rule(rf"AADSTS({numbers})\b", text, cure, setting)


_SMTP: Final[tuple[Rule, ...]] = (
    rule(
        r"5\.7\.139.*(disabled for the tenant)|SmtpClientAuthentication is disabled for the Tenant",
        "SMTP AUTH is switched off for the whole tenant",
        "in Exchange Online PowerShell: `Set-CASMailbox -Identity MAILBOX -SmtpClientAuthenticationDisabled $false`; "
        "the mailbox's own setting wins over the tenant's",
        on="smtp",
    ),
    rule(
        r"5\.7\.139.*disabled for the mailbox|SmtpClientAuthentication is disabled for the Mailbox",
        "SMTP AUTH is switched off for this mailbox",
        "in Exchange Online PowerShell: `Set-CASMailbox -Identity MAILBOX -SmtpClientAuthenticationDisabled $false`",
        on="smtp",
    ),
    rule(
        r"5\.7\.139.*security defaults",
        "the tenant's security defaults forbid logging in to SMTP with a password",
        'log in with OAuth2 (auth = "oauth2"), or have Conditional Access take the place of security defaults',
        "auth",
        on="smtp",
    ),
    rule(
        r"5\.7\.139.*(basic authentication is disabled|did not meet the criteria)|\b5\.7\.30\b"
        r"|basic authentication is not supported",
        "Exchange Online takes no password for SMTP here any more",
        'log in with OAuth2: auth = "oauth2" and a section [{account}.oauth]; docs/oauth.md has the steps',
        "auth",
        on="smtp",
    ),
    rule(
        r"5\.7\.139.*(credentials were incorrect|incorrect user)",
        "user or password is wrong",
        "correct {account}.user and {account}.password",
        "password",
        on="smtp",
        token=False,
    ),
    rule(
        r"\b5\.7\.139\b",
        "a rule of the tenant forbids this login: SMTP AUTH is off for the mailbox, or security defaults or "
        "Conditional Access are in the way",
        "in Exchange Online PowerShell: `Set-CASMailbox -Identity MAILBOX -SmtpClientAuthenticationDisabled $false`; "
        "then look at the sign-in log in the Entra admin centre",
        on="smtp",
    ),
    rule(
        r"\b5\.7\.3\b.*authentication unsuccessful|authentication unsuccessful.*(outlook|microsoft)",
        "Exchange does not know this application, or the token is somebody else's: mostly New-ServicePrincipal was "
        "given the Object ID of the app registration, or SMTP.SendAsApp was not consented to",
        "register it with the Object ID of the enterprise application: `mailrelayd authorize {account}` prints how; "
        "for a person's token, compare user with who authorised",
        "user",
        on="smtp",
        at=_LOGIN,
        provider="microsoft",
    ),
    rule(
        r"STOREDRV.*(logon failure|MapiExceptionLogonFailed)|MapiExceptionLogonFailed|mailbox logon failure",
        "the application may log in, and it may not open this mailbox",
        "in Exchange Online PowerShell: `Add-MailboxPermission -Identity MAILBOX -User SERVICE_PRINCIPAL_ID "
        "-AccessRights FullAccess`; it takes up to an hour to work",
        "user",
        on="smtp",
    ),
    rule(
        r"\b5\.7\.60\b|SendAsDenied|\b5\.2\.252\b|permissions to send as this sender",
        "the login is fine, and this mailbox or application may not send as that address",
        "set {account}.from_address to the mailbox's own address, or in Exchange Online PowerShell: "
        "`Add-RecipientPermission -Identity SENDER -Trustee MAILBOX_OR_SERVICE_PRINCIPAL_ID -AccessRights SendAs`",
        "from_address",
        on="smtp",
    ),
    rule(
        r"\b5\.7\.57\b|client (was )?not authenticated to send",
        "Exchange Online wants a login before it takes mail",
        'set auth, user and [{account}.oauth], and security = "starttls" with port 587',
        "auth",
        on="smtp",
    ),
    rule(
        r"\b5\.7\.64\b|TenantAttribution",
        "Exchange Online takes this host for no connector of the tenant",
        "have the inbound connector know this machine's address or certificate, or log in on port 587",
        "auth",
        on="smtp",
    ),
    rule(
        r"sender thread limit|concurrent connections limit|\b4\.3\.2\b.*STOREDRV",
        "Exchange Online takes only a few connections of one mailbox at a time",
        "set {account}.connections = 1, and end other programs that send as this mailbox",
        "connections",
        on="smtp",
    ),
    rule(
        r"\b5\.1\.8\b.*(bad outbound|access denied)|\b5\.1\.90\b|\b5\.2\.2\b.*submission quota",
        "Exchange Online has blocked this sender, because it sent too much or what looked like spam",
        "have it released under Restricted entities in the Microsoft Defender portal, and set [guard] rate",
        on="smtp",
    ),
)
_IMAP: Final[tuple[Rule, ...]] = (
    rule(
        r"authenticated but not connected",
        "the token is good, and it opens no mailbox: the application has no right to it, or user names another one",
        "in Exchange Online PowerShell: `Add-MailboxPermission -Identity MAILBOX -User SERVICE_PRINCIPAL_ID "
        "-AccessRights FullAccess` (it takes up to an hour to work); and compare user with the mailbox's address",
        "user",
        on="imap",
    ),
    rule(
        r"AUTHENTICATE failed|AuthFailed|ClientAccessRule|SMTPCLIENTAUTH",
        "Exchange does not take this token: IMAP.AccessAsApp was not consented to, New-ServicePrincipal was given "
        "another Object ID than the enterprise application's, or IMAP is off for the mailbox",
        "`mailrelayd authorize {account}` shows what is in the token, and prints the commands that mend each of these",
        "oauth.scopes",
        on="imap",
        at=_LOGIN,
        provider="microsoft",
    ),
    rule(
        r"BasicAuthBlocked|basic auth(entication)? is (disabled|blocked)|LOGIN failed\.?$",
        "user or password is wrong; and Exchange Online takes no password at all for IMAP",
        'if this is Exchange Online, log in with OAuth2: auth = "oauth2" and a section [{account}.oauth]',
        "auth",
        on="imap",
        at=_LOGIN,
        token=False,
    ),
)
_ENTRA: Final[tuple[Rule, ...]] = (
    _entra(
        "7000215|70002",
        "the client secret is wrong: often it is the secret's ID, and not its Value",
        "write the Value that Certificates & secrets showed once, when the secret was made",
        "oauth.client_secret",
    ),
    _entra(
        "7000222",
        "the client secret has expired",
        "make a new one under Certificates & secrets, write it and oauth.client_secret_expires, then reload "
        "(a credential: takes a restart)",
        "oauth.client_secret",
    ),
    _entra(
        "700016|700011|70001|7000112",
        "this tenant has no application of this id, or it is disabled",
        "write the Application (client) ID of the app registration, and the Directory (tenant) ID from the same page",
        "oauth.client_id",
    ),
    _entra(
        "90002|90023|50059|900023|90019|50128|500208",
        "there is no such tenant in this cloud",
        "write the Directory (tenant) ID; of a national cloud, its oauth.authority too",
        "oauth.tenant_id",
    ),
    _entra(
        "90038|90051|900432|900382",
        "the tenant is in another cloud",
        "set oauth.authority to its own: https://login.microsoftonline.us or https://login.partner.microsoftonline.cn",
        "oauth.authority",
    ),
    _entra(
        "65001|65004|90094|90095|650056|90008",
        "nobody has consented to what this application asks for",
        "have an administrator press Grant admin consent under API permissions, then authorise again",
    ),
    _entra(
        "500011|650052|650057|65005|50001",
        "the tenant has no such resource, or the application has no permission of Office 365 Exchange Online",
        "add SMTP.SendAsApp and IMAP.AccessAsApp (or SMTP.Send and IMAP.AccessAsUser.All) under API permissions, "
        "and leave oauth.scopes out",
        "oauth.scopes",
    ),
    _entra(
        "50076|50079|50072|50074|50078|53004|50158",
        "the tenant wants a second factor from this user",
        "authorise again in a browser, or use app-only tokens, which have no user",
        "oauth.flow",
    ),
    _entra(
        "50105",
        "this user is not assigned to the application",
        "assign the user under Enterprise applications > Users and groups, or switch Assignment required off",
    ),
    _entra(
        "53003|53000|53001|53002|530032|50131|50005|50097",
        "Conditional Access forbids it",
        "have the policy named in the Entra sign-in log except this application or user; the device flow is mostly "
        "blocked, app-only tokens mostly are not",
        "oauth.flow",
    ),
    _entra(
        "530035",
        "security defaults forbid it",
        'use flow = "client-credentials" or "authorization-code"',
        "oauth.flow",
    ),
    _entra(
        "70011|28002|28003|700022|700023|1002012",
        "the scopes are not what this flow takes",
        "leave oauth.scopes out; app-only tokens want exactly https://outlook.office365.com/.default",
        "oauth.scopes",
    ),
    _entra(
        "700082|70008|70043|700084|50089",
        "the authorisation has expired: unused for 90 days, or older than the tenant allows",
        "authorise anew: `mailrelayd authorize {account}`",
    ),
    _entra(
        "50173|50132|50133|70000|54005|50196",
        "the authorisation was withdrawn: a new password, a revoked session",
        "authorise anew: `mailrelayd authorize {account}`",
    ),
    _entra(
        "900144|90014|900561",
        "the request misses something, mostly because the flow does not fit the application",
        "compare oauth.flow with what was registered; a name in the message says what is missing",
        "oauth.flow",
    ),
    _entra(
        "7000218",
        "this application must prove itself, because public client flows are off",
        "switch Allow public client flows on under Authentication, or write oauth.client_secret",
        "oauth.client_secret",
    ),
    _entra(
        "700025",
        "this application is a public client, and must not show a secret",
        "remove oauth.client_secret",
        "oauth.client_secret",
    ),
    _entra(
        "700027|50012|700030|50013|500133|700024|50027",
        "the certificate's signature is not accepted: another certificate is registered, it has expired, or this "
        "machine's clock is wrong",
        "upload this very certificate under Certificates & secrets, and look at the clock (timedatectl)",
        "oauth.client_certificate",
    ),
    _entra(
        "50011|500113|900971|70004",
        "the address that the browser comes back to is not registered",
        "under Authentication add the platform Mobile and desktop applications with http://localhost",
        "oauth.client_id",
    ),
    _entra(
        "50194|9001023|90124|90130|9002332",
        "the application is for one tenant or one kind of account only",
        "write the Directory (tenant) ID as oauth.tenant_id, not common or consumers",
        "oauth.tenant_id",
    ),
    _entra(
        "50034|50020|51004|16000|90072|50014",
        "whoever signed in does not belong to this tenant",
        "sign in as the mailbox's user, and compare oauth.tenant_id",
        "oauth.tenant_id",
    ),
    _entra(
        "50053|50055|50057|50126|50144|53011",
        "the user's account is locked or disabled, or the password is wrong or expired",
        "have an administrator look at the user; then authorise again",
        "user",
    ),
    _entra(
        "70016",
        "nobody has entered the code yet",
        "enter it in the browser",
    ),
    _entra(
        "70018|70019|70020|90119|90120",
        "nobody entered the right code in time, or it was declined",
        "run `mailrelayd authorize {account}` again",
    ),
    _entra(
        "50033|50087|50088|90006|90012|90024|90033|90055|90090|90091|70012|50166",
        "Microsoft's sign-in service is busy or down",
        "nothing here needs a change: it is tried again",
    ),
)
RULES: Final = _SMTP + _IMAP + _ENTRA
