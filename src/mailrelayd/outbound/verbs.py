"""What operators do to messages, many at a time: one batch is read, decided and carried out in the disk's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from mailrelayd.clock import Clock
from mailrelayd.outbound import delivery, record
from mailrelayd.outbound.answers import printable
from mailrelayd.outbound.headers import Unreadable
from mailrelayd.outbound.moves import Moves
from mailrelayd.outbound.queue import Verb
from mailrelayd.outbound.record import Record, RecordError
from mailrelayd.outbound.stored import Reader
from mailrelayd.outbound.values import Past, Progress, QueuedMessage, Response, Stage, remembered
from mailrelayd.outbound.waiting import HELD, when_due

BY_HAND = Response(Stage.LOCAL, 0, "", "given up by hand")


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one id: the answer ("" or why not), and when it is due now; None: it does not wait."""

    answer: str = ""
    due: float | None = None
    wish: bool = False  # only its producer wants it to wait


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be written about one message, and how things stand once that is done."""

    entry: Record
    done: Done


class Verbs:
    """Carries out one verb for one batch. An id that it does not apply to, or a failing disk, stops no other."""

    def __init__(self, reader: Reader, moves: Moves, clock: Clock) -> None:
        self._reader = reader
        self._moves = moves
        self._clock = clock

    def change(self, verb: Verb, by: str, waiting: Mapping[str, float], others: Iterable[str]) -> dict[str, Done]:
        """`waiting` says when each is due, and is claimed by nobody meanwhile; `others` do not wait."""
        done: dict[str, Done] = {}
        failed: list[str] = []
        for queue_id in others:
            if any(self._reader.failed.stat(queue_id + ending) for ending in (".json", ".eml")):
                failed.append(queue_id)
            else:
                sent = self._reader.sent.stat(f"{queue_id}.eml") is not None
                done[queue_id] = Done("was sent already" if sent else "no such message")
        try:
            self._moves.sync_claims()
        except OSError as error:
            done |= {queue_id: Done(_why(error), due) for queue_id, due in waiting.items()}
            return done | {queue_id: Done(_why(error)) for queue_id in failed}
        return done | self._change_waiting(verb, by, waiting) | self._change_failed(verb, by, failed)

    # -- waiting ---------------------------------------------------------------------------------------------

    def _change_waiting(self, verb: Verb, by: str, waiting: Mapping[str, float]) -> dict[str, Done]:
        if verb is Verb.DELETE:
            self._tell_deleted(waiting)
            return self._carried_out(
                lambda: self._moves.delete(self._reader.queue, waiting), dict.fromkeys(waiting, Done()), waiting
            )
        done, plans = _planned(waiting, lambda queue_id: self._plan(verb, by, queue_id), waiting)
        entries = [plan.entry for plan in plans.values()]
        move = self._moves.give_up if verb is Verb.FAIL else self._moves.write_down
        wanted = {queue_id: plan.done for queue_id, plan in plans.items()}
        return done | self._carried_out(lambda: move(entries), wanted, waiting)

    def _plan(self, verb: Verb, by: str, queue_id: str) -> _Plan | Done:
        known = self._reader.record(queue_id)
        message = self._reader.message(queue_id, known)
        if isinstance(message, Unreadable):
            return Done(due=0.0)  # the next look at it fails it, with the reason
        held, progress, now = known is not None and known.hold, message.progress, self._clock.now()
        match verb:
            case Verb.HOLD if held:
                return Done(due=HELD)
            case Verb.HOLD:
                return _Plan(self._entry(message, progress, verb, by, hold=True), Done(due=HELD))
            case Verb.RELEASE:
                due = when_due(progress, now, self._clock.monotonic())
                return _Plan(self._entry(message, progress, verb, by), Done(due=due)) if held else Done(due=due)
            case Verb.RETRY if held:
                return Done("is on hold: release it first", HELD)
            case Verb.RETRY:
                records = {
                    recipient: replace(one, next_attempt=now) if one.next_attempt > now else one
                    for recipient, one in progress.recipients.items()
                }
                progress = replace(progress, recipients=records, not_before=0.0)
                if progress == message.progress:
                    return Done(due=0.0)
                return _Plan(self._entry(message, progress, verb, by), Done(due=0.0))
            case _:
                progress = delivery.give_up(message, "by-hand", BY_HAND, now)
                return _Plan(self._entry(message, progress, Verb.FAIL, by, reason="by-hand"), Done())

    def _tell_deleted(self, queue_ids: Iterable[str]) -> None:
        for queue_id in queue_ids if self._moves.results is not None else ():
            with suppress(OSError, RecordError):
                if (known := self._reader.record(queue_id)) is not None:
                    self._moves.tell(known, "deleted")

    # -- failed ----------------------------------------------------------------------------------------------

    def _change_failed(self, verb: Verb, by: str, failed: list[str]) -> dict[str, Done]:
        match verb:
            case Verb.DELETE:
                return self._carried_out(
                    lambda: self._moves.delete(self._reader.failed, failed), dict.fromkeys(failed, Done()), {}
                )
            case Verb.RETRY:
                done, plans = _planned(failed, lambda queue_id: self._plan_again(by, queue_id), {})
                entries = [plan.entry for plan in plans.values()]
                wanted = {queue_id: plan.done for queue_id, plan in plans.items()}
                dues = {queue_id: one.due for queue_id, one in wanted.items() if one.due is not None}
                return done | self._carried_out(lambda: self._moves.bring_back(entries), wanted, dues)
            case Verb.FAIL:
                return dict.fromkeys(failed, Done("has failed already"))
            case _:
                return dict.fromkeys(failed, Done("has failed: only retry and delete apply"))

    def _plan_again(self, by: str, queue_id: str) -> _Plan | Done:
        try:
            known = self._reader.record(queue_id, failed=True)
            message = self._reader.message(queue_id, known, failed=True)
        except FileNotFoundError:
            return Done("its file is missing")
        if isinstance(message, Unreadable):
            return Done(f"still cannot be sent: {message.reason}")
        before, now = message.progress, self._clock.now()
        progress = delivery.try_again(before, now)
        progress = replace(progress, not_before=before.not_before, history=before.history)
        due = when_due(progress, now, self._clock.monotonic())
        wish = due > 0.0 and not progress.recipients
        return _Plan(self._entry(message, progress, Verb.RETRY, by), Done(due=due, wish=wish))

    # -- both ------------------------------------------------------------------------------------------------

    def _entry(
        self, message: QueuedMessage, progress: Progress, verb: Verb, by: str, *, hold: bool = False, reason: str = ""
    ) -> Record:
        progress = remembered(progress, Past(self._clock.now(), verb.value, printable(by)))
        return record.of(message, progress, hold=hold, reason=reason)

    def _carried_out(
        self, work: Callable[[], Mapping[str, OSError]], wanted: Mapping[str, Done], due: Mapping[str, float]
    ) -> dict[str, Done]:
        """What is wanted, or where each stands after trouble: `due` says when, if it is (still) in the queue."""
        try:
            troubles = work() if wanted else {}
        except OSError as error:
            troubles = dict.fromkeys(wanted, error)
        return {
            queue_id: Done(_why(troubles[queue_id]), self._still(queue_id, due.get(queue_id)))
            if queue_id in troubles
            else done
            for queue_id, done in wanted.items()
        }

    def _still(self, queue_id: str, due: float | None) -> float | None:
        with suppress(OSError):
            return due if self._reader.queue.stat(f"{queue_id}.eml") is not None else None
        return due


def _planned(
    queue_ids: Iterable[str], plan: Callable[[str], _Plan | Done], due: Mapping[str, float]
) -> tuple[dict[str, Done], dict[str, _Plan]]:
    """For each id what to do, or why nothing is to be done."""
    done: dict[str, Done] = {}
    plans: dict[str, _Plan] = {}
    for queue_id in queue_ids:
        try:
            found = plan(queue_id)
        except FileNotFoundError:
            found = Done("no such message")
        except (OSError, RecordError) as error:
            found = Done(_why(error), due.get(queue_id))
        if isinstance(found, _Plan):
            plans[queue_id] = found
        else:
            done[queue_id] = found
    return done, plans


def _why(error: OSError | RecordError) -> str:
    return str(error)
