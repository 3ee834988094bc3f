"""One call that says: all is well."""

from __future__ import annotations

import asyncio
from typing import Final

from mailrelayd import __version__

TIMEOUT: Final = 10.0  # seconds for all of it


async def ping(url: str) -> str:
    """Call `url` (GET); "" where the answer was 2xx, else what happened, without the address. Raises nothing."""
    import httpx2  # a fifth of a second, and most configurations have no use for it

    try:
        async with (
            asyncio.timeout(TIMEOUT),
            httpx2.AsyncClient(timeout=TIMEOUT, follow_redirects=False, trust_env=False) as client,
            # The answer's body says nothing that counts, and may be endless: it is not read.
            client.stream("GET", url, headers={"user-agent": f"mailrelayd/{__version__}"}) as response,
        ):
            status = response.status_code
    except TimeoutError:
        return f"no answer within {TIMEOUT:.0f} s"
    except (httpx2.HTTPError, OSError, ValueError) as error:
        return type(error).__name__  # its text may hold the address, which is a secret of a kind
    return "" if 200 <= status < 300 else f"HTTP status {status}"
