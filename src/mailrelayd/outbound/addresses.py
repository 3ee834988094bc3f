"""Addresses as header fields write them (RFC 5322 section 3.4) and as SMTP takes them (RFC 5321 section 4.1.2).

Strict where a guess could send a mail to the wrong people (a missing comma, a name without a domain), lenient where
producers are careless without being unclear (dots and `@` in display names, 8-bit names, commas in encoded words).
One pass over the text, no recursion: the time is linear in its length, whatever it holds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

MAX_LOCAL = 64  # octets, RFC 5321 section 4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 section 4.5.3.1.2
MAX_ADDRESS = 254  # octets, RFC 5321 section 4.5.3.1.3: a path has 256, two of them are < and >
MAX_LABEL = 63  # octets, RFC 1035 section 2.3.4

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]"  # RFC 5322 section 3.2.3, RFC 6532 section 3.2
_DOT_ATOM = re.compile(rf"{_ATEXT}++(?:\.{_ATEXT}++)*")
_QUOTED = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_\-\u0080-\U0010ffff]++(?<!-)")  # RFC 5321 section 4.1.2, and _ which exists

_EMPTY_ELEMENTS = re.compile(r"[ \t\r\n,]*+")  # RFC 5322 section 4.4: nothing may stand between two commas

# What nearly every list consists of: an address, alone or behind a name that cannot be taken for anything else. It is a
# strict subset of what is read token by token, which takes a second for a list of 100,000. No group here is possessive:
# before 3.11.5, Python goes on behind what the last, failed round of such a group had consumed (gh-106052).
_SIMPLE = r"([A-Za-z0-9_+\-]++(?:\.[A-Za-z0-9_+\-]++)*@[A-Za-z0-9]++(?:-++[A-Za-z0-9]++|\.[A-Za-z0-9]++)*)"
_NAME = (
    r"(?:[A-Za-z0-9!#$%&'*+/^_`{|}~\-\u0080-\U0010ffff. \t\r\n]++"  # no = and ?, with which an encoded word begins
    r'|"[^"\\]*+"|=\?[A-Za-z0-9_\-]++\?[BbQq]\?[A-Za-z0-9+/=_\-]*+\?=)*'
)
_PLAIN = re.compile(rf"[ \t\r\n,]*+(?:{_SIMPLE}|{_NAME}<{_SIMPLE}>)[ \t\r\n]*+(?:,|\Z)")

_TOKEN = re.compile(
    r"""  (?P<space>[ \t\r\n]++)
        | (?P<quoted>"(?:[^"\\]++|\\.)*+")
        | (?P<literal>\[[^\[\]\\]*+\])
        | (?P<word>=\?[^?\s]++\?[BbQq]\?[^?\s]*+\?=          # RFC 2047, with the commas that many leave inside
                 | [^\x00-\x20\x7f()<>\[\]:;@\\,."]++)
        | (?P<special>[(<>:;@,.])
    """,
    re.DOTALL | re.VERBOSE,
)
_COMMENT_PART = re.compile(r"(?:[^()\\]++|\\.)*+([()])", re.DOTALL)

_ANGLE = re.compile(r'<[^<>"]*+(?:"(?:[^"\\]++|\\.)*+"[^<>"]*+)*>', re.DOTALL)
_PARAMETER = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*(?:=[\x21-\x7e]*)?")


class AddressError(ValueError):
    """Not an address, or not one that can be used; the text is a sentence for people, without control characters."""


def shown(text: str) -> str:
    """`text` as it may stand in a reason: quoted, control characters escaped, cut after 100 characters."""
    return repr(text if len(text) <= 100 else text[:100] + "...")


def valid_address(address: str) -> str | None:
    """Why `address` (an addr-spec, without angle brackets) cannot stand in an envelope; None if it can."""
    try:
        canonical(address)
    except AddressError as error:
        return str(error)
    return None


def matches(address: str, patterns: Iterable[str]) -> bool:
    """Whether an addr-spec is covered by one of the patterns: see `valid_pattern` for what they may be.

    ASCII letters compare without case, in the local part too: what is meant to fence somebody in must not depend on it.
    """
    address = folded(address)
    local, _, domain = address.rpartition("@")
    for pattern in map(folded, patterns):
        wanted, at, where = pattern.rpartition("@")
        if pattern == "*" or pattern == address:
            return True
        if not at or wanted not in ("", "*", local):
            continue
        if where == domain or (where.startswith("*.") and domain.endswith(where[1:])):
            return True
    return False


def valid_pattern(pattern: str) -> str | None:
    """Why `pattern` is none; None for "a@example.com", "@example.com" (or "*@..."), "@*.example.com" and "*"."""
    if pattern == "*":
        return None
    local, at, domain = pattern.rpartition("@")
    if not at or "*" in local.replace("*", "", local == "*") or "*" in domain.removeprefix("*."):
        return (
            f'{shown(pattern)} is none of "a@example.com", "@example.com", "@*.example.com" (any subdomain), "*" (all)'
        )
    return valid_address(f"{'x' if local in ('', '*') else local}@{domain.removeprefix('*.')}")


def one_spelling(address: str) -> str:
    """The same for all spellings that a server may take for one mailbox: of its domain (RFC 3490), and by NFKC.

    More than one mailbox may share it, so it is for keeping mail back, never for letting it through.
    """
    local, at, domain = address.rpartition("@")
    if domain.isascii() and "xn--" not in domain.lower():
        spelled = domain
    else:
        try:
            spelled = domain.lower().encode("idna").decode("ascii")
        except UnicodeError:
            spelled = unicodedata.normalize("NFKC", domain).casefold()
    return unicodedata.normalize("NFKC", local).casefold() + at + spelled


def folded(text: str) -> str:
    """ASCII letters in lower case, all others as they are."""
    return "".join(c.lower() if c.isascii() else c for c in text)


def canonical(address: str) -> str:
    """A valid addr-spec in its one spelling: the local part is quoted only where it must be. Raises AddressError."""
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain:
        raise AddressError(f"{shown(address)} is not of the form NAME@DOMAIN")
    quoted = _QUOTED.fullmatch(local)
    if quoted:
        local = _QUOTED_PAIR.sub(r"\1", quoted[1])
    elif not _DOT_ATOM.fullmatch(local):
        hint = "a dot at its ends or two in a row" if ".." in f".{local}." else "a character that needs quotes"
        raise AddressError(f'{shown(address)} has {hint} before the @: write it as "..."@DOMAIN if it is meant')
    return _checked(local, domain)


def same_mailbox(address: str) -> str:
    """What all spellings of one mailbox share: only the domain is case-insensitive (RFC 5321 section 2.4)."""
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{domain.lower()}"


def person(address: str) -> str:
    """As people are compared, to find out who was asked and who answers: ASCII letters without case, all over."""
    return folded(same_mailbox(address))


def unique(addresses: Iterable[str]) -> tuple[str, ...]:
    """The addresses in order, without repetitions, each in its first spelling."""
    first: dict[str, str] = {}
    for address in addresses:
        first.setdefault(same_mailbox(address), address)
    return tuple(first.values())


def read_list(text: str, *, null: bool = False) -> list[str]:
    """The addr-specs in the value of a To or From field, folding included.

    Groups give their members. Display names, comments and source routes (RFC 5321 section 4.1.1.3) are dropped.
    `null`: the empty path `<>` is allowed and gives "". Raises AddressError.
    """
    only = _PLAIN.match(text)
    if only is not None and only.end() == len(text):
        return [_simple(only)]
    return _ListReader(text, null).read()


def read_path(text: str, *, null: bool = False) -> str:
    """The one address of an X-Sender or X-Receiver line: bare or in angle brackets, ESMTP parameters behind it.

    The parameters (`NOTIFY=NEVER`, RFC 5321 section 4.1.2) are checked for their shape and dropped; without any, a
    display name is allowed. `null` as in read_list. Raises AddressError.
    """
    text = text.strip(" \t\r\n")
    angle = _ANGLE.match(text)
    path, *rest = (angle[0], text[angle.end() :]) if angle else text.split(maxsplit=1)[:2] or ("",)
    parameters = rest[0].split() if rest else []
    if not all(_PARAMETER.fullmatch(parameter) for parameter in parameters) or (not angle and "@" not in path):
        path = text  # then it is a display name, a comment, or wrong
    found = read_list(path, null=null)
    if len(found) != 1:
        raise AddressError(f"{shown(text)} holds {len(found) or 'no'} addresses where one is needed")
    return found[0]


def _checked(local: str, domain: str) -> str:
    """The address of an unquoted local part and a domain, once both are known to be safe in an SMTP command."""
    if not _DOT_ATOM.fullmatch(local):
        local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    address = f"{local}@{domain}"
    if not address.isprintable():
        raise AddressError(f"{shown(address)} holds control characters or is not UTF-8")
    # RFC 5321 allows blanks and angle brackets inside quotes, but servers exist that take what follows as parameters.
    if " " in address or "<" in address or ">" in address:
        raise AddressError(f"{shown(address)} holds a blank or an angle bracket, which no envelope address may")
    if len(local.encode()) > MAX_LOCAL:
        raise AddressError(f"{shown(address)} has more than {MAX_LOCAL} octets before the @")
    if len(domain.encode()) > MAX_DOMAIN:
        raise AddressError(f"{shown(address)} has more than {MAX_DOMAIN} octets behind the @")
    if domain.startswith("["):
        _check_literal(address, domain)
    else:
        for label in domain.split("."):
            if not _LABEL.fullmatch(label) or len(label.encode()) > MAX_LABEL:
                raise AddressError(f"{shown(address)} has no valid domain: {shown(label)} cannot stand between dots")
    if len(address.encode()) > MAX_ADDRESS:
        raise AddressError(f"{shown(address)} is longer than {MAX_ADDRESS} octets")
    return address


def _check_literal(address: str, domain: str) -> None:
    """RFC 5321 section 4.1.3: [192.0.2.1] or [IPv6:2001:db8::1]."""
    inside = domain[1:-1] if domain.endswith("]") and "%" not in domain else ""
    try:
        if inside[:5].lower() == "ipv6:":
            IPv6Address(inside[5:])
        else:
            IPv4Address(inside)
    except ValueError:
        raise AddressError(f"{shown(address)} has no IP address between the brackets") from None


_Token = tuple[str, str, int]  # kind ("word", "quoted", "literal" or the special itself), text, position


def _simple(match: re.Match[str]) -> str:
    """The address that _PLAIN found."""
    address: str = match[1] or match[2]
    if len(address) > MAX_LABEL:  # up to there no limit can be exceeded
        local, _, domain = address.rpartition("@")
        _checked(local, domain)
    return address


class _ListReader:
    """One reading of one address list (RFC 5322 section 3.4, with the obsolete forms of section 4.4)."""

    def __init__(self, text: str, null: bool) -> None:
        self.text = text
        self.null = null
        self.position = 0
        self.found: list[str] = []
        self.element: list[_Token] = []
        self.angle: str | None = None
        self.start = 0  # of the element, for messages
        self.in_group = False
        self.after_group = False

    def read(self) -> list[str]:
        while True:
            # Only at the start of an element can a plain address stand.
            if not self.element and self.angle is None and not self.after_group:
                self._plain()
            token = self._token()
            if token is None:
                break
            self._take(token)
        if self.in_group:
            raise AddressError(
                f"a group in {shown(self.text.strip())} has no ; at its end (a : in a name needs quotes)"
            )
        self._end_element()
        return self.found

    def _plain(self) -> None:
        """Take the addresses from here on of which the form leaves no doubt, and what is empty before the rest."""
        while match := _PLAIN.match(self.text, self.position):
            self.found.append(_simple(match))
            self.position = match.end()
        match = _EMPTY_ELEMENTS.match(self.text, self.position)
        assert match is not None  # it matches nothing as well
        self.start = self.position = match.end()

    def _take(self, token: _Token) -> None:
        kind = token[0]
        if kind == ",":
            self._end_element()
            self.after_group = False
        elif kind == ";":
            if not self.in_group:
                raise AddressError(f"{self._so_far()} has a ; that ends no group: separate addresses with commas")
            self._end_element()
            self.in_group, self.after_group = False, True
        elif self.after_group:
            raise AddressError(f"{shown(token[1])} follows a group without a comma")
        elif kind == ":":
            # RFC 5322 section 3.4: groups do not nest, and their name is a phrase.
            if self.in_group or self.angle is not None or not self.element or any(t[0] == "@" for t in self.element):
                raise AddressError(f"{self._so_far()} has a : where none can stand (a name with it needs quotes)")
            self.element, self.in_group, self.start = [], True, self.position
        elif self.angle is not None:
            raise AddressError(f"{self._so_far()} goes on after the > of an address: a comma is missing")
        elif kind == "<":
            self.angle = self._angle()
        elif kind == ">":
            raise AddressError(f"{self._so_far()} has a > without a <")
        else:
            self.element.append(token)

    def _end_element(self) -> None:
        if self.angle is not None:
            if not self.angle and not self.null:
                raise AddressError("the empty address <> cannot stand here")
            self.found.append(self.angle)
        elif self.element:
            self.found.append(self._addr_spec(self.element, self.start))
        self.element, self.angle, self.start = [], None, self.position

    def _angle(self) -> str:
        """What stands between < and >; "" for an empty path."""
        start = self.position
        tokens: list[_Token] = []
        in_route = False
        while (token := self._token()) is not None and token[0] != ">":
            in_route = (tokens[0] if tokens else token)[0] in ("@", ",")
            if token[0] in ("<", ";") or (token[0] == "," and not in_route):
                raise AddressError(f"{self._so_far()} has a {token[0]} between < and >")
            tokens.append(token)
        if token is None:
            raise AddressError(f"{self._so_far()} has a < without a >")
        if tokens and in_route:  # obs-route, RFC 5322 section 4.4: <@relay1,@relay2:name@domain>
            colon = next((index for index, part in enumerate(tokens) if part[0] == ":"), None)
            if colon is None:
                raise AddressError(f"{self._so_far()} has a source route without its :")
            tokens = tokens[colon + 1 :]
            if not tokens:
                raise AddressError(f"{self._so_far()} has a source route without an address")
        return self._addr_spec(tokens, start) if tokens else ""

    def _addr_spec(self, tokens: list[_Token], start: int) -> str:
        """RFC 5322 section 3.4.1, with white space and comments around dots and @ (section 4.4)."""
        ats = [index for index, token in enumerate(tokens) if token[0] == "@"]
        written = shown(self.text[start : tokens[-1][2] + len(tokens[-1][1])].strip())
        if not ats:
            raise AddressError(f"{written} has no domain: write NAME@DOMAIN (a comma in a name needs quotes)")
        if len(ats) > 1:
            raise AddressError(f"{written} has more than one @: a comma is missing, or a name needs quotes")
        local, domain = tokens[: ats[0]], tokens[ats[0] + 1 :]
        atoms = all(_DOT_ATOM.fullmatch(part) for kind, part, _ in local if kind == "word")
        if not atoms or not _alternate(local, ("word", "quoted")):
            raise AddressError(f"{written} has no valid name before the @")
        if not (len(domain) == 1 and domain[0][0] == "literal") and not _alternate(domain, ("word",)):
            raise AddressError(f"{written} has no valid domain behind the @")
        content = "".join(
            _QUOTED_PAIR.sub(r"\1", part[1:-1].replace("\r", "").replace("\n", "")) if kind == "quoted" else part
            for kind, part, _ in local
        )
        return _checked(content, "".join(part for _, part, _ in domain))

    def _token(self) -> _Token | None:
        """The next token that is neither white space nor comment; None at the end."""
        while self.position < len(self.text):
            match = _TOKEN.match(self.text, self.position)
            if match is None:
                raise AddressError(f"{self._so_far(1)} cannot be read as an address: {self._what_is_wrong()}")
            start, self.position = self.position, match.end()
            kind = match.lastgroup
            if kind == "space":
                continue
            if match[0] == "(":
                self._skip_comment()
                continue
            return (match[0] if kind == "special" else kind or "", match[0], start)
        return None

    def _skip_comment(self) -> None:
        """RFC 5322 section 3.2.2: comments nest; a count is enough to follow them."""
        depth = 1
        while depth:
            match = _COMMENT_PART.match(self.text, self.position)
            if match is None:
                raise AddressError(f"{self._so_far()} has a ( without its )")
            self.position = match.end()
            depth += 1 if match[1] == "(" else -1

    def _what_is_wrong(self) -> str:
        character = self.text[self.position]
        reasons = {'"': "the quotes are never closed", "[": "the [ is never closed", ")": "a ) without a ("}
        return reasons.get(character, f"{shown(character)} must not stand here")

    def _so_far(self, more: int = 0) -> str:
        # The end says more than the start, and a long list must not be copied for a message.
        start = max(self.start, self.position - 80)
        return shown(self.text[start : self.position + more].strip())


def _alternate(tokens: list[_Token], kinds: tuple[str, ...]) -> bool:
    """Whether these are words with one dot between each two: two words side by side are a missing comma."""
    return len(tokens) % 2 == 1 and all(
        token[0] in kinds if index % 2 == 0 else token[0] == "." for index, token in enumerate(tokens)
    )
