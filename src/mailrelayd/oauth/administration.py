"""What somebody has to do at the provider before a token can be had, with commands ready to copy. Pure.

Sources: learn.microsoft.com "Authenticate an IMAP, POP or SMTP connection using OAuth", New-ServicePrincipal,
Add-MailboxPermission, Add-RecipientPermission, Set-CASMailbox, "Redirect URI restrictions"; developers.google.com
"Using OAuth 2.0 for Server to Server Applications", "OAuth 2.0 for Mobile & Desktop Apps".
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from mailrelayd.oauth.providers import GOOGLE_MAIL

_ENTRA: Final = {  # host of the authority -> the admin centre of that cloud, and the name of its Exchange
    "login.microsoftonline.us": ("https://entra.microsoft.us", "O365USGovGCCHigh"),
    "login.partner.microsoftonline.cn": ("https://entra.microsoftonline.cn", "O365China"),
    "login.chinacloudapi.cn": ("https://entra.microsoftonline.cn", "O365China"),
}
_APPLICATION: Final = {"smtp": "SMTP.SendAsApp", "imap": "IMAP.AccessAsApp"}
_DELEGATED: Final = {"smtp": "SMTP.Send", "imap": "IMAP.AccessAsUser.All"}

FLOWS: Final = {  # what each provider has, the usual one first
    "microsoft": ("client-credentials", "authorization-code", "device"),
    "google": ("service-account", "authorization-code"),
    "custom": ("client-credentials", "authorization-code", "device", "service-account"),
}


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do: what and where, and commands to copy if there are any."""

    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration says of an account, as far as it goes; "" for what it does not say yet."""

    account: str  # "outbound.smarthost"
    provider: str
    flow: str
    user: str  # the mailbox
    sender: str = ""  # from_address
    protocols: Collection[str] = ()  # of "smtp" and "imap"
    tenant: str = ""
    client_id: str = ""
    authority_host: str = ""
    certificate: str = ""  # path
    service_account: str = ""  # the service account's own client id, a number
    scopes: tuple[str, ...] = ()
    token_command: tuple[str, ...] = ()


def tasks(wanted: Wanted) -> tuple[Task, ...]:
    """What to do, in order."""
    if wanted.token_command:
        text = (
            "No provider is asked: this command must print an access token as its first line, when the daemon's user "
            f"runs it, for {wanted.user}:"
        )
        return (Task(text, (shlex.join(wanted.token_command),)),)
    match wanted.provider, wanted.flow:
        case "microsoft", "client-credentials":
            made = _microsoft_application(wanted)
        case "microsoft", _:
            made = _microsoft_user(wanted)
        case "google", "service-account":
            made = _google_service_account(wanted)
        case "google", _:
            made = _google_user(wanted)
        case _:
            made = _custom(wanted)
    return tuple(made)


def _microsoft_application(wanted: Wanted) -> Iterator[Task]:
    centre, exchange = _cloud(wanted)
    yield Task(
        f"{centre} > App registrations > New registration: accounts in this organizational directory only, no redirect "
        f"URI. Application (client) ID and Directory (tenant) ID become client_id and tenant_id{_so_far(wanted)}."
    )
    if wanted.certificate:
        yield Task(
            "Certificates & secrets > Certificates > Upload: the certificate alone, without its key:",
            (f"openssl x509 -in {shlex.quote(wanted.certificate)} -out mailrelayd.cer",),
        )
    else:
        yield Task(
            "Certificates & secrets > New client secret. Its Value (not its ID) becomes client_secret, and its last "
            "day client_secret_expires: mailrelayd warns 30, 7 and 1 days before."
        )
    yield Task(
        "API permissions > Add a permission > APIs my organization uses > Office 365 Exchange Online > Application "
        f"permissions: {_listed(wanted, _APPLICATION)}. Then: Grant admin consent."
    )
    mailbox = _powershell(wanted.user or "MAILBOX")
    client = _powershell(wanted.client_id or "CLIENT_ID")
    yield Task(
        "PowerShell, as an Exchange administrator: make the application known to Exchange. The Object ID is that of "
        "the enterprise application, which the second line asks for; the one of the app registration looks the same "
        "and leads to 535 5.7.3.",
        (
            "Install-Module ExchangeOnlineManagement, Microsoft.Graph.Applications",
            f'Connect-MgGraph -Scopes Application.Read.All; $sp = Get-MgServicePrincipal -Filter "appId eq {client}"',
            f"Connect-ExchangeOnline -Organization {_powershell(wanted.tenant or 'TENANT_ID')}{exchange}",
            f"New-ServicePrincipal -AppId {client} -ObjectId $sp.Id -DisplayName mailrelayd",
        ),
    )
    commands = [f"Add-MailboxPermission -Identity {mailbox} -User $sp.Id -AccessRights FullAccess"]
    if "smtp" in wanted.protocols:
        sender = _powershell(wanted.sender or wanted.user or "SENDER")
        commands.append(f"Add-RecipientPermission -Identity {sender} -Trustee $sp.Id -AccessRights SendAs")
    yield Task(
        "In the same PowerShell: let the application use this mailbox and no other. It takes up to an hour to work.",
        (*commands, *_mailbox_switches(wanted, mailbox)),
    )


def _microsoft_user(wanted: Wanted) -> Iterator[Task]:
    centre, exchange = _cloud(wanted)
    yield Task(
        f"{centre} > App registrations > New registration: accounts in this organizational directory only. Application "
        f"(client) ID and Directory (tenant) ID become client_id and tenant_id{_so_far(wanted)}."
    )
    if wanted.flow == "device":
        yield Task(
            "Authentication > Allow public client flows: Yes. Many tenants forbid the device flow by Conditional "
            'Access (AADSTS53003): then flow = "authorization-code".'
        )
    else:
        yield Task(
            "Authentication > Add a platform > Mobile and desktop applications: http://localhost (every port of this "
            "machine fits it), and Allow public client flows: Yes."
        )
    yield Task(
        f"API permissions > Add a permission > Microsoft Graph > Delegated permissions: "
        f"{_listed(wanted, _DELEGATED)}, offline_access. Then: Grant admin consent, unless users may consent."
    )
    mailbox = _powershell(wanted.user or "MAILBOX")
    if switches := _mailbox_switches(wanted, mailbox):
        yield Task(
            "Exchange Online PowerShell: let the mailbox be used so.",
            (f"Connect-ExchangeOnline -Organization {_powershell(wanted.tenant or 'TENANT_ID')}{exchange}", *switches),
        )


def _google_service_account(wanted: Wanted) -> Iterator[Task]:
    yield Task(
        "Google Cloud: a project, a service account in it, and a JSON key of it. The file becomes "
        "service_account_file; nobody but the daemon's user may read it.",
        (
            "gcloud iam service-accounts create mailrelayd",
            "gcloud iam service-accounts keys create service-account.json "
            '--iam-account="mailrelayd@$(gcloud config get-value project).iam.gserviceaccount.com"',
        ),
    )
    number = wanted.service_account or "the number that stands as client_id in the JSON file"
    scopes = ",".join(wanted.scopes or (GOOGLE_MAIL,))
    yield Task(
        "admin.google.com > Security > Access and data control > API controls > Manage domain-wide delegation > Add "
        f"new. Client ID: {number}. OAuth scopes: {scopes}. It may take a day to work."
    )
    yield from _google_mailbox(wanted)


def _google_user(wanted: Wanted) -> Iterator[Task]:
    yield Task(
        "console.cloud.google.com > APIs & Services > OAuth consent screen: Internal (of an External one in the state "
        f"Testing, Google forgets the authorisation after 7 days); scope {GOOGLE_MAIL}."
    )
    yield Task(
        "Credentials > Create credentials > OAuth client ID > Desktop app. Client ID and client secret become "
        "client_id and client_secret."
    )
    yield from _google_mailbox(wanted)


def _google_mailbox(wanted: Wanted) -> Iterator[Task]:
    if "imap" in wanted.protocols:
        yield Task(
            "admin.google.com > Apps > Google Workspace > Gmail > End User Access: POP and IMAP access on for "
            f"{wanted.user or 'the mailbox'}. user is the mailbox's main address: no alias, no group."
        )


def _custom(wanted: Wanted) -> Iterator[Task]:
    grants = {
        "client-credentials": "the grant client_credentials",
        "device": "the grants urn:ietf:params:oauth:grant-type:device_code and refresh_token, as a public client",
        "authorization-code": "the grants authorization_code (PKCE, S256) and refresh_token, and the redirect address "
        "http://127.0.0.1/ with any port (or the one of --port)",
        "service-account": "the grant urn:ietf:params:oauth:grant-type:jwt-bearer",
    }
    scopes = " ".join(wanted.scopes) or "those that its mail server wants"
    yield Task(
        f"At the provider, register an application {wanted.client_id}{' ' * bool(wanted.client_id)}"
        f"for {grants[wanted.flow]}; scopes: {scopes}."
    )
    yield Task(
        f"The mail server must accept its tokens for {wanted.user or 'the mailbox'} (XOAUTH2 or OAUTHBEARER; Dovecot: "
        "passdb oauth2, which Postfix may ask through SASL)."
    )


def _mailbox_switches(wanted: Wanted, mailbox: str) -> list[str]:
    """SMTP AUTH is off in most tenants, for tokens as for passwords."""
    switches = {"smtp": "-SmtpClientAuthenticationDisabled $false", "imap": "-ImapEnabled $true"}
    return [
        f"Set-CASMailbox -Identity {mailbox} {switch}"
        for protocol, switch in switches.items()
        if protocol in wanted.protocols
    ]


def _cloud(wanted: Wanted) -> tuple[str, str]:
    """The admin centre, and what Connect-ExchangeOnline must be told besides."""
    centre, exchange = _ENTRA.get(wanted.authority_host, ("https://entra.microsoft.com", ""))
    return centre, f" -ExchangeEnvironmentName {exchange}" if exchange else ""


def _so_far(wanted: Wanted) -> str:
    known = [text for text in (wanted.client_id, wanted.tenant) if text]
    return f" (configured: {' and '.join(known)})" if known else ""


def _listed(wanted: Wanted, names: dict[str, str]) -> str:
    return ", ".join(name for protocol, name in names.items() if protocol in wanted.protocols)


def _powershell(text: str) -> str:
    """One word for PowerShell, in which nothing is expanded."""
    return "'" + text.replace("'", "''") + "'"


def skeleton(provider: str, flow: str) -> str:
    """The section of the configuration that such an account needs, with words in capitals to replace."""
    lines = [f'provider = "{provider}"', f'flow = "{flow}"']
    if provider == "microsoft":
        lines.append('tenant_id = "TENANT_ID"')
    if provider == "custom":
        lines.append('authority = "https://login.example.com"')
    if flow == "service-account":
        lines.append('service_account_file = "/etc/mailrelayd/service-account.json"')
    else:
        lines.append('client_id = "CLIENT_ID"')
    if flow == "client-credentials" or (provider, flow) == ("google", "authorization-code"):
        lines.append('client_secret = "credential:oauth.secret"')
    if provider == "custom" and flow in ("device", "authorization-code"):
        lines.append('scopes = ["openid", "offline_access"]  # and those that the mail server wants')
    host = {"microsoft": "smtp.office365.com", "google": "smtp.gmail.com"}.get(provider, "smtp.example.com")
    account = ["[outbound.smarthost]", f'host = "{host}"', 'user = "MAILBOX@example.com"']
    account += ['from_address = "MAILBOX@example.com"', 'auth = "oauth2"', "", "[outbound.smarthost.oauth]"]
    return "\n".join([*account, *lines, ""])
