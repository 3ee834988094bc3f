"""The witness: tools that judge the daemon from outside, by files and bytes only.

`server` is a mail server that remembers durably what it took and misbehaves on request (`script` says how),
`driver` drops messages, kills and restarts the daemon, `journal` is what both write down, and `verdict` compares:
what was dropped, what arrived, what was kept. `toy` is a tiny relay with seeded bugs that proves the witness sees.
Nothing here imports the daemon. README.md explains the words of a verdict.
"""
