"""Two webrtcbin elements of GStreamer (on libnice) call each other through the relay: Opus audio from one to the other.

Argument: the TURN URI as webrtcbin takes it, turn://NAME:PASSWORD@HOST:PORT?transport=udp|tcp or turns://…. Prints one
line of JSON; fails with what went wrong. Needs Debian's python3-gst-1.0, gir1.2-gst-plugins-bad-1.0,
gstreamer1.0-plugins-base, -good, -bad and gstreamer1.0-nice.
"""

import json
import sys

try:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstSdp", "1.0")
    gi.require_version("GstWebRTC", "1.0")
    from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: F401: descriptions are theirs
except (ImportError, ValueError) as problem:
    sys.exit(f"SKIP: {problem} (Debian: python3-gst-1.0, gir1.2-gst-plugins-bad-1.0)")

AUDIO_BUFFERS = 50
PATIENCE_SECONDS = 25

TALKER = """
    audiotestsrc is-live=true ! audioconvert ! audioresample ! opusenc
    ! rtpopuspay pt=96 ! application/x-rtp,media=audio,encoding-name=OPUS,payload=96
    ! webrtcbin name=end bundle-policy=max-bundle ice-transport-policy=relay
"""
LISTENER = "webrtcbin name=end bundle-policy=max-bundle ice-transport-policy=relay"
DECODER = "rtpopusdepay ! opusdec ! fakesink name=ear signal-handoffs=true sync=false"


class Call:
    def __init__(self, uri):
        self.loop = GLib.MainLoop()
        self.problem = None
        self.heard = 0
        self.types = set()
        self.kept = []
        self.talker, self.caller = self.pipeline(TALKER, uri)
        self.listener, self.callee = self.pipeline(LISTENER, uri)
        self.forward_candidates(self.caller, self.callee)
        self.forward_candidates(self.callee, self.caller)
        self.callee.connect("pad-added", self.listen)
        self.caller.connect("on-negotiation-needed", self.offer)

    def pipeline(self, description, uri):
        pipeline = Gst.Pipeline.new(None)
        pipeline.add(Gst.parse_bin_from_description(description, False))
        end = pipeline.get_by_name("end")
        end.set_property("turn-server", uri)
        # Left alone, libnice binds its UDP sockets to interfaces other than loopback's, where the server is not.
        agent = end.get_property("ice-agent")
        agent.emit("add-local-ip-address", "127.0.0.1")
        self.kept.append(agent)  # its reference is webrtcbin's own
        bus = pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message::error", lambda _, message: self.fail(message.parse_error()[0].message))
        return pipeline, end

    def forward_candidates(self, own, other):
        def forward(_, line, candidate):
            self.types.add(candidate.split(" typ ")[1].split()[0])
            other.emit("add-ice-candidate", line, candidate)

        own.connect("on-ice-candidate", forward)

    def fail(self, problem):
        self.problem = problem
        self.loop.quit()

    def ask(self, end, signal, name, then):
        """Asks for a description; the reply is kept, because what is in it belongs to it."""

        def answered(promise):
            reply = promise.get_reply()
            self.kept.append(reply)
            then(reply.get_value(name))

        end.emit(signal, None, Gst.Promise.new_with_change_func(answered))

    def offer(self, _):
        self.ask(self.caller, "create-offer", "offer", self.offered)

    def offered(self, offer):
        self.caller.emit("set-local-description", offer, None)

        def received(_):
            self.ask(self.callee, "create-answer", "answer", self.answered)

        self.callee.emit("set-remote-description", offer, Gst.Promise.new_with_change_func(received))

    def answered(self, answer):
        self.callee.emit("set-local-description", answer, None)
        self.caller.emit("set-remote-description", answer, None)

    def listen(self, _, pad):
        if pad.direction != Gst.PadDirection.SRC:
            return
        decoder = Gst.parse_bin_from_description(DECODER, True)
        decoder.get_by_name("ear").connect("handoff", self.hear)
        self.callee.get_parent().add(decoder)
        decoder.sync_state_with_parent()
        pad.link(decoder.get_static_pad("sink"))

    def hear(self, *_):
        self.heard += 1
        if self.heard == AUDIO_BUFFERS:
            self.loop.quit()

    def run(self):
        for pipeline in (self.listener, self.talker):
            pipeline.set_state(Gst.State.PLAYING)
        GLib.timeout_add_seconds(PATIENCE_SECONDS, self.fail, "not within the deadline")
        self.loop.run()
        for pipeline in (self.talker, self.listener):
            pipeline.set_state(Gst.State.NULL)


def main():
    Gst.init(None)
    missing = [name for name in ("webrtcbin", "nicesrc", "opusenc", "rtpopuspay") if not Gst.ElementFactory.find(name)]
    if missing:
        sys.exit(f"SKIP: GStreamer has no {', '.join(missing)} (Debian: gstreamer1.0-plugins-*, gstreamer1.0-nice)")
    call = Call(sys.argv[1])
    call.run()
    summary = {"gstreamer": Gst.version_string(), "candidates": sorted(call.types), "audio_buffers": min(call.heard, AUDIO_BUFFERS)}
    if call.problem or call.heard < AUDIO_BUFFERS:
        sys.exit(f"{call.problem}: {json.dumps(summary)}")
    print(json.dumps(summary))


main()
