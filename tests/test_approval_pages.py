"""docs/approvals.md and docs/decisions.md against the program: what they promise happens, and nothing else can."""

from __future__ import annotations

import ast
import json
import re
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import standardwebhooks

import mailrelayd.approvals
from mailrelayd.approvals import mime
from mailrelayd.approvals.bounces import Fate
from mailrelayd.approvals.judge import TOLD, Outcome
from mailrelayd.approvals.outbox import SCHEDULE
from mailrelayd.approvals.reading import read
from mailrelayd.approvals.request import Asked, asked, entitled
from mailrelayd.approvals.values import Kind
from mailrelayd.approvals.vocabulary import LANGUAGES
from mailrelayd.approvals.webhook import key_of, signature
from mailrelayd.config.answering import Approvals, Decisions, InboundAccount
from mailrelayd.outbound.headers import Header, split_header

ROOT = Path(__file__).parent.parent
APPROVALS = (ROOT / "docs" / "approvals.md").read_text(encoding="utf-8")
DECISIONS = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
CODE = Path(mailrelayd.approvals.__file__).parent
# Where a reason stands in a call, by the name of what is called.
REASON_AT = {"Verdict": 1, "unclear": 0, "outcome": 1, "Judgement": 1, "close": 2, "tell": 3, "_BoundError": 0}
# What the queue says of a copy that it gave up: anything in it may.
OF_THE_QUEUE = {"rejected", "unsupported", "expired", "unreadable", "changed", "by-hand", "suppressed"}


def blocks(page: str, language: str) -> list[str]:
    """What stands between fences of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table that has this first cell in its heading."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert table is not None, heading
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]


def words(expression: ast.expr) -> Iterator[str]:
    """The texts that an expression may be."""
    match expression:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=orelse):
            yield from words(body)
            yield from words(orelse)


def reasons_in_code() -> set[str]:
    """Every reason that the modules about answers can give, read from their source."""
    found = {Kind.AUTO_REPLY.value, Kind.LIST.value, Kind.CALENDAR.value}
    for name in ("judge", "reading", "verdict", "desk", "mime"):
        for node in ast.walk(ast.parse((CODE / f"{name}.py").read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=args):
                    at = REASON_AT.get(called)
                    found |= set(words(args[at])) if at is not None and len(args) > at else set()
                case ast.Assign(targets=[ast.Name(id="reason")], value=value):
                    found |= set(words(value))
    return found | {fate.value for fate in Fate if fate is not Fate.FAILED}


def test_every_reason_is_explained_and_no_other() -> None:
    """A consumer that looks a code up finds it."""
    tables = [row[1] for row in rows(DECISIONS, "decision") + rows(DECISIONS, "outcome")]
    told = {code for cell in tables for code in re.findall(r"`([a-z-]+)`", cell)}
    end = DECISIONS[DECISIONS.index("Mail without a token of ours") : DECISIONS.index("## A folder")]
    told |= set(re.findall(r"`([a-z-]+)`", end)) - {outcome.value for outcome in Outcome}
    in_code = reasons_in_code()
    assert {"first-line-keyword", "several-requests", "no-text", "no-answer", "too-deep", "bounced"} <= in_code
    assert told - OF_THE_QUEUE == in_code - OF_THE_QUEUE


def test_every_outcome_is_explained() -> None:
    """Those that become documents in one table, the others after it."""
    explained = [row[0].strip("`") for row in rows(DECISIONS, "decision") if row[0]]
    assert sorted(explained) == sorted(outcome.value for outcome in TOLD)
    rest = DECISIONS[DECISIONS.index("| outcome |") :]
    assert all(f"`{outcome.value}`" in rest for outcome in Outcome if outcome not in TOLD)


def test_the_example_is_a_document_with_every_key() -> None:
    """By the schema that is shipped; each key of `data` has its row."""
    (example,) = map(json.loads, blocks(DECISIONS, "json"))
    schema = json.loads((CODE / "decision.schema.json").read_bytes())
    jsonschema.validate(example, schema, format_checker=jsonschema.FormatChecker())
    keys = " ".join(row[0] for row in rows(DECISIONS, "key"))
    assert all(f"`data.{key}`" in keys for key in schema["properties"]["data"]["properties"])
    assert set(example["data"]) == set(schema["properties"]["data"]["properties"])


def test_the_receivers_of_the_page_work(tmp_path: Path) -> None:
    """Both pieces of Python, run on what the sinks really hand over."""
    folder, webhook = blocks(DECISIONS, "python")
    names: dict[str, Any] = {}
    for code in (folder, webhook):
        exec(compile(code, "decisions.md", "exec"), names)
    (tmp_path / "a.json").write_text('{"id": "1"}\n')
    assert list(names["decisions"](tmp_path)) == [{"id": "1"}]
    assert list(tmp_path.iterdir()) == []
    secret, body, now = "whsec_c2VjcmV0IG9mIHRoZSBwYWdl", b'{"id": "1"}\n', int(time.time())
    headers = {
        "webhook-id": "1",
        "webhook-timestamp": str(now),
        "webhook-signature": signature(key_of(secret), "1", now, body),
    }
    assert names["verified"](secret, headers, body) == {"id": "1"}
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        names["verified"](secret, headers, body.replace(b"1", b"2"))


def test_numbers_of_the_page() -> None:
    """The schedule, the number of languages, the bounds."""
    spans = {5.0: "5 s", 300.0: "5 min", 1800.0: "30 min"} | {hours * 3600.0: f"{hours} h" for hours in range(1, 25)}
    *most, last = [spans[seconds] for seconds in SCHEDULE[1:]]
    assert f"at once, then after {', '.join(most)} and {last}" in " ".join(DECISIONS.split())
    assert f"Words of {len(LANGUAGES)} languages are built in" in APPROVALS
    named = APPROVALS[APPROVALS.index("built in: ") : APPROVALS.index(". `approve = ")]
    assert named.count(",") + 1 == len(LANGUAGES)
    assert mime.MAX_HEADER == 256 * 1024


@pytest.mark.parametrize("row", rows(APPROVALS, "answer"), ids=lambda row: str(row[0]))
def test_answers_are_read_as_the_page_says(row: list[str]) -> None:
    """Each row of the table, as a mail."""
    answer, decision, reason = row
    text = answer.replace(" / ", "\n")
    mail = f"From: a@example.com\nSubject: Re: PO-42\nContent-Type: text/plain; charset=utf-8\n\n{text}\n"
    reading = read(mail.encode())
    assert (str(reading.decision), f"`{reading.reason}`") == (decision, reason)


def test_the_request_of_the_page_is_one() -> None:
    """The mail asks, and the configuration under it allows it."""
    mail = next(block for block in blocks(APPROVALS, "") if "X-Approval-Request" in block)
    header = split_header(mail.encode())
    assert isinstance(header, Header)
    asking = asked(header)
    assert isinstance(asking, Asked)
    first, delegates = blocks(APPROVALS, "toml")
    configuration = tomllib.loads(first)
    Approvals.model_validate({**configuration["approvals"], **tomllib.loads(delegates)["approvals"]})
    InboundAccount.model_validate(configuration["inbound"]["approvals"])
    (sink,) = (Decisions.model_validate(one) for one in configuration["decisions"])
    assert entitled(asking.request_id, ["boss@example.com", "carol@example.com"], {"erp"}, [sink]) == ("erp",)
    for table in blocks(DECISIONS, "toml"):
        for one in tomllib.loads(table).get("decisions", []):
            Decisions.model_validate(one)


def test_pages_name_only_keys_that_exist() -> None:
    """What is written as `key = value` is a key of one of the three tables."""
    known = set(Approvals.model_fields) | set(InboundAccount.model_fields) | set(Decisions.model_fields)
    for page in (APPROVALS, DECISIONS):
        assert set(re.findall(r"`([a-z_0-9]+) = ", page)) <= known
