"""The demonstration: the daemon as a process of its own, an SMTP server that misbehaves on cue, and real files.

What is told is taken from the daemon's log, and at the end compared with what the server got and with what stands
in the folders: a demonstration that shows something untrue fails.
"""
