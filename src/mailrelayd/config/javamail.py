"""JavaMail's properties, turned into an account. Pure.

    mail.${{PROTOCOL}}.ssl.enable=true      ->      security = "tls"   # line 4: mail.${{PROTOCOL}}.ssl.enable

The account is one that loads, whatever the text leaves open: what cannot be taken over stands in it as a comment, and
an account that somebody must complete first is not enabled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mailrelayd.config import claims, properties
from mailrelayd.config.claims import PROTOCOLS, Claim, Path
from mailrelayd.config.javatext import Property, TextError
from mailrelayd.config.literals import literal
from mailrelayd.config.properties import Fault

_KEYS = (  # in the order they are printed
    *("host", "port", "security", "auth", "user", "password", "from_address"),
    *("connect_timeout", "command_timeout", "tls.minimum", "tls.maximum"),
)
_EXAMPLES = {
    "host": '"{protocol}.example.com"',
    "port": "{port}",
    "security": '"starttls"',
    "user": '"relay@example.com"',
    "from_address": '"noreply@example.com"',
    "connect_timeout": '"10s"',
    "command_timeout": '"60s"',
    "auth": '"password"',
    "tls.minimum": '"1.2"',
}
_PORTS = {"outbound": 587, "inbound": 993}
_KEY_OF = {  # which key a property fills, where its value is not known
    "host": "host",
    "port": "port",
    "socketFactory.port": "port",
    "user": "user",
    "from": "from_address",
    "auth": "auth",
    "auth.mechanisms": "auth",
    "connectiontimeout": "connect_timeout",
    "timeout": "command_timeout",
    "ssl.protocols": "tls.minimum",
}


@dataclass(slots=True)
class Draft:
    """An account in TOML. `sources` says which of its lines come from which line of the text, both counted from 1."""

    lines: list[str] = field(default_factory=list)
    sources: dict[int, Property] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole, as a file's content."""
        return "\n".join(self.lines) + "\n"

    def add(self, line: str, source: Property | None = None) -> None:
        """Put a line at the end."""
        self.lines.append(line)
        if source is not None:
            self.sources[len(self.lines)] = source


def draft(written: list[Property], name: str, given: Mapping[str, str], direction: str = "") -> Draft:
    """The accounts these properties describe, in TOML. Raises TextError: not one of them is about mail.

    `given`: values of variables, such as IMAP_HOST_NAME. `direction`: "outbound", "inbound", or "" for what they say.
    """
    protocol = next((one.value.strip() for one in written if one.key == "PROTOCOL"), "")
    directions = [direction] if direction else list(_directions(written, protocol))
    if not directions:
        line = written[0].line if written else 1
        raise TextError([(line, "nothing here begins with mail.smtp or mail.imap: say --direction in or out")])
    result = Draft()
    for one in directions:
        if result.lines:
            result.add("")
        mine = [each for each in written if direction or _is_about(each, one, protocol)]
        _account(result, mine, one, name, {**({"PROTOCOL": protocol} if protocol else {}), **given})
    return result


def _directions(written: list[Property], protocol: str) -> Iterator[str]:
    for direction, stem in PROTOCOLS.items():
        own = "transport.protocol" if direction == "outbound" else "store.protocol"
        for one in written:
            about, bare = claims.parts(one.key.replace("${{PROTOCOL}}", protocol or "?"))
            if stem in (about.removesuffix("s"), protocol.removesuffix("s")) or bare == own:
                yield direction
                break
            if direction == "inbound" and "${{IMAP_" in one.key + one.value:
                yield direction
                break


def _is_about(one: Property, direction: str, protocol: str) -> bool:
    """Whether a property belongs to this of two accounts; one without a prefix belongs to both."""
    about, bare = claims.parts(one.key.replace("${{PROTOCOL}}", protocol))
    if bare in ("transport.protocol", "store.protocol"):
        return (bare == "transport.protocol") == (direction == "outbound")
    if bare == "PROTOCOL":
        about = one.value.strip()
    if bare == "from":
        return direction == "outbound"
    return not about or about.removesuffix("s") == PROTOCOLS[direction]


@dataclass(slots=True)
class _Found:
    """What the properties of one account come to."""

    claims: list[tuple[Claim, Property]] = field(default_factory=list)
    open: dict[str, tuple[Property, str]] = field(default_factory=dict)  # key -> what is to be written, and why
    left: list[tuple[Property, str]] = field(default_factory=list)  # not taken over, and why
    taken: list[tuple[Property, str]] = field(default_factory=list)  # the others, and their names without prefixes
    password: Property | None = None
    values: dict[str, tuple[object, Property]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)  # keys whose values must be completed by others first


def _account(result: Draft, mine: list[Property], direction: str, name: str, given: Mapping[str, str]) -> None:
    found = _understood(mine, direction, given)
    _settle(found, direction)
    user, password = found.values.get("user"), found.password
    source: Property | None
    auth = found.values.get("auth", (None, None))[0]
    if auth == "oauth2" or (auth == "password" and user is None):  # as they are, these would not load
        found.waiting = {"auth", "user"}
        if user is None:
            found.open["user"] = (found.values["auth"][1], "a login has a name")
    result.add(f"[{direction}.{name}]")
    if reason := _incomplete(found, direction):
        result.add(f"enabled = false  # {reason}; then remove this line")
    if "host" not in found.values:
        source, why = found.open.pop("host", (None, "no host was written"))
        result.add(f"#host = {_example('host', direction)}  # {_told(source, why)}", source)
        result.add(f'host = "{PROTOCOLS[direction]}.invalid"  # in its place until then')
    for key in _KEYS:
        if key in found.values:
            value, source = found.values[key]
            result.add(f"{'#' if key in found.waiting else ''}{key} = {literal(value)}  # {_told(source)}", source)
        elif key in found.open:
            source, why = found.open[key]
            result.add(f"#{key} = {_example(key, direction)}  # {_told(source, why)}", source)
        if key == "user" and auth not in ("none", "oauth2") and (user or password):
            why = f"put it into /etc/mailrelayd/credentials/{name}.password"
            result.add(f'{"" if user else "#"}password = "credential:{name}.password"  # {_told(password, why)}')
    if auth == "oauth2":
        result.add(f"# An [{direction}.{name}.oauth] section says where the token comes from: docs/oauth.md")
    told = [*result.sources.values(), *(one for one, _ in found.left)]
    for one, bare in found.taken:
        if one not in told and bare != "PROTOCOL":
            result.add(f"# {_told(one, claims.KNOWN[bare])}")
    for one, why in found.left:
        result.add(f"# {_told(one, f'not taken over: {why}')}")


def _understood(mine: list[Property], direction: str, given: Mapping[str, str]) -> _Found:
    """What each property claims. Raises TextError where values make no sense."""
    found = _Found()
    problems = []
    variables = {**properties.variables_of({}, direction, ""), "HOSTNAME": None, "STARTTLS": None}
    variables |= {"IMAP_ENABLE_STARTTLS": None} if direction == "inbound" else {}
    variables |= given
    for one in mine:
        bare = claims.parts(one.key)[1]
        try:
            told = properties.substitute(one.key, variables, {})
            bare = claims.parts(told)[1]
            meant = properties.substitute(one.value, variables, {})
            found.claims += [(claim, one) for claim in claims.claims(direction, told, meant)]
            found.taken.append((one, bare))
        except properties.UnresolvedError as error:
            why = f"${{{{{_printable(error.variable)}}}}} is not known here"
            if key := _KEY_OF.get(bare):
                found.open.setdefault(key, (one, f"{why}: write it"))
            elif bare == "starttls.enable":
                found.open["security"] = (one, f"{why}: write it if that was true")
            else:
                found.left.append((one, why))
        except claims.MalformedError as error:
            problems.append((one.line, f"{_printable(one.key)}: {error}"))
        except ValueError as error:
            if bare == "password":
                found.password = one
            else:
                found.left.append((one, str(error)))
    if not problems and not found.claims and not found.open:
        problems = [(one.line, f"{_printable(one.key)}: {why}") for one, why in found.left]
        problems = problems or [(1, "nothing here is a property of mail")]
    if problems:
        raise TextError(problems)
    return found


def _settle(found: _Found, direction: str) -> None:
    """Make values of the claims; of two that contradict each other one is left, the safer where it is about TLS."""
    about: dict[Path, list[tuple[tuple[object, ...], Path]]] = {}
    sources: dict[Path, Property] = {}
    for claim, one in sorted(found.claims, key=lambda each: each[0].values != ("tls",)):
        sources["properties", one.key] = one
        about.setdefault(claim.key, []).append((claim.values, ("properties", one.key)))
    for key, rest in about.items():
        result = properties.settle(key, rest, {}, direction, lambda _: 0)
        while isinstance(result, Fault):
            found.left.append((sources[result.source], result.text))
            rest = [one for one in rest if one[1] != result.source]
            result = properties.settle(key, rest, {}, direction, lambda _: 0)
        if result is not None:
            found.values[".".join(key)] = (result.value, sources[result.source])
    if "security" in found.values and "security" in found.open:
        security, (one, _) = found.values["security"][0], found.open.pop("security")
        if security == "tls":
            found.left.append((one, "it must be false where TLS begins with the first byte"))
    for name in found.values.keys() & found.open.keys():
        del found.open[name]


def _incomplete(found: _Found, direction: str) -> str:
    """Why the account cannot be enabled as it is; "" where it can."""
    if "host" not in found.values or found.waiting or "user" in found.open:
        return 'write what the lines with "#" ask for'
    if direction == "inbound" and "user" not in found.values:
        return "without a user it logs in as the outbound account: write one, or have one there"
    return ""


def _example(key: str, direction: str) -> str:
    return _EXAMPLES[key].format(protocol=PROTOCOLS[direction], port=_PORTS[direction])


def _told(source: Property | None, why: str = "") -> str:
    """Where something comes from, and what is to be known about it; names only, as a value may be a password."""
    where = f"line {source.line}: {_printable(source.key)}" if source is not None else ""
    return ": ".join(part for part in (where, why) if part)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:100])
