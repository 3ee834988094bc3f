"""What is wrong with an account, found out step by step: `doctor`, `check --connect`, `test`, `authorize`.

steps.py        one thing that was looked at, and what it means (pure)
accounts.py     a whole account: thoroughly, or briefly
way.py          for how long at most, by which port, and why a connection that failed did not come about
network.py      DNS, TCP, what the port speaks, TLS versions, the certificate: nobody logs in
  door.py       one port: its first words, its handshakes
  findings.py   what was seen there -> steps; trust.py: of TLS (both pure; facts, certificate, speech)
smtp.py         greeting to login, and a rehearsal up to the recipient; what the answers to one mail mean
imap.py         capabilities to login, the folder; nothing is changed (mailbox.py: what that means; prospect.py: what
                the next poll would read)
  refusals.py   for both: what is behind an answer that is none of the known ones
trial.py        the test button: mail.py sends a mail, loop.py sends a probe to ourselves and awaits it
  returned.py   what became of the probe; authserv.py: which settings fit what stands on it (pure)
token.py        what a token says of itself (pure); authorization.py: a token, then a login to each server

Each examination is an asynchronous generator of Steps: people see the first while the second is under way.
"""
