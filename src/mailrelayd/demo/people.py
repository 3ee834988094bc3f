"""The approvers of the demonstration: what their mail programs make of a request, and somebody who is not one of them.

Each answer is written the way that program writes it, with the request quoted below.
"""

from __future__ import annotations

import email.policy
import html
import smtplib
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid, parseaddr

BOSS, CAROL = "boss@example.com", "carol@example.com"
PASSWORDS = {BOSS: "the-password-of-boss", CAROL: "the-password-of-carol"}
PATIENCE = 20.0  # seconds for one answer of the server


@dataclass(frozen=True, slots=True)
class Request:
    """A request as an approver's mail program shows it."""

    author: str
    recipient: str
    subject: str
    date: str
    message_id: str
    references: str
    reply_to: str
    text: str

    @classmethod
    def read(cls, content: bytes) -> Request:
        """From the mail as it arrived."""
        mail = email.message_from_bytes(content, policy=email.policy.default)
        said = {name: str(mail[name] or "") for name in ("From", "To", "Subject", "Date", "Message-ID", "References")}
        body = mail.get_body(("plain",))
        text = body.get_content() if isinstance(body, EmailMessage) else ""
        reply_to = parseaddr(str(mail["Reply-To"] or said["From"]))[1]
        author, recipient, subject, date, message_id, references = said.values()
        return cls(author, recipient, subject, date, message_id, references, reply_to, text)


def outlook(request: Request, answer: str) -> EmailMessage:
    """The boss in Outlook: plain text and HTML, the request's header lines and text below, without any mark."""
    reply = _reply(request, f"Barbara Boss <{BOSS}>", f"Re: {request.subject}", "example.prod.outlook.com")
    reply["Thread-Topic"] = request.subject
    reply["Accept-Language"] = "en-US"
    reply["X-MS-Has-Attach"] = ""
    block = {"From": request.author, "Sent": request.date, "To": request.recipient, "Subject": request.subject}
    quoted = "".join(f"{name}: {value}\n" for name, value in block.items())
    reply.set_content(f"{answer}\n\n{quoted}\n{request.text}")

    def paragraphs(text: str) -> str:
        lines = (html.escape(line) or "&nbsp;" for line in text.splitlines())
        return "".join(f"<p class=MsoNormal>{line}<o:p></o:p></p>" for line in lines)

    bold = "<br>".join(f"<b>{name}:</b> {html.escape(value)}" for name, value in block.items())
    reply.add_alternative(
        '<html xmlns:o="urn:schemas-microsoft-com:office:office"><head><style><!-- p.MsoNormal {margin:0cm;} '
        f'--></style></head><body lang=EN-US><div class=WordSection1>{paragraphs(answer)}<div style="border:none;'
        f'border-top:solid #E1E1E1 1.0pt;padding:3.0pt 0cm 0cm 0cm"><p class=MsoNormal>{bold}<o:p></o:p></p></div>'
        f"{paragraphs(request.text)}</div></body></html>\n",
        subtype="html",
    )
    return reply


def iphone(request: Request, answer: str) -> EmailMessage:
    """Carol on her iPhone, which speaks German: plain text, the request behind ">"."""
    reply = _reply(request, f"Carol Kaufmann <{CAROL}>", f"Re: {request.subject}", "example.com")
    reply["X-Mailer"] = "iPhone Mail (22G86)"
    quoted = "".join(f"> {line}".rstrip() + "\n" for line in request.text.splitlines())
    attribution = f"Am {localtime():%d.%m.%Y um %H:%M} schrieb {parseaddr(request.author)[1]}:"
    reply.set_content(f"{answer}\n\nVon meinem iPhone gesendet\n\n> {attribution}\n>\n{quoted}")
    return reply


def out_of_office(request: Request) -> EmailMessage:
    """What Carol's server answers by itself. It begins with a word that a person would approve with."""
    reply = _reply(request, f"Carol Kaufmann <{CAROL}>", f"Automatic reply: {request.subject}", "example.com")
    reply["Auto-Submitted"] = "auto-replied"
    reply["X-Auto-Response-Suppress"] = "All"
    reply.set_content("Approved leave until Monday. In urgent cases ask boss@example.com.\n")
    return reply


def forgery(request: Request) -> EmailMessage:
    """Somebody who got hold of Carol's mail, and claims that our mail server has found it to be hers."""
    reply = _reply(request, f"Carol Kaufmann <{CAROL}>", f"Re: {request.subject}", "example.com")
    reply["Authentication-Results"] = "mx.example.com; dmarc=pass header.from=example.com"
    reply.set_content("Approved.\n")
    return reply


def _reply(request: Request, author: str, subject: str, domain: str) -> EmailMessage:
    reply = EmailMessage(policy=email.policy.SMTP)
    reply["From"] = author
    reply["To"] = request.reply_to
    reply["Subject"] = subject
    reply["Date"] = format_datetime(localtime())
    reply["Message-ID"] = make_msgid(domain=domain)
    reply["In-Reply-To"] = request.message_id
    reply["References"] = f"{request.references} {request.message_id}".strip()
    return reply


@dataclass(frozen=True, slots=True)
class Post:
    """How they hand in their mail. It blocks: for a thread."""

    port: int
    tls: ssl.SSLContext

    def send(self, reply: EmailMessage, user: str = "") -> None:
        """Send it to whom it is addressed; with `user`'s login, or from outside. Raises OSError, SMTPException."""
        with smtplib.SMTP("127.0.0.1", self.port, local_hostname="laptop.example.com", timeout=PATIENCE) as client:
            client.starttls(context=self.tls)
            if user:
                client.login(user, PASSWORDS[user])
            client.send_message(reply, from_addr=parseaddr(reply["From"])[1])
