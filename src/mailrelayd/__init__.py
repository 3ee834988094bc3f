"""mailrelayd: a file dropped into a folder reaches the smarthost, or waits on disk until it does.

*Files are the state; pure modules decide; thin modules touch the world; loops connect them; one function builds
it all.* This page is the map.

The path of a message
---------------------
::

    producer --rename--> pickup/NAME.eml      outbound/examine.py   is it ready? may it be taken? (pickup.py: the loop)
    caller --submit.sock--> queue/.tmp-NAME   outbound/intake.py    the same for what is handed in, piece by piece
                             | rename         outbound/envelope.py  who sends, who receives (pure; handin.py: by socket)
                             |                outbound/incoming.py  record, rename, key: then it is ours
                             v
                         queue/ID.eml         outbound/spool.py     claim, complete, defer, fail, on disk (moves.py)
                             | DATA           outbound/relay.py     due -> transaction -> answers -> step
                             |                outbound/route.py     held, and probed, when it is nobody's fault here
                             |                outbound/smtp.py      connect .. AUTH (aiosmtplib)
                             |                outbound/session.py   pipeline.py (pure) on the transport
                             v                outbound/delivery.py  what the answer means, what is next (pure)
                         smarthost: 250 -> the file is removed, and that is on disk before the next body begins

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
D1 * queue/ID.json alone                          a removal after its first half -> O1: the record is removed
F1 * queue/ID.eml (+ .json), failed/ID.json       a failing before its rename -> O4: the rename is done
F2 * failed/ID.eml + .json, older queue/ID.json   a failing after its rename -> O4: the older record is removed
F3 * failed/ID.json, pickup/NAME                  a pickup file being refused -> O0: the record is removed
B1 * failed/ID.eml + .json, newer queue/ID.json   a retry before its rename -> O3: the rename is done
B2 * queue/ID.eml + .json, older failed/ID.json   a retry after its rename -> O3: the older record (and sidecar) goes
F4 * failed/ID.eml + .json, sidecar in pickup     a refusal before its last step -> O4: the sidecar comes along
X    queue/ID.json and failed/ID.json, one damaged kept and not tried: which of the two is true would be a guess
T  * .tmp-NAME in any of our folders              an unfinished write -> removed
==== ============================================ ==================================================================

Two honest sentences belong under the table. A crash, or a lost connection, after the last byte of a body and before
its 250 is on disk sends that message again (RFC 1047): one per connection. A file that its producer did not fsync
may be lost with the machine's power before anybody could have saved it.

Layers
------
Imports point one way: `cli`, `daemon` -> loops (pickup, relay, route) -> IO (durable, spool, smtp, ...) -> pure.
`tests/test_layers.py` says which module is what, and fails when one of them forgets.
"""

__version__ = "0.1.0"
