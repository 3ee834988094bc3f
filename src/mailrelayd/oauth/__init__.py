"""Access tokens instead of passwords: where they come from, where they are kept, when they are renewed.

values.py      a token, and why there is none (pure)
providers.py   which address is asked for what: Microsoft and its national clouds, Google, anybody else (pure)
claims.py      what a token says about itself, for people (pure)
expiry.py      when a client secret's end is worth a word (pure)
grants.py      what a provider's answer means (pure)
proof.py       keys and certificates: who asks (the only one to sign)
asking.py      one account's way to its provider: references become secrets, and these a request
flows.py       the requests, by authlib and httpx2, which are imported when they are needed
store.py       STATE/oauth: one file per account, one writer at a time
administration.py  what to do at the provider (pure); listener.py: where the browser comes back to
tokens.py      a valid token whenever one is asked for: memory, file, provider

A token is on disk before anybody uses it, since a provider that rotates refresh tokens has forgotten the one before.
Only a crash between its answer and our write loses one: then `mailrelayd authorize` is needed.
"""
