"""mailrelayd: mail goes out from a folder, answers come back from a mailbox, and decisions go to those who wait.

*Files are the state; pure modules decide; thin modules touch the world; loops connect them; one function builds
it all.* This page is the map.

The path of a message
---------------------
::

    producer --rename--> pickup/NAME.eml      outbound/examine.py   is it ready? may it be taken? (gather, pickup)
    caller --submit.sock--> queue/.tmp-NAME   outbound/intake.py    the same for what is handed in, piece by piece
                             | rename         outbound/envelope.py  who sends, who receives (pure; handin.py: by socket)
                             |                outbound/incoming.py  record, rename, key: then it is ours
                             v
                         queue/ID.eml         outbound/spool.py     claim, complete, defer, fail, on disk (moves.py)
                             | DATA           outbound/relay.py     due -> transaction -> answers -> step
                             |                outbound/route.py     held, and probed, when it is nobody's fault here
                             |                outbound/smtp.py      connect .. AUTH (aiosmtplib)
                             |                outbound/session.py   pipeline.py, exchange.py (pure) on the transport
                             v                outbound/delivery.py  what the answer means, what is next (pure)
                         smarthost: 250 -> a slot of the journal says so on disk before the next body begins
                                          outbound/completions.py  records many at once, removes behind that

What stands between: guard.py (who may be sent to), postmaster.py (senders hear of failures), results.py (producers do).

The path of a decision
----------------------
::

    pickup: X-Approval-Request: PO-42         approvals/opening.py  may they ask? a token per approver (token.py)
                             | one copy each  approvals/registry.py who was asked, until when, in which words
                             v                outbound/asking.py    Reply-To, Message-ID and References of a copy (pure)
    a person answers, and the answer stands in a mailbox
                             | UID FETCH      inbound/poller.py     what is new, what is ours (imap.py: the session)
                             v                approvals/desk.py     where requests, mails and decisions meet
                             |                approvals/reading.py  bytes -> kind, words (pure; mime, newtext, verdict)
                             |                approvals/sender.py   who wrote it, and is that proven?
                             |                approvals/judge.py    where alone an approval comes into being (pure)
                             | fsync          approvals/ledger.py   archive.py: mail, then document: the commit point;
                             |                                      then the outboxes, then the registry
                             | outbox/        approvals/outbox.py   folder, program (sinks.py), webhook
                             v UID EXPUNGE    the mail is removed once every required sink has the document

`office.py` composes it; outbound and inbound never import each other.

States
------
Which files exist says what is true; memory holds hints only. A crash lands in one of these rows, and the next start
(`outbound/repair.py`) brings the rows marked * to the row behind the arrow. `.json` is the record beside a message;
of two records the one with the higher `revision` is true.

==== ============================================ ==================================================================
O0   pickup/NAME                                  not taken yet
O1   nothing                                      sent, or never seen
O1k  sent/ID.eml (+ sent/ID.json)                 sent, and kept for [spool] keep_sent
O2   queue/ID.eml                                 due now; the header tells the envelope
O3   queue/ID.eml + queue/ID.json                 deferred, on hold, partly sent, or an envelope from elsewhere
O4   failed/ID.eml + failed/ID.json               given up: a person looks
O4s  failed/ID.env.json + failed/ID.json          a sidecar whose message never came
O5   keys/KEY                                     an idempotency key, for a day, whatever becomes of its message
C1 * queue/ID.json, pickup/NAME (+ sidecar)       a claim before its rename -> O0: the record is removed
C2 * queue/ID.eml + .json, sidecar in pickup      a claim after its rename -> O3: the sidecar is removed
H1 * queue/.tmp-NAME (+ queue/ID.json)            a handing in before its rename -> O1: both are removed
H2 * queue/ID.eml + .json with a key, no keys/KEY a handing in or a claim before its last step -> O3: the key is written
A1 * queue/ID.eml + .json with copies, not opened a request after its claim, before it was opened -> O3: it is opened
K1   as F4 and O4, with the reason "duplicate"    a duplicate's removal before its last step -> O4: a person looks
J1 * queue/ID.eml (+ .json), ID in the journal    recorded as sent, not removed yet -> O1: removed first of all
J2   queue/ID.eml, its journal has another inode  somebody put it there since: due now, or as its record says
J3 * ID in the journal, no queue/ID.eml           a removal before its slot was emptied -> O1: the journal begins anew
D1 * queue/ID.json alone                          a removal after its first half -> O1: the record is removed
F1 * queue/ID.eml (+ .json), failed/ID.json       a failing before its rename -> O4: the rename is done
F2 * failed/ID.eml + .json, older queue/ID.json   a failing after its rename -> O4: the older record is removed
F3 * failed/ID.json, pickup/NAME                  a pickup file being refused -> O0: the record is removed
B1 * failed/ID.eml + .json, newer queue/ID.json   a retry before its rename -> O3: the rename is done
B2 * queue/ID.eml + .json, older failed/ID.json   a retry after its rename -> O3: the older record (and sidecar) goes
F4 * failed/ID.eml + .json, sidecar in pickup     a refusal before its last step -> O4: the sidecar comes along
R1   approvals/ID.json (+ .lines)                 a request: answers to its tokens are known
I1   a mail in the folder, not in archive/        unread
I2   the same, and archive/in/DAY/ID/decision.json read: offered again, then removed when every required sink has it
I2b  archive/in/DAY/ID/message.eml alone          a decision before its commit point -> I1: it is read again
I3   archive/in/DAY/ID, no mail in the folder     done
I4   outbox/SINK/ID.json, or parked/ID.json       owed to a sink (after a power cut also some that it took), or parked
I5   quarantine/ID.eml                            a mail of nobody: a person looks
X    queue/ID.json and failed/ID.json, one damaged kept and not tried: which of the two is true would be a guess
T  * .tmp-NAME in any of our folders              an unfinished write -> removed
==== ============================================ ==================================================================

Two honest sentences belong under the table. A crash, or a lost connection, after the last byte of a body and before
its 250 is on disk sends that message again (RFC 1047): `window` per connection. A mail read twice is one decision: its
id is made of what it says, and the archive answers for it. A file that its producer did not fsync may be lost with the
machine's power before anybody could have saved it.

Layers
------
Imports point one way: `cli`, `daemon` -> loops (pickup, relay, route) -> IO (durable, spool, smtp, ...) -> pure.
`tests/test_layers.py` says which module is what, and fails when one of them forgets.
"""

__version__ = "0.1.0"
