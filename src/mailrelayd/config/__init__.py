"""What the operator wrote: `load` reads it, `settings` judges it, `secrets` fetches what it refers to.

    FILE, conf.d/*.toml, MAILRELAYD__* -> one tree, each key with its line -> Settings, or every problem at once

`load` and `settings` import pydantic, which takes half a second: commands import them where they run.
`checks`, `units`, `lines` and `secrets` do not.
"""
