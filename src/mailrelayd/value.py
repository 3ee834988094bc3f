"""`@value(frozen=True, slots=True)`: a dataclass that never changes, for what is made anew for every message. Pure.

To mypy it is `dataclass` itself, so an assignment is an error there. To check that at run time as well would make one
take six times as long, and a message on its way is some twenty of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen: bool, slots: bool):
        """Equal and hashed by its fields."""
        return dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["value"]
