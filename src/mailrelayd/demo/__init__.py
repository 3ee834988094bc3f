"""The demonstration: the daemon as a process of its own, mail servers that behave on cue, people, and real files.

What is told is taken from the daemon's log, and at the end compared with what the servers got and with what stands
in the folders: a demonstration that shows something untrue fails.
"""
