"""mailrelayd beside its peers, in one interleaved run on one machine: `make bench`.

::

    __main__.py   the command line: which cases, which programs, how many rounds
    cases.py      what is measured: sizes, distances, who takes part
    measure.py    one run: fill, begin, watch, verify; a value comes back
    waiting.py    the same where nothing is sent: a smarthost that refuses, a long queue, idleness, a start
    usage.py      CPU by cgroup (else wait4), PSS
    sink.c        who takes the messages and records them (slowsink.py where there is no compiler; sink.py starts it)
    messages.py   what is sent
    peers/        who sends it: mailrelayd (subject.py), Postfix, and the others, each behind the same calls
    install.sh    unpacks the Debian packages that exclude each other; enter.sh: a room for each
    replies.py    a program of its own: from a reply in a mailbox to the decision (heavy.py: what is hard to read)
    report.py     runs -> medians, ratios to Postfix in the same round, tables; plots.py: the same as SVG
    targets.py    what has to be reached, and whether it was

Rules: every file is fsynced by its producer before anybody may begin. "clean" counts a message when it has also gone
from the spool, "settled" when no crash would repeat it. Every run is checked for lost, doubled and damaged messages. A
ratio is taken between two runs of the same round, and what is printed is the median of the ratios.
"""
