"""What the benchmark of the way back takes for wrong."""

from __future__ import annotations

from typing import Any

from bench.replies import Outcome, Told, table, wrong

from tests.faults.inbound_verdict import Reply

ANSWERS = [Reply(b"", "PO-1", f"{name}@dest.test", "approved", "fine") for name in ("ann", "bob")]


def told(approver: str, **other: Any) -> Told:
    """A call of the webhook; `other`: what it says that was not answered."""
    said = {"decision": "approved", "request_id": "PO-1", "comment": "fine", **other}
    return Told(0.0, "id", {"decided_by": {"address": approver}, **said})


def test_every_answer_has_to_be_told_once_and_as_it_was() -> None:
    """Lost, doubled, changed, and invented: each is seen by itself."""
    ann, bob = told("ann@dest.test"), told("bob@dest.test")
    assert wrong([bob, ann], ANSWERS) == []
    assert wrong([ann], ANSWERS) == ["bob@dest.test: told 0 times"]
    assert wrong([ann, bob, ann], ANSWERS) == ["ann@dest.test: told 2 times"]
    assert wrong([ann, bob, told("eve@dest.test")], ANSWERS) == ["eve@dest.test: never answered"]
    for key, other in (("decision", "rejected"), ("request_id", "PO-2"), ("comment", "no")):
        (fault,) = wrong([ann, told("bob@dest.test", **{key: other})], ANSWERS)
        assert fault.startswith("bob@dest.test: told as")


def test_the_table_counts_what_is_wrong() -> None:
    """Behind the figures of its case."""
    text = table([Outcome("idle", {"p50 ms": 1234.5}, wrong=["a", "b"])])
    assert text.splitlines()[2:] == ["| idle | p50 ms | 1,234.5 |", "| idle | lost, doubled, wrong, left | 2 |"]
