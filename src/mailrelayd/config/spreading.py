"""What keys say for others: properties for the account's own keys, defaults and the outbound login for mailboxes.

All of it happens before anything is judged, so that everybody downstream sees complete accounts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mailrelayd.config import properties
from mailrelayd.config.claims import PROTOCOLS
from mailrelayd.config.oauth import OAuth
from mailrelayd.config.relaying import usual_auth
from mailrelayd.config.sources import Sources
from mailrelayd.config.wording import Key

PROOFS = {  # keys of an `oauth` table that prove who asks -> what else is said of them
    "client_secret": "client_secret_expires",
    "client_certificate": "",
    "service_account_file": "",
    "token_command": "",
}


PROVIDER = OAuth.model_fields["provider"].default
PLACES = ("authority", "token_url")  # who gets to see the proof


def expand_properties(sources: Sources) -> None:
    """Put what the accounts' `properties` mean in their place, with the property's line as its origin."""
    for group in PROTOCOLS:
        for account, section in sources.tables(group):
            if "properties" not in section:
                continue
            at = (group, account)
            host_name = os.uname().nodename
            rank = partial(_rank, sources, at)
            meanings, faults = properties.expand(section, group, sources.environ, host_name, rank)
            for fault in faults:
                sources.tell((*at, *fault.source), fault.text)
            for meaning in meanings:
                sources.put((*at, *meaning.key), meaning.value, sources.origins[*at, *meaning.source])
            del section["properties"]


def _rank(sources: Sources, at: Key, path: tuple[str, ...]) -> int:
    """Which source says what stands at `path` below `at`: the later one has the higher rank."""
    origin = sources.origin((*at, *path))
    return origin.rank if origin else 0


def inherit(sources: Sources) -> dict[Key, Key]:
    """Let mailboxes take over what they do not say; key -> the key that says it for this one."""
    inheritance = _Inheritance(sources)
    inheritance.of_defaults()
    inheritance.of_login()
    return inheritance.inherited


@dataclass(slots=True)
class _Inheritance:
    """Who says what for whom."""

    sources: Sources
    inherited: dict[Key, Key] = field(default_factory=dict)

    def of_defaults(self) -> None:
        """What [inbound_defaults] says counts for every [inbound.NAME] that does not say it itself."""
        defaults = self.sources.data.get("inbound_defaults", {})
        for account, section in self.sources.tables("inbound") if isinstance(defaults, dict) else ():
            for part in defaults:
                if part not in section:
                    self._take(section, ("inbound", account, part), defaults, ("inbound_defaults", part))

    def of_login(self) -> None:
        """How the outbound account logs in counts for every [inbound.NAME] that does not say it itself."""
        origins = self.sources.origins
        enabled = [one for one in self.sources.tables("outbound") if one[1].get("enabled", True) is True]
        if len(enabled) != 1:
            return
        sender, outbound = enabled[0]
        theirs = outbound.get("oauth")
        for account, section in self.sources.tables("inbound"):
            at, source = ("inbound", account), ("outbound", sender)
            self._log_in_as(section, (*at, "user"), outbound, (*source, "user"))
            if "auth" not in section and not section.get("password"):
                if outbound.get("auth") == "oauth2":
                    self._log_in_as(section, (*at, "auth"), outbound, (*source, "auth"))
                elif "oauth" in section or ("auth" not in outbound and usual_auth(outbound) == "oauth2"):
                    section["auth"] = "oauth2"
                    told = at if "oauth" in section else source
                    origins[(*at, "auth")] = origins[(*told, "oauth")]
            if section.get("auth") != "oauth2":
                self._log_in_as(section, (*at, "password"), outbound, (*source, "password"))
            elif isinstance(theirs, dict):
                self._ask_as(section, (*at, "oauth"), theirs, (*source, "oauth"))

    def _ask_as(self, section: dict[str, Any], at: Key, theirs: dict[str, Any], source: Key) -> None:
        """An `oauth` table key by key: but of another provider nothing, and of ways to prove oneself one.

        Nor does a proof go to a place that the mailbox names itself.
        """
        if "oauth" not in section:
            self.inherited[at] = source
            self.sources.origins[at] = self.sources.origins[source]
        mine = section.setdefault("oauth", {})
        usual = theirs.get("provider", PROVIDER)
        if not isinstance(mine, dict) or mine.get("provider", usual) != usual:
            return
        another = any(mine.get(proof) for proof in PROOFS)
        another = another or any(mine.get(part) and mine[part] != theirs.get(part) for part in PLACES)
        useless = {*PROOFS, *PROOFS.values()} if another else set()
        if mine.get("token_command"):  # which hands in the whole token
            useless.add("token_url")
        if mine.get("flow", "service-account") != "service-account":
            useless.add("service_account_file")
        for part in theirs:
            if part not in useless:
                self._log_in_as(mine, (*at, part), theirs, (*source, part))

    def _log_in_as(self, mine: dict[str, Any], key: Key, theirs: dict[str, Any], source: Key) -> None:
        """Take over one key; an empty text says nothing about a login, on neither side."""
        part = str(key[-1])
        if mine.get(part, "") == "" and theirs.get(part, "") != "":
            self._take(mine, key, theirs, source)

    def _take(self, mine: dict[str, Any], key: Key, theirs: dict[str, Any], source: Key) -> None:
        part = str(key[-1])
        mine[part] = theirs[part]
        self.sources.origins[key] = self.sources.origins[source]
        self.inherited[key] = source
