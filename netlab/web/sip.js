// The SIP page of the lab: a browser registers at a SIP server over WebSocket and calls a phone. It makes the call by
// itself, from what its URL says, and posts how it went. Beside what `page.js` takes:
//
//   &server=wss://sip.lab/               the SIP server
//   &account=sip:NAME@sip.lab            who this page is there
//   &password=…                          and its password
//   &target=sip:PHONE@sip.lab            whom it calls
//   &video=yes|no                        whether it shows itself and wants to see
//   &digits=159                          what it dials once they talk, for a machine at the other end
//   &tone=660&expect=440                 what it says and what the phone has to say, as tones in hertz
//
// There are no candidates to trickle: SIP's offer and answer have them all. Its room has no other side than the lab.

import JsSIP from "/jssip.js";
import {
  ENOUGH_AUDIO_PACKETS, ENOUGH_VIDEO_FRAMES, configuration, element, follow, latest, listen, milestone, note,
  noteCandidate, patience, pause, post, query, restart, run, stopListening, stopMedia, watchUntil,
} from "/page.js";

const video = query.get("video") === "yes";
const digits = query.get("digits") ?? "";
const expected = Number(query.get("expect"));
const TONE_TOLERANCE_HERTZ = 12; // two bins of the analyser

let connection;       // once JsSIP has made it
let failure;          // why the call is given up, once it is
let finishing = false; // somebody has hung up
let established = false;
let callId;           // what the SIP server knows the call by
let fromTag;
let heardHertz;       // the loudest frequency that has arrived
let dismissed;        // called when the lab says "bye"
const bye = new Promise((resolve) => { dismissed = resolve; });

function handle({ kind }) {
  if (kind === "finish") {
    finishing = true;
  } else if (kind === "bye") {
    stopListening();
    dismissed();
  }
}

// --------------------------------------------------------------------------------------------------------------- sound

const audio = new AudioContext();

// What this side says: a tone, since a tone is known again after any codec.
function tone(hertz) {
  const oscillator = new OscillatorNode(audio, { frequency: hertz });
  const destination = new MediaStreamAudioDestinationNode(audio, { channelCount: 1 });
  oscillator.connect(new GainNode(audio, { gain: 0.4 })).connect(destination);
  oscillator.start();
  return destination.stream.getAudioTracks();
}

const ear = new AnalyserNode(audio, { fftSize: 8192, smoothingTimeConstant: 0 });

function hear(stream) {
  new MediaStreamAudioSourceNode(audio, { mediaStream: stream }).connect(ear);
}

// The loudest frequency right now; undefined in silence.
function loudestHertz() {
  const decibels = new Float32Array(ear.frequencyBinCount);
  ear.getFloatFrequencyData(decibels);
  const loudest = decibels.reduce((best, value, bin) => (value > decibels[best] ? bin : best), 0);
  return decibels[loudest] > -60 ? Math.round((loudest * audio.sampleRate) / ear.fftSize) : undefined;
}

// ----------------------------------------------------------------------------------------------------------------- SIP

// Resolves with the user agent once it is registered, with nothing if it will not be.
function register() {
  const agent = new JsSIP.UA({
    sockets: [new JsSIP.WebSocketInterface(query.get("server"))],
    uri: query.get("account"),
    password: query.get("password"),
    session_timers: false,
  });
  return new Promise((resolve) => {
    agent.on("connected", () => { milestone("webSocket"); note("WebSocket connected"); });
    agent.on("disconnected", () => note("WebSocket disconnected"));
    agent.on("registered", () => { milestone("registered"); note("registered"); resolve(agent); });
    agent.on("registrationFailed", ({ cause }) => {
      note(`not registered: ${cause}`);
      failure ??= "failed";
      resolve();
    });
    setTimeout(() => {
      if (!agent.isRegistered()) failure ??= "deadline";
      resolve();
    }, patience);
    agent.start();
  });
}

function adopt(made) {
  connection = made;
  follow(connection, () => { failure ??= "failed"; });
  connection.addEventListener("icecandidate", ({ candidate }) => candidate?.candidate && noteCandidate(candidate));
  connection.addEventListener("track", ({ track, streams }) => track.kind === "audio" && hear(streams[0]));
  // JsSIP closes it with the BYE. It stays open a moment longer, until the last statistics are taken.
  connection.close = () => {};
}

function dial(agent, stream) {
  return agent.call(query.get("target"), {
    mediaStream: stream,
    pcConfig: configuration,
    rtcOfferConstraints: { offerToReceiveAudio: true, offerToReceiveVideo: video },
    eventHandlers: {
      peerconnection: ({ peerconnection }) => adopt(peerconnection),
      sending: ({ request }) => { callId = request.call_id; fromTag = request.from.getParam("tag"); note("INVITE"); },
      progress: ({ response }) => { milestone("ringing"); note(`${response.status_code} ${response.reason_phrase}`); },
      confirmed: () => { established = true; milestone("established"); note("established"); },
      failed: ({ cause, message }) => {
        failure ??= "failed";
        note(`no call: ${cause} ${message?.status_code ?? ""}`);
      },
      ended: ({ originator, cause }) => { finishing = true; note(`ended by ${originator}: ${cause}`); },
    },
  });
}

// The phone speaks plain RTP and gets no feedback messages, which the media proxy takes out; that it should send a
// whole picture is for SIP to ask (RFC 5168). It is asked again until one has come.
const PICTURE_PLEASE = '<?xml version="1.0" encoding="utf-8"?><media_control><vc_primitive><to_encoder>'
  + "<picture_fast_update/></to_encoder></vc_primitive></media_control>";

async function askForPicture(session) {
  while (!latest.media.video.receivedFrames && !session.isEnded() && !failure) {
    if (connection.connectionState === "connected") {
      session.sendInfo("application/media_control+xml", PICTURE_PLEASE);
      note("asked for a picture");
    }
    await pause(500);
  }
}

// --------------------------------------------------------------------------------------------------------------- call

function talking() {
  heardHertz = loudestHertz();
  return established && connection.connectionState === "connected"
    && (latest.media.audio.receivedPackets ?? 0) >= ENOUGH_AUDIO_PACKETS
    && (!video || (latest.media.video.receivedFrames ?? 0) >= ENOUGH_VIDEO_FRAMES)
    && Math.abs(heardHertz - expected) <= TONE_TOLERANCE_HERTZ;
}

async function call() {
  element("hang-up").onclick = () => { finishing = true; };
  element("data-sent").closest("tr").remove();
  listen(handle);

  const stream = new MediaStream(tone(Number(query.get("tone"))));
  if (video) {
    const camera = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 360 } });
    stream.addTrack(camera.getVideoTracks()[0]);
  }
  element("local").srcObject = stream;

  restart();
  const agent = await register();
  if (!agent) return failure;
  const session = dial(agent, stream);
  try {
    if (video) askForPicture(session);
    if (!await watchUntil(() => failure || talking(), patience)) failure ??= "deadline";
    if (failure) return failure;

    milestone("talking");
    note(`talking, hearing ${heardHertz} Hz`);
    await post("/stage", "talking");
    if (digits) {
      session.sendDTMF(digits, { transportType: "INFO", duration: 100, interToneGap: 100 });
      note(`dialled ${digits}`);
    }
    await watchUntil(() => finishing || failure);
    if (!session.isEnded()) session.terminate();
    await stopMedia();
    return failure ?? "connected";
  } finally {
    if (!session.isEnded()) session.terminate();
    delete connection.close;
    agent.stop();
  }
}

await run(call, () => ({ callId, fromTag, heardHertz }), bye);
