"""The `properties` of accounts: which keys they become, what they may not do, and in which words that is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailrelayd.config import properties
from mailrelayd.config.answering import InboundAccount
from mailrelayd.config.load import ConfigError, Loaded, load
from mailrelayd.config.relaying import OutboundAccount

LOGIN = 'user = "u"\npassword = "file:/p"\n'


def read(folder: Path, text: str, environ: dict[str, str] | None = None, more: str = "") -> Loaded:
    """A configuration of one main file, and one in conf.d."""
    path = folder / "mailrelayd.toml"
    path.write_text(text)
    if more:
        (folder / "conf.d").mkdir(exist_ok=True)
        (folder / "conf.d" / "more.toml").write_text(more)
    return load(path, environ or {}, check_files=False)


def fault(folder: Path, text: str, environ: dict[str, str] | None = None, more: str = "") -> str:
    """The one thing that is wrong, without the folder's name."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text, environ, more)
    (problem,) = caught.value.problems
    return problem.replace(f"{folder}/", "")


def outbound(lines: str, keys: str = 'host = "h"\n') -> str:
    return f"[outbound.x]\n{keys}[outbound.x.properties]\n{lines}\n"


def inbound(lines: str, keys: str = 'host = "h"\n') -> str:
    return f"[inbound.x]\n{keys}{LOGIN}[inbound.x.properties]\n{lines}\n"


@pytest.mark.parametrize(
    ("lines", "key", "value"),
    [
        ('"mail.smtp.port" = "2525"', "port", 2525),
        ("port = 2525", "port", 2525),
        ('"mail.smtp.socketFactory.port" = "2525"', "port", 2525),
        ('"mail.smtp.ssl.enable" = "true"', "security", "tls"),
        ('"ssl.enable" = true', "security", "tls"),
        ("ssl.enable = true", "security", "tls"),
        ('"mail.smtp.ssl.enable" = "false"', "security", "starttls"),
        ('"mail.smtp.starttls.enable" = "true"', "security", "starttls"),
        ('"mail.smtp.starttls.required" = "true"', "security", "starttls"),
        ('"mail.smtps.connectiontimeout" = "5000"', "security", "tls"),
        ('"mail.smtps.connectiontimeout" = "5000"', "connect_timeout", 5.0),
        ('"mail.smtp.timeout" = "1500"', "command_timeout", 1.5),
        ('PROTOCOL = "smtps"', "security", "tls"),
        ('"mail.transport.protocol" = "smtps"', "security", "tls"),
        ('"mail.smtp.socketFactory.class" = "javax.net.ssl.SSLSocketFactory"', "security", "tls"),
        ('"mail.smtp.socketFactory.class" = "javax.net.SocketFactory"', "security", "starttls"),
        ('"mail.smtp.socketFactory.fallback" = "false"', "security", "starttls"),
        ('"mail.smtp.ssl.protocols" = "TLSv1.2"', "tls.minimum", "1.2"),
        ('"mail.smtp.ssl.protocols" = "TLSv1.2"', "tls.maximum", "1.2"),
        ('"mail.smtp.ssl.protocols" = "TLSv1.3 TLSv1.2"', "tls.minimum", "1.2"),
        ('"mail.smtp.ssl.protocols" = "TLSv1.2,TLSv1.3"', "tls.maximum", "1.3"),
        ('"mail.smtp.ssl.protocols" = "TLSv1 TLSv1.1 TLSv1.2"', "tls.minimum", "1.0"),
        ('"mail.smtp.ssl.checkserveridentity" = "true"', "tls.verify", True),
        ('"mail.from" = "a@example.com"', "from_address", "a@example.com"),
        ('"mail.smtp.auth" = "false"', "auth", "none"),
        ("mail.smtp.ssl.enable = true", "security", "tls"),
        ("[outbound.x.properties.mail.smtp]\nport = 2525\nssl.enable = true", "port", 2525),
    ],
)
def test_a_property_becomes_the_key_it_means(tmp_path: Path, lines: str, key: str, value: object) -> None:
    """Quoted or as a table, with the prefix or without; milliseconds become durations."""
    found: object = read(tmp_path, outbound(lines)).settings.outbound["x"]
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_key_knows_the_line_of_its_property(tmp_path: Path) -> None:
    """`config show` and every later error point there; what was not written is a default as ever."""
    loaded = read(tmp_path, outbound('# why\n"mail.smtp.ssl.enable" = "true"\n"mail.smtp.ssl.protocols" = "TLSv1.3"'))
    file = f"{tmp_path}/mailrelayd.toml"
    assert loaded.origins["outbound.x.security"] == f"{file}:5"
    assert loaded.origins["outbound.x.tls.minimum"] == f"{file}:6"
    assert loaded.origins["outbound.x.port"] == "default"
    assert loaded.settings.outbound["x"].port == 465
    assert fault(tmp_path, outbound('"mail.smtp.from" = "nobody"')) == (
        'mailrelayd.toml:4: outbound.x.from_address: must be one bare address, such as "noreply@example.com", '
        "without a display name or <>"
    )


def test_the_block_that_flexdeploy_ships_is_a_mailbox_by_tls(tmp_path: Path) -> None:
    """Its variables are the account's own keys, and its socket factory means TLS whatever PROTOCOL says."""
    lines = (
        'PROTOCOL = "imap"\n'
        '"mail.${{PROTOCOL}}.host" = "${{IMAP_HOST_NAME}}"\n'
        '"mail.${{PROTOCOL}}.port" = "${{IMAP_HOST_PORT}}"\n'
        '"mail.${{PROTOCOL}}.socketFactory.class" = "javax.net.ssl.SSLSocketFactory"\n'
        '"mail.${{PROTOCOL}}.starttls.enable" = "${{IMAP_ENABLE_STARTTLS}}"\n'
        '"mail.${{PROTOCOL}}.socketFactory.port" = "${{IMAP_HOST_PORT}}"\n'
        '"mail.${{PROTOCOL}}.connectiontimeout" = 5000\n'
    )
    mailbox = read(tmp_path, inbound(lines, 'host = "imap.example.com"\nport = 993\n')).settings.inbound["x"]
    assert (mailbox.host, mailbox.port, mailbox.security, mailbox.connect_timeout) == (
        "imap.example.com",
        993,
        "tls",
        5,
    )
    keys = 'host = "imap.example.com"\nport = 993\nsecurity = "starttls"\n'
    assert fault(tmp_path, inbound(lines, keys)) == (
        'mailrelayd.toml:11: inbound.x.properties."mail.${{PROTOCOL}}.socketFactory.class": '
        "contradicts security, which the account writes itself: keep one of them"
    )


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("${{HOST}}", "h.example.com"),
        ("${{ENV:RELAY}}", "from.environment"),
        ("${{ ENV:RELAY }}", "from.environment"),
        ("a.${{PROTOCOL}}.${{STARTTLS}}.example", "a.smtp.true.example"),
        ("${{PORT}}.example", "587.example"),
        ("${{HOSTNAME}}", os.uname().nodename),
    ],
)
def test_variables_stand_for_their_values(tmp_path: Path, value: str, host: str) -> None:
    """The account's keys, the environment, the machine's name."""
    keys = 'host = "h.example.com"\nport = 587\n' if value == "${{HOST}}" else "port = 587\n"
    text = outbound(f'"mail.smtp.host" = "{value}"', keys)
    assert read(tmp_path, text, {"RELAY": "from.environment"}).settings.outbound["x"].host == host


def test_what_comes_out_of_a_variable_is_not_looked_at_again(tmp_path: Path) -> None:
    """Neither for another variable, nor as a reference: an environment cannot make the daemon run a command."""
    environ = {"A": "${{ENV:B}}", "B": "b", "C": "command:/bin/false"}
    assert "outbound.x.host: must be a name only" in fault(
        tmp_path, outbound('"mail.smtp.host" = "${{ENV:A}}"', ""), environ
    )
    keys = 'host = "h"\npassword = "file:/p"\n'
    account = read(tmp_path, outbound('"mail.smtp.user" = "${{ENV:C}}"', keys), environ).settings.outbound["x"]
    assert account.user == "text:command:/bin/false"
    account = read(tmp_path, outbound('"mail.smtp.user" = "env:C"', keys), environ).settings.outbound["x"]
    assert account.user == "env:C"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('"mail.smtp.prot" = 1', 'prot": unknown property; did you mean "port"?'),
        ('"mail.smtp.sslenable" = true', 'did you mean "ssl.enable"?'),
        ('"mail.smtp.SSL.enable" = true', 'did you mean "ssl.enable"?'),
        ('"xyzzy" = true', "unknown property; known are: PROTOCOL, host, port,"),
        ('"mail.smtp.password" = "hunter2"', "write password = above"),
        ('"mail.debug" = true', "write protocol_debug = true in [log]"),
        ('"mail.imap.port" = 1', "is about the other direction: write it in [inbound.NAME.properties]"),
        ('"mail.pop3.port" = 1', "is about POP3"),
        ('"mail.${{PROTOCAL}}.port" = 1', "unknown variable; did you mean ${{PROTOCOL}}?"),
        ('"port" = "${{IMAP_HOST_PORT}}"', "unknown variable; "),
        ('"port" = "${{QQ}}"', "there are: PROTOCOL, HOST, PORT, STARTTLS, HOSTNAME, ENV:NAME"),
        ('"port" = "${{PORT}}"', "${{PORT}} has no value: write port = above"),
        ('"port" = "${{ENV:NONE}}"', "an environment variable is not set"),
        ('"port" = "${{PORT"', "has a variable that is not closed"),
        ('"port" = 0', "must be a port, a number from 1 to 65535"),
        ('"port" = 65536', "must be a port"),
        ('"port" = "٣"', "must be a port"),
        ('"port" = 1.5', "must be text in quotes, true, false or a whole number"),
        ('"port" = ["1"]', "must be text in quotes, true, false or a whole number"),
        ('"ssl.enable" = "yes"', "must be true or false"),
        ('"timeout" = "5s"', "must be a number of milliseconds above 0"),
        ('"timeout" = 0', "must be a number of milliseconds above 0"),
        ('"timeout" = -1', "must be a number of milliseconds above 0"),
        ('"writetimeout" = 1', "write data_timeout"),
        ('"socketFactory.fallback" = true', "nothing ever falls back to plain text"),
        ('"socketFactory.class" = "org.example.TrustAll"', "is a class of Java that has no meaning here"),
        ('"ssl.trust" = "*"', "would trust a server without proof"),
        ('"ssl.checkserveridentity" = false', "a name is always checked"),
        ('"ssl.protocols" = "SSLv3"', "names a version of SSL, all of which are broken"),
        ('"ssl.protocols" = "TLSv1.2 SSLv2Hello"', "names a version of SSL"),
        ('"ssl.protocols" = "TLSv1 TLSv1.2"', "leaves out a version between"),
        ('"ssl.protocols" = "TLS"', "must be a list of"),
        ('"ssl.protocols" = ""', "must be a list of"),
        ('"auth.mechanisms" = "NTLM"', "must name XOAUTH2"),
        ('"PROTOCOL" = "imap"', 'must be "smtp" or "smtps" in [outbound.NAME]'),
        ('"starttls.enable" = false', 'write security = "tls" or "starttls" above'),
        ('"ssl.enable" = false\n"starttls.enable" = false', 'write security = "tls" or "starttls" above'),
    ],
)
def test_a_wrong_property_is_told_with_its_line_and_the_cure(tmp_path: Path, lines: str, problem: str) -> None:
    """And never with its value."""
    found = fault(tmp_path, outbound(lines))
    assert found.startswith("mailrelayd.toml:")
    assert found.split(":")[1] in ("4", "5")
    assert "outbound.x.properties." in found
    assert problem in found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('"mail.imap.ssl.enable" = false', 'write security = "tls" or "starttls" above'),
        ('"mail.imap.auth" = false', "no mailbox can be read without a login"),
        ('"mail.from" = "a@example.com"', "write from_address in [outbound.NAME]"),
        ('"mail.store.protocol" = "pop3"', 'must be "imap" or "imaps"'),
    ],
)
def test_a_mailbox_has_its_own_rules(tmp_path: Path, lines: str, problem: str) -> None:
    """It needs a login, sends nothing, and is TLS by default."""
    assert problem in fault(tmp_path, inbound(lines))


def test_properties_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    """FlexDeploy's first piece of advice: with TLS, STARTTLS is off."""
    lines = '"mail.smtp.ssl.enable" = true\n"mail.smtp.starttls.enable" = true'
    assert fault(tmp_path, outbound(lines)) == (
        'mailrelayd.toml:5: outbound.x.properties."mail.smtp.starttls.enable": '
        "contradicts mail.smtp.ssl.enable about security: keep one of them"
    )
    assert "contradicts port about port" in fault(tmp_path, outbound('port = 25\n"socketFactory.port" = 26'))


def test_a_property_may_repeat_what_the_account_writes_and_not_contradict_it(tmp_path: Path) -> None:
    """In one file: neither of the two is later, so neither could win."""
    keys = 'host = "h"\nconnect_timeout = "5s"\n'
    assert read(tmp_path, outbound("connectiontimeout = 5000", keys)).settings.outbound["x"].connect_timeout == 5
    assert "contradicts connect_timeout" in fault(tmp_path, outbound("connectiontimeout = 5001", keys))
    assert "contradicts security" in fault(tmp_path, outbound("ssl.enable = true", keys + 'security = "auto"\n'))
    assert "contradicts tls.minimum" in fault(
        tmp_path, outbound("ssl.protocols = 'TLSv1.3'", keys + 'tls.minimum = "1.2"\n')
    )


def test_the_later_source_wins(tmp_path: Path) -> None:
    """A key of conf.d or of the environment over a property, a property of conf.d over a key."""
    text = outbound("port = 25")
    more = "[outbound.x]\nport = 26\n"
    assert read(tmp_path, text, more=more).settings.outbound["x"].port == 26
    assert read(tmp_path, text, {"MAILRELAYD__OUTBOUND__X__PORT": "27"}).settings.outbound["x"].port == 27
    later = "[outbound.x.properties]\nport = 28\nstarttls.enable = false\nssl.enable = true\n"
    loaded = read(tmp_path, '[outbound.x]\nhost = "h"\nport = 25\nsecurity = "starttls"\n', more=later)
    assert (loaded.settings.outbound["x"].port, loaded.settings.outbound["x"].security) == (28, "tls")
    assert loaded.origins["outbound.x.port"].endswith("more.toml:2")


def test_a_login_that_properties_ask_for_is_one(tmp_path: Path) -> None:
    """auth = true never ends in mail without a login, and a mechanism says which."""
    assert "user: is missing" in fault(
        tmp_path, outbound('"mail.smtp.auth" = true', 'host = "h"\npassword = "file:/p"\n')
    )
    account = read(tmp_path, outbound('"mail.smtp.auth" = true', f'host = "h"\n{LOGIN}')).settings.outbound["x"]
    assert account.auth == "password"
    text = outbound('"mail.smtp.auth" = true\n"mail.smtp.auth.mechanisms" = "XOAUTH2"', 'host = "h"\nuser = "u"\n')
    text += '[outbound.x.oauth]\ntenant_id = "t"\nclient_id = "c"\nclient_secret = "file:/s"\n'
    assert read(tmp_path, text).settings.outbound["x"].auth == "oauth2"


def test_properties_of_another_type_and_misspelt_ones_are_told(tmp_path: Path) -> None:
    """The error names the command that makes a table of a text."""
    assert "`mailrelayd config import-properties`" in fault(tmp_path, '[outbound.x]\nhost = "h"\nproperties = "a=b"\n')
    assert 'did you mean "properties"?' in fault(tmp_path, '[outbound.x]\nhost = "h"\nproperty.a = "b"\n')


def test_the_defaults_are_those_of_the_accounts() -> None:
    """What counts where an account does not say how its connection is protected."""
    assert {
        "outbound": OutboundAccount.model_fields["security"].default,
        "inbound": InboundAccount.model_fields["security"].default,
    } == properties.SECURITY
