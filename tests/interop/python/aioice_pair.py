"""Two aioice connections that may use relayed candidates only send each other datagrams.

Arguments: udp|tcp|tls, the server's host and port, user name, password. For TLS the environment's SSL_CERT_FILE says
whom to trust. Prints one line of JSON; fails with what went wrong.
"""

import asyncio
import json
import sys
from importlib.metadata import version

import aioice

MESSAGES = 50
PATIENCE_SECONDS = 20


def connection(controlling):
    transport, host, port, username, password = sys.argv[1:]
    return aioice.Connection(
        ice_controlling=controlling,
        turn_server=(host, int(port)),
        turn_username=username,
        turn_password=password,
        turn_ssl=transport == "tls",
        turn_transport="udp" if transport == "udp" else "tcp",
        use_ipv6=False,
        transport_policy=aioice.TransportPolicy.RELAY,
    )


def message(number):
    """Sizes that need padding and sizes that do not."""
    return bytes([number]) * (1 + 23 * number)


async def send_and_check(own, other):
    for number in range(MESSAGES):
        await own.send(message(number))
        received = await other.recv()
        assert received == message(number), f"message {number}: {len(received)} other bytes"


async def main():
    a, b = connection(True), connection(False)
    await asyncio.gather(a.gather_candidates(), b.gather_candidates())
    types = {candidate.type for end in (a, b) for candidate in end.local_candidates}
    for own, other in ((a, b), (b, a)):
        own.remote_username, own.remote_password = other.local_username, other.local_password
        for candidate in other.local_candidates:
            await own.add_remote_candidate(candidate)
        await own.add_remote_candidate(None)
    await asyncio.gather(a.connect(), b.connect())
    await send_and_check(a, b)
    await send_and_check(b, a)
    await asyncio.gather(a.close(), b.close())
    print(json.dumps({"aioice": version("aioice"), "candidates": sorted(types), "messages": 2 * MESSAGES}))


asyncio.run(asyncio.wait_for(main(), PATIENCE_SECONDS))
