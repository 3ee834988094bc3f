"""What a reload changes: each key with its values, and a section that comes or goes once, by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mailrelayd.config.literals import literal
from mailrelayd.config.secrets import Secret
from mailrelayd.config.settings import Settings
from mailrelayd.config.wording import Key, name

_HIDDEN = ("token_command", "command", "ping_url")  # beside what is a Secret: one may be in there


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `old` and `new` are as TOML writes them; "" for sections, and for what must not be shown."""

    key: str
    kind: Literal["added", "removed", "changed"]
    old: str = ""
    new: str = ""

    def __str__(self) -> str:
        values = f": {self.old} -> {self.new}" if self.old or self.new else ""
        return f"{self.kind} {self.key}{values}"


def changes(old: Settings, new: Settings) -> list[Change]:
    """Everything that differs, sorted by key; no secret is in it."""
    trees = [settings.model_dump(mode=mode) for settings in (old, new) for mode in ("python", "json")]
    return sorted(_between(trees, ()), key=lambda change: change.key)


def _between(trees: list[Any], at: Key) -> Iterator[Change]:
    """The differences below a key: `trees` are the old values, as they are and as they are written, and the new."""
    before, shown_before, after, shown_after = trees
    if before == after:
        return
    if _is_table(before) and _is_table(after):
        for part in {**_parts(before), **_parts(after)}:
            yield from _between([_parts(tree).get(part) for tree in trees], (*at, part))
    elif _is_table(before) or _is_table(after):
        yield Change(name(at), "added" if _is_table(after) else "removed")
    elif at[-1] in _HIDDEN or _is_secret(before) or _is_secret(after):
        yield Change(name(at), "changed")
    else:
        yield Change(name(at), "changed", _written(shown_before), _written(shown_after))


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value)
    )


def _parts(value: Any) -> dict[str | int, Any]:
    """What is inside a table, or inside a list of tables by position."""
    return dict(value) if isinstance(value, Mapping) else dict(enumerate(value or ()))


def _is_secret(value: object) -> bool:
    return isinstance(value, Secret) or (isinstance(value, tuple) and any(isinstance(one, Secret) for one in value))


def _written(value: object) -> str:
    return "none" if value is None else literal(value)
