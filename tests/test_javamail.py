"""Properties as Java reads them, and the accounts that are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrelayd.config import claims
from mailrelayd.config.javamail import draft
from mailrelayd.config.javatext import TextError, parse
from mailrelayd.config.load import ConfigError, load
from mailrelayd.config.settings import Settings

FLEXDEPLOY = """\
PROTOCOL=imap
mail.${{PROTOCOL}}.host=${{IMAP_HOST_NAME}}
mail.${{PROTOCOL}}.port=${{IMAP_HOST_PORT}}
mail.${{PROTOCOL}}.socketFactory.class=javax.net.ssl.SSLSocketFactory
mail.${{PROTOCOL}}.starttls.enable=${{IMAP_ENABLE_STARTTLS}}
mail.${{PROTOCOL}}.socketFactory.port=${{IMAP_HOST_PORT}}
#mail.${{PROTOCOL}}.socketFactory.fallback=false
#mail.${{PROTOCOL}}.ssl.enable=true
#mail.${{PROTOCOL}}.connectiontimeout=5000
#mail.${{PROTOCOL}}.timeout=5000
"""
FIELDS = {"IMAP_HOST_NAME": "imap.example.com", "IMAP_HOST_PORT": "993", "IMAP_ENABLE_STARTTLS": "false"}
NOWHERE = Path("/nonexistent/account.toml")
PAGE = Path(__file__).parents[1] / "docs" / "properties.md"


def loaded(text: str, given: dict[str, str] | None = None, direction: str = "", more: str = "") -> Settings:
    """The settings that the accounts of a text are."""
    toml = draft(parse(text), "x", given or {}, direction).text + more
    return load(NOWHERE, {}, check_files=False, instead={NOWHERE: toml.encode()}).settings


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a=b", {"a": "b"}),
        ("a:b\nc d\n e \t=\t f ", {"a": "b", "c": "d", "e": "f "}),
        ("# c\n  ! c=1\n\n \t\f\na==b", {"a": "=b"}),
        ("a=b\\\n   c\\\r\n\td", {"a": "bcd"}),
        ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
        ("a=b\\", {"a": "b"}),
        ("a\\ b\\=c\\:d = e\\tf\\u00e9\\q", {"a b=c:d": "e\tféq"}),
        ("a=\\ud83d\\ude00", {"a": "😀"}),
        ("a", {"a": ""}),
        ("a=1\na=2", {"a": "2"}),
        ("a=b\\\n# no comment here", {"a": "b# no comment here"}),
        ("\\\n# a comment\na=b", {"a": "b"}),
        ("a=b#c", {"a": "b#c"}),
        ("a=b\rc=d", {"a": "b", "c": "d"}),
    ],
)
def test_a_text_is_read_as_java_reads_it(text: str, pairs: dict[str, str]) -> None:
    """Comments, continuations, separators and escapes of java.util.Properties."""
    assert {one.key: one.value for one in parse(text)} == pairs


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a=b\n=c", 2, "has no name in front of its value"),
        ("a=b\n\nc=\\u12", 3, "has \\u without four hexadecimal digits"),
        ("a=\\ud800", 1, "has half of a character"),
    ],
)
def test_nonsense_is_told_with_its_line(text: str, line: int, problem: str) -> None:
    """What Java would refuse, too, or take for something else."""
    with pytest.raises(TextError) as caught:
        parse(text)
    ((at, told),) = caught.value.problems
    assert at == line
    assert problem in told


@given(st.text("ab=: \\\n\r\t#!u0é$", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never an error of another kind, and never a property without a name."""
    try:
        assert all(one.key and one.line >= 1 for one in parse(text))
    except TextError as error:
        assert error.problems


def test_the_block_that_flexdeploy_ships_becomes_a_mailbox_that_waits_for_its_fields() -> None:
    """Loads as it is, is not enabled, and says what the fields beside the block have to give."""
    toml = draft(parse(FLEXDEPLOY), "answers", {}).text
    assert '#host = "imap.example.com"  # line 2: mail.${{PROTOCOL}}.host: ${{IMAP_HOST_NAME}} is not known' in toml
    assert "#port = 993  # line 3: mail.${{PROTOCOL}}.port: " in toml
    mailbox = loaded(FLEXDEPLOY).inbound["x"]
    assert (mailbox.enabled, mailbox.security, mailbox.port) == (False, "tls", 993)
    assert mailbox.host.endswith(".invalid"), "RFC 2606: a name that never leads anywhere"


def test_with_its_fields_it_is_complete_but_for_the_login() -> None:
    """Which FlexDeploy takes from SMTP, as here the mailbox does from the outbound account."""
    mailbox = loaded(FLEXDEPLOY, FIELDS).inbound["x"]
    assert (mailbox.host, mailbox.port, mailbox.security) == ("imap.example.com", 993, "tls")
    login = '[outbound.s]\nhost = "s"\nuser = "u"\npassword = "file:/p"\n'
    toml = draft(parse(FLEXDEPLOY), "x", FIELDS).text.replace("enabled = false", "enabled = true") + login
    settings = load(NOWHERE, {}, check_files=False, instead={NOWHERE: toml.encode()}).settings
    assert settings.inbound["x"].user == "u"


def test_what_is_commented_out_in_the_text_counts_once_it_is_not() -> None:
    """FlexDeploy's own advice for TLS, and its timeouts."""
    mailbox = loaded(FLEXDEPLOY.replace("#", ""), FIELDS).inbound["x"]
    assert (mailbox.connect_timeout, mailbox.command_timeout, mailbox.security) == (5.0, 5.0, "tls")


def test_both_directions_of_one_session_become_two_accounts() -> None:
    """Each gets its own, and what is about both goes to both."""
    text = (
        "mail.transport.protocol=smtp\nmail.smtp.host=smtp.example.com\nmail.smtp.auth=true\nmail.user=relay\n"
        "mail.smtp.password=hunter2\nmail.smtp.starttls.enable=true\nmail.from=a@example.com\n"
        "mail.store.protocol=imaps\nmail.imaps.host=imap.example.com\nmail.imaps.ssl.protocols=TLSv1.2 TLSv1.3\n"
    )
    settings = loaded(text)
    account, mailbox = settings.outbound["x"], settings.inbound["x"]
    assert (account.host, account.port, account.user, account.auth) == ("smtp.example.com", 587, "relay", "password")
    assert (account.enabled, account.from_address) == (True, "a@example.com")
    assert (mailbox.host, mailbox.port, mailbox.user, mailbox.enabled) == ("imap.example.com", 993, "relay", True)
    assert mailbox.tls.minimum == "1.2"
    toml = draft(parse(text), "x", {}).text
    assert "hunter2" not in toml
    assert 'password = "credential:x.password"  # line 5: mail.smtp.password: put it into' in toml


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        ("mail.smtp.ssl.trust=*", "not taken over: would trust a server without proof"),
        ("mail.smtp.socketFactory.fallback=true", "not taken over: is true, and nothing ever falls back"),
        ("mail.smtp.ssl.protocols=SSLv3", "not taken over: names a version of SSL"),
        ("mail.smtp.hoost=x", 'not taken over: unknown property; did you mean "host"?'),
        ("mail.debug=true", "not taken over: is not a property: write protocol_debug = true in [log]"),
        (
            "mail.smtp.timeout=${{ENV:T}}",
            '#command_timeout = "60s"  # line 2: mail.smtp.timeout: ${{ENV:T}} is not known',
        ),
        ("mail.smtp.auth=true", '#user = "relay@example.com"'),
        ("mail.smtp.auth.mechanisms=XOAUTH2", '#auth = "oauth2"'),
        ("mail.smtp.starttls.enable=${{STARTTLS}}", '#security = "starttls"'),
        ("mail.smtp.starttls.required=false", "# line 2: mail.smtp.starttls.required: "),
        ("mail.smtp.a\\nb\\u001b=[x]", "# line 2: mail.smtp.a\\nb\\x1b: not taken over: unknown property"),
    ],
)
def test_what_cannot_be_taken_over_is_a_remark_and_the_account_loads(line: str, remark: str) -> None:
    """With the line it comes from and what to do, and nothing in it ends the comment."""
    text = f"mail.smtp.host=h\n{line}\n"
    assert remark in draft(parse(text), "x", {}).text
    assert loaded(text).outbound["x"].security == "starttls"


def test_of_a_contradiction_the_safer_side_is_taken() -> None:
    """TLS from the first byte, whichever is written first."""
    for first, second in (("ssl", "starttls"), ("starttls", "ssl")):
        text = f"mail.smtp.host=h\nmail.smtp.{first}.enable=true\nmail.smtp.{second}.enable=true\n"
        assert loaded(text).outbound["x"].security == "tls"
        assert "starttls.enable: not taken over: contradicts" in draft(parse(text), "x", {}).text
    plain = "mail.smtp.host=h\nmail.smtp.ssl.enable=false\nmail.smtp.starttls.enable=false\n"
    assert loaded(plain).outbound["x"].security == "starttls", "plain is never the outcome"


@pytest.mark.parametrize(
    ("text", "direction", "problems"),
    [
        ("hello world\n", "", [(1, "nothing here begins with mail.smtp or mail.imap")]),
        ("", "", [(1, "nothing here begins with")]),
        ("hello world\nfoo=bar\n", "inbound", [(1, "hello: unknown property"), (2, "foo: unknown property")]),
        ("mail.smtp.host=h\nmail.smtp.port=x\nmail.smtp.timeout=x\n", "", [(2, "must be a port"), (3, "milliseconds")]),
        ("mail.smtp.host=h\n", "inbound", [(1, "is about the other direction")]),
    ],
)
def test_what_is_no_account_is_told_line_by_line(text: str, direction: str, problems: list[tuple[int, str]]) -> None:
    """All of it at once."""
    with pytest.raises(TextError) as caught:
        draft(parse(text), "x", {}, direction)
    assert [line for line, _ in caught.value.problems] == [line for line, _ in problems]
    for (_, told), (_, expected) in zip(caught.value.problems, problems, strict=True):
        assert expected in told


NAMES = st.sampled_from(
    [
        "host",
        "port",
        "user",
        "from",
        "auth",
        "auth.mechanisms",
        "ssl.enable",
        "ssl.protocols",
        "starttls.enable",
        "starttls.required",
        "connectiontimeout",
        "timeout",
        "socketFactory.class",
        "socketFactory.fallback",
        "password",
        "xyz",
    ]
)
VALUES = st.sampled_from(
    [
        "true",
        "false",
        "h.example.com",
        "993",
        "5000",
        "TLSv1.2",
        "XOAUTH2",
        "PLAIN",
        "a@example.com",
        "${{HOST}}",
        "${{ENV:X}}",
        "javax.net.ssl.SSLSocketFactory",
        "${{IMAP_HOST_NAME}}",
        "\\u0000",
        '"',
        "\\n[node]",
    ]
)


@given(
    st.lists(st.tuples(st.sampled_from(["imap", "imaps", "smtp", "smtps", "${{PROTOCOL}}"]), NAMES, VALUES), max_size=8)
)
def test_any_properties_become_a_configuration_or_are_refused(properties: list[tuple[str, str, str]]) -> None:
    """What is printed loads; only values that no account can have, such as a host with a quote, keep it from that."""
    text = "PROTOCOL=imap\n" + "".join(f"mail.{protocol}.{name}={value}\n" for protocol, name, value in properties)
    try:
        assert loaded(text).node.name is None
    except TextError:
        pass
    except ConfigError as error:
        assert all(
            ": host: " in one or ".host: " in one or ".user: " in one or ".from_address: " in one
            for one in error.problems
        )


def test_the_page_about_properties_shows_what_is_printed() -> None:
    """docs/properties.md names every property, and its example of FlexDeploy's block is the real one."""
    page = PAGE.read_text()
    assert draft(parse(FLEXDEPLOY), "answers", {}).text.partition("# line 6")[0] in page
    for known in claims.KNOWN:
        assert f"`{known}" in page, known
    example = page.split("```toml\n")[1].partition("```")[0]
    mailbox = load(NOWHERE, {}, check_files=False, instead={NOWHERE: example.encode()}).settings.inbound["answers"]
    assert (mailbox.security, mailbox.tls.maximum, mailbox.connect_timeout) == ("tls", "1.3", 5.0)
