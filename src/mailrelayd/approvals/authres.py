"""Authentication-Results (RFC 8601), read so that no sender can write what our own server should have said.

A header counts only if it carries an authserv-id of ours *and* stands above the Received line that our server wrote
when the mail came in: everything below that line came with the mail. A real tokenizer reads it, so that "dmarc=pass"
inside a comment or a quoted text is what it is: nothing. What cannot be read says nothing. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

LONGEST = 16_384  # characters of one header; longer ones say nothing
DEEPEST = 20  # comments within comments

_WORD = re.compile(r'[^\s;=()"\\]+')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SPACE = re.compile(r"\s+")
_COMMENT_PART = re.compile(r"[^()\\]+|\\.", re.DOTALL)
_BY = re.compile(r"(?:^|\s)by\s+(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?=[\s;(]|$)")
_LMTP = re.compile(r"\s*with\s+LMTPS?A?\s", re.IGNORECASE)  # RFC 3848
_FROM = re.compile(r"\s*from\s+([A-Za-z0-9._-]+)(?=\s)")  # LHLO: our own server's word
# What Postfix and sendmail write of a client: what it says of itself, and its name as DNS says, both ways.
_CLIENT = re.compile(r"\s*from\s+[^\s()]+\s+\(([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)\s+\[[0-9A-Fa-f:.]+\]\)(?=\s)")


@dataclass(frozen=True, slots=True)
class Result:
    """One method's result: `dkim=pass header.d=example.com`. Names and values in lower case, but for the addresses."""

    method: str
    result: str
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """One header: who says so ("" where it names nobody) and what."""

    authserv_id: str
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the From address is authenticated; why; and what was said about each method ("" where nothing was)."""

    trusted: bool
    reason: str  # a sentence
    authserv_id: str = ""
    dmarc: str = ""
    dkim: str = ""
    spf: str = ""
    signature_alone: bool = False  # nothing else speaks for it: anybody may have sent a signed mail again


def judge(fields: Sequence[tuple[str, str]], domain: str, authserv_ids: Iterable[str]) -> Verdict:
    """`sender_check = "authentication-results"`: what our own servers say about mail from `domain`.

    `fields`: every header field, top to bottom. dmarc=pass counts, else an aligned dkim=pass; of each method only the
    topmost result of ours, and only above the Received line of ours.
    """
    ours = {one.lower() for one in authserv_ids}
    ends = _incoming(fields, ours)
    read = (parse(value) for name, value in fields[:ends] if name.lower() == "authentication-results")
    headers = [one for one in read if one is not None and one.authserv_id in ours]
    if headers:
        return _conclude(headers, domain)
    return Verdict(False, _missing(fields, ends, ours))


def judge_microsoft_365(fields: Sequence[tuple[str, str]], domain: str) -> Verdict:
    """`sender_check = "microsoft-365"`: Exchange Online's own header names no server, and stands above all Received.

    For mailboxes in Exchange Online only: it removes such headers, and X-MS-Exchange-Organization-AuthAs, from what
    comes in.
    """
    said = [value.strip().lower() for name, value in fields if name.lower() == "x-ms-exchange-organization-authas"]
    if said == ["internal"]:
        return Verdict(True, "Exchange says that it was sent from inside the organisation (AuthAs: Internal)")
    ends = next((at for at, (name, _) in enumerate(fields) if name.lower() == "received"), len(fields))
    for name, value in fields[:ends]:
        if name.lower() == "authentication-results":
            header = parse(value)
            if header is None or header.authserv_id:
                return Verdict(False, "the topmost Authentication-Results is not the one of Exchange Online")
            verdict = _conclude([header], domain)
            if verdict.trusted and verdict.dmarc != "pass":
                return Verdict(
                    False, "Exchange Online says no dmarc=pass", "", verdict.dmarc, verdict.dkim, verdict.spf
                )
            return verdict
    return Verdict(False, "there is no Authentication-Results above all Received lines")


def parse(text: str) -> Results | None:
    """One header's value; None where it breaks the grammar, is longer than anybody writes, or is of another version."""
    if len(text) > LONGEST or (tokens := _tokens(text)) is None:
        return None
    parts = _split(tokens)
    authserv_id = ""
    if parts and "=" not in parts[0]:
        head = parts.pop(0)
        if not head or head[1:] not in ([], ["1"]):  # RFC 8601 section 2.2: the version, if any, is 1
            return None
        authserv_id = head[0].removeprefix('"').lower()
    results = []
    for part in parts:
        if not part or part == ["none"]:
            continue
        one = _result(part)
        if one is None:
            return None
        results.append(one)
    return Results(authserv_id, tuple(results)) if authserv_id or results else None


def _conclude(headers: Sequence[Results], domain: str) -> Verdict:
    """What the topmost result of each method means for this From domain."""
    domain = domain.lower()
    said: dict[str, list[Result]] = {}
    for method in ("dmarc", "dkim", "spf"):
        found = ([one for one in header.results if one.method == method] for header in headers)
        said[method] = next((results for results in found if results), [])
    authserv_id = headers[0].authserv_id
    dmarc, spf = (said[method][0].result if said[method] else "" for method in ("dmarc", "spf"))
    signed = any(one.result == "pass" and _aligned(one, domain) for one in said["dkim"])
    dkim = "pass" if signed else next((one.result for one in said["dkim"] if one.result != "pass"), "")
    dkim = dkim or ("unaligned" if said["dkim"] else "")

    by_server = any(one.result == "pass" and _sent_by(one, domain) for one in said["spf"])
    alone = signed and bool(said["spf"]) and not by_server

    def verdict(trusted: bool, reason: str) -> Verdict:
        return Verdict(trusted, reason, authserv_id, dmarc, dkim, spf, trusted and alone)

    if len(said["dmarc"]) > 1:
        return verdict(False, "it says more than one dmarc result")
    if dmarc == "pass":
        about = said["dmarc"][0].properties.get("header.from", domain).rpartition("@")[2].lower()
        if about != domain:
            return verdict(False, f"dmarc=pass is about {about}, not about {domain}")
        return verdict(True, "dmarc=pass")
    if dmarc == "fail":
        return verdict(False, "dmarc=fail")
    if signed:
        return verdict(True, "an aligned dkim=pass")
    return verdict(False, f"neither dmarc=pass nor a dkim=pass of {domain}")


def _aligned(result: Result, domain: str) -> bool:
    """Whether the signer is the From domain or one above it. Without a list of public suffixes no sibling counts."""
    signer = result.properties.get("header.d") or result.properties.get("header.i", "").rpartition("@")[2]
    signer = signer.lower().rstrip(".")
    return bool(signer) and (domain == signer or ("." in signer and domain.endswith("." + signer)))


def _sent_by(result: Result, domain: str) -> bool:
    """Whether the server that spf speaks of sends for the From domain, or one above or below it (RFC 7489, 3.1.2)."""
    sent_for = result.properties.get("smtp.mailfrom", "").rpartition("@")[2].lower().rstrip(".")
    above = ("." in sent_for and domain.endswith("." + sent_for)) or sent_for.endswith("." + domain)
    return bool(sent_for) and (sent_for == domain or above)


def _incoming(fields: Sequence[tuple[str, str]], ours: set[str]) -> int:
    """The index of the Received line that our server wrote when the mail came in; above it nobody else wrote.

    The topmost line is our own, whoever wrote it. It is that line, unless it says that the mail was only handed on
    within: from our server, or another one of its domain, which wrote the next. What HELO says proves nothing, so
    that has to be known: over LMTP nobody else delivers, and else the client's name was looked up.
    """
    domains = {one.partition(".")[2] for one in ours if one.count(".") > 1} | ours
    found, wanted = None, ""
    for at, (name, value) in enumerate(fields):
        if name.lower() != "received":
            continue
        hop = _hop(value)
        if wanted and hop.by != wanted:
            break
        found = at
        wanted = hop.handed_on_by
        if not wanted or not (wanted in ours or wanted.partition(".")[2] in domains):
            break
    return len(fields) if found is None else found


def _missing(fields: Sequence[tuple[str, str]], ends: int, ours: set[str]) -> str:
    """Why nothing of ours was found, and what to do about it."""
    there = [parse(value) for name, value in fields if name.lower() == "authentication-results"]
    if any(one is not None and one.authserv_id in ours for one in there):
        by = _hop(fields[ends][1]).by if ends < len(fields) and fields[ends][0].lower() == "received" else ""
        return f"our Authentication-Results stands below the Received line of {by or 'another server'}"
    if named := [one.authserv_id for one in there if one is not None and one.authserv_id]:
        return f"no Authentication-Results of ours: the topmost is of {named[0]}, which is not in authserv_id"
    return "no Authentication-Results"


@dataclass(frozen=True, slots=True)
class _Hop:
    """One Received line: who wrote it ("": it does not say), and from which server it surely had the mail, if any."""

    by: str
    handed_on_by: str


def _hop(received: str) -> _Hop:
    text = _without_comments(received)
    found = _BY.search(text)
    if found is None:
        return _Hop("", "")
    greeted, client = _FROM.match(text), _CLIENT.match(received[:LONGEST])
    source = ""
    if _LMTP.match(text, found.end()) and greeted and greeted.end() <= found.start():
        source = greeted[1]
    elif client is not None:
        source = client[1]
    return _Hop(_name(found["host"]), _name(source))


def _name(host: str) -> str:
    return host.lower().rstrip(".")


def _without_comments(text: str) -> str:
    kept, depth = [], 0
    for piece in re.split(r"([()])", text[:LONGEST]):
        if piece == "(":
            depth += 1
        elif piece == ")":
            depth = max(depth - 1, 0)
        elif not depth:
            kept.append(piece)
    return " ".join(kept)


def _result(part: list[str]) -> Result | None:
    """`method[/version]=result [reason=..] property=value ...`; only a value may be quoted."""
    if len(part) % 3:
        return None
    pairs = [(part[at], part[at + 2]) for at in range(0, len(part), 3) if part[at + 1] == "="]
    if len(pairs) * 3 != len(part) or any(key.startswith('"') or value in ("=", ";") for key, value in pairs):
        return None
    (method, result), *rest = pairs
    method, _, version = method.lower().partition("/")
    if version not in ("", "1") or result.startswith('"'):
        return None
    properties: dict[str, str] = {}
    for key, value in rest:
        # Said twice, a property says nothing: which of the two is meant would be a guess.
        properties[key.lower()] = "" if key.lower() in properties else value.removeprefix('"')
    return Result(method, result.lower(), properties)


def _split(tokens: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in tokens:
        if word == ";":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _tokens(text: str) -> list[str] | None:
    """Words, `=`, `;`, and quoted texts, each behind one `"`; comments and space are gone. None: not to be read."""
    tokens, at = [], 0
    while at < len(text):
        if space := _SPACE.match(text, at):
            at = space.end()
        elif text[at] == "(":
            end = _end_of_comment(text, at)
            if end is None:
                return None
            at = end
        elif text[at] in ";=":
            tokens.append(text[at])
            at += 1
        elif quoted := _QUOTED.match(text, at):
            tokens.append('"' + re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL))
            at = quoted.end()
        elif word := _WORD.match(text, at):
            tokens.append(word[0])
            at = word.end()
        else:
            return None
    return tokens


def _end_of_comment(text: str, at: int) -> int | None:
    depth = 0
    while at < len(text):
        if text[at] == "(":
            depth += 1
            if depth > DEEPEST:
                return None
        elif text[at] == ")":
            depth -= 1
            if not depth:
                return at + 1
        elif part := _COMMENT_PART.match(text, at):
            at = part.end()
            continue
        else:  # a lone backslash at the very end
            return None
        at += 1
    return None
