"""Two aiortc peers call each other through the relay: audio, and a data channel that is echoed.

Arguments: the TURN URI, user name, password. For TLS the environment's SSL_CERT_FILE says whom to trust. Prints one
line of JSON; fails with what went wrong.
"""

import asyncio
import json
import sys
from importlib.metadata import version

from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection
from aiortc.mediastreams import AudioStreamTrack

MESSAGES = 50
AUDIO_FRAMES = 25
PATIENCE_SECONDS = 25


def peer():
    uri, username, password = sys.argv[1:]
    servers = [RTCIceServer(urls=uri, username=username, credential=password)]
    return RTCPeerConnection(RTCConfiguration(iceServers=servers, iceTransportPolicy=RTCIceTransportPolicy.RELAY))


async def exchange_descriptions(caller, callee):
    await caller.setLocalDescription(await caller.createOffer())
    await callee.setRemoteDescription(caller.localDescription)
    await callee.setLocalDescription(await callee.createAnswer())
    await caller.setRemoteDescription(callee.localDescription)


def candidate_types(*peers):
    lines = [line for one in peers for line in one.localDescription.sdp.splitlines()]
    return {line.split()[7] for line in lines if line.startswith("a=candidate:")}


async def main():
    caller, callee = peer(), peer()
    caller.addTrack(AudioStreamTrack())
    channel = caller.createDataChannel("lab")
    all_echoed, audio_heard = asyncio.Event(), asyncio.Event()
    echoed = 0

    @callee.on("datachannel")
    def echo(incoming):
        incoming.on("message", incoming.send)

    @callee.on("track")
    async def listen(track):
        for _ in range(AUDIO_FRAMES):
            await track.recv()
        audio_heard.set()

    @channel.on("open")
    def send():
        for number in range(MESSAGES):
            channel.send(bytes([number]) * 500)

    @channel.on("message")
    def check(message):
        nonlocal echoed
        assert message == bytes([echoed]) * 500, f"message {echoed} is another"
        echoed += 1
        if echoed == MESSAGES:
            all_echoed.set()

    await exchange_descriptions(caller, callee)
    await asyncio.gather(all_echoed.wait(), audio_heard.wait())
    types = candidate_types(caller, callee)
    await asyncio.gather(caller.close(), callee.close())
    summary = {"candidates": sorted(types), "echoed": echoed, "audio_frames": AUDIO_FRAMES}
    print(json.dumps({"aiortc": version("aiortc"), **summary}))


asyncio.run(asyncio.wait_for(main(), PATIENCE_SECONDS))
