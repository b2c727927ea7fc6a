// The call page of the lab: a browser calls a browser, and they signal over HTTP. It makes the call by itself, from
// what its URL says, and posts how it went; `page.js` has the parameters. Each side of a room must be opened once.
//
// A call that has been up is not given up: when ICE is disconnected for some time, or has failed, the page restarts it,
// on either side (perfect negotiation). The lab says "fault" before it breaks something and "settle" afterwards; the
// stage is "watching" in between, and "recovered" once audio and video flow without a gap and new data has arrived
// verified. What the page has seen of it is in the result: outages, restarts, changes of the pair in use.

import {
  ENOUGH_AUDIO_PACKETS, ENOUGH_VIDEO_FRAMES, configuration, element, follow, latest, listen, milestone, note,
  noteCandidate, patience, pause, post, query, restart, run, sampleOften, side, sinceStart, size, stopListening,
  stopMedia, tell, watchSamples, watchUntil,
} from "/page.js";

const DATA_MESSAGES = 200;
const DATA_MESSAGE_BYTES = 1024;

const FAILURE_PATIENCE = 1000;   // until candidates arrive, "failed" may mean that there is nothing to try yet
const RESTART_AFTER = 500;       // ICE has tried for seconds when it says "disconnected"
const RESTART_AGAIN_AFTER = 8000;
const SILENCE = 400;             // sound comes every 20 ms
const FREEZE = 1000;             // pictures come some twenty times a second
const STEADY = 2000;             // without silence or freeze
const SAMPLE_EVERY = 50;         // while something is broken

// --------------------------------------------------------------------------------------------------------- connection

const withholding = query.get("withhold") === "candidates";

const connection = new RTCPeerConnection({ ...configuration, bundlePolicy: "max-bundle" });

let failure;          // why the call is given up, once it is
let established = false; // the call has been up
let finishing = false; // somebody has hung up
let dismissed;        // called when the lab says "bye"
const bye = new Promise((resolve) => { dismissed = resolve; });

follow(connection, () => { if (!established) setTimeout(giveUpIfStillFailed, FAILURE_PATIENCE); });
function giveUpIfStillFailed() {
  if (connection.connectionState === "failed" && !established) failure ??= "failed";
}
connection.onicecandidate = ({ candidate }) => {
  if (!candidate?.candidate) return;
  noteCandidate(candidate);
  if (withholding) return;
  tell({ kind: "candidate", candidate });
};

const earlyCandidates = [];
async function describeRemote(description) {
  await connection.setRemoteDescription(description);
  for (const candidate of earlyCandidates.splice(0)) await addCandidate(candidate);
}

const addCandidate = (candidate) =>
  connection.addIceCandidate(candidate).catch((error) => note(`candidate refused: ${error.message}`));

// Offers from both sides at once: the caller's counts.
let offering = false;
async function offer() {
  try {
    offering = true;
    await connection.setLocalDescription();
    const { type, sdp } = connection.localDescription;
    note(type);
    const told = withholding ? sdp.replace(/^a=candidate:.*\r\n/gm, "") : sdp;
    await tell({ kind: "description", description: { type, sdp: told } });
  } finally {
    offering = false;
  }
}
connection.onnegotiationneeded = () => established ? offer() : undefined; // the first offer waits for "hello"

async function receive(description) {
  if (description.type === "offer" && side === "caller" && (offering || connection.signalingState !== "stable")) {
    return note("offer ignored: ours is under way");
  }
  if (description.type === "offer") restartedAt = performance.now(); // what we would ask for is under way
  await describeRemote(description);
  return description.type === "offer" ? offer() : undefined;
}

async function handle(message) {
  switch (message.kind) {
    case "hello": // the callee is there and has its camera: the clock starts with the offer
      restart();
      return offer();
    case "description":
      if (!connection.remoteDescription && side === "callee") restart();
      return receive(message.description);
    case "fault":
      watching = true;
      sampleOften(SAMPLE_EVERY);
      faultAt = sinceStart();
      note("fault");
      return post("/stage", "watching");
    case "settle":
      settled = true;
      steadySince = sinceStart();
      return note("settle");
    case "candidate":
      if (connection.remoteDescription) return addCandidate(message.candidate);
      earlyCandidates.push(message.candidate);
      return undefined;
    case "finish":
      finishing = true;
      return undefined;
    case "bye":
      stopListening();
      return dismissed();
    default:
      return note(`unknown message ${message.kind}`);
  }
}

// -------------------------------------------------------------------------------------------------------- data channel

const data = { sentMessages: 0, sentBytes: 0, receivedMessages: 0, receivedBytes: 0, verifiedMessages: 0 };

// Message number `index` of the side called `from`: xorshift32, so that any damage, loss or mix-up shows.
function pattern(from, index) {
  const words = new Uint32Array(DATA_MESSAGE_BYTES / 4);
  let state = (from === "caller" ? 0x9e3779b9 : 0x7f4a7c15) ^ Math.imul(index + 1, 0x85ebca6b);
  for (let word = 0; word < words.length; word += 1) {
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
    words[word] = state;
  }
  return new Uint8Array(words.buffer);
}

const channel = connection.createDataChannel("lab", { negotiated: true, id: 1 });
channel.binaryType = "arraybuffer";
channel.onopen = () => {
  milestone("dataOpen");
  note("data channel open");
  sendData();
};
async function sendData() {
  for (let count = 1; count <= DATA_MESSAGES && channel.readyState === "open"; count += 1) {
    channel.send(pattern(side, data.sentMessages));
    data.sentMessages += 1;
    data.sentBytes += DATA_MESSAGE_BYTES;
    drawData();
    if (count % 10 === 0) await pause(20);
  }
}
channel.onmessage = ({ data: received }) => {
  const bytes = new Uint8Array(received);
  const expected = pattern(side === "caller" ? "callee" : "caller", data.receivedMessages);
  data.receivedMessages += 1;
  data.receivedBytes += bytes.length;
  if (bytes.length === expected.length && bytes.every((byte, at) => byte === expected[at])) data.verifiedMessages += 1;
  drawData();
  if (data.verifiedMessages % DATA_MESSAGES === 0) {
    milestone("dataVerified");
    note("data verified");
  }
};

function drawData() {
  element("data-sent").textContent = `${size(data.sentBytes)}, ${data.sentMessages} messages`;
  element("data-received").textContent = `${size(data.receivedBytes)}, ${data.verifiedMessages} verified`;
}

// --------------------------------------------------------------------------------------------------------------- faults

let watching = false;  // the lab is about to break something
let settled = false;   // it has done so
let faultAt;
const outages = [];    // without sound, or with the same picture: since when, how long
const restarts = [];
const pairChanges = [];

let pairInUse;
function watchPair(id) {
  if (!id || id === pairInUse) return;
  if (pairInUse && watching) {
    const { local, remote } = latest.selected;
    pairChanges.push(sinceStart());
    note(`pair in use: ${local.type} ${local.address}:${local.port}, ${remote.type} ${remote.address}:${remote.port}`);
  }
  pairInUse = id;
}

const flows = {
  audio: { count: 0, at: 0, longest: SILENCE },
  video: { count: 0, at: 0, longest: FREEZE },
};
let steadySince = 0;
function watchMedia({ audio, video }) {
  if (!watching || finishing) return;
  const now = sinceStart();
  for (const [kind, count] of [["audio", audio.receivedPackets ?? 0], ["video", video.receivedFrames ?? 0]]) {
    const flow = flows[kind];
    if (count === flow.count) continue;
    // From the last packet or frame before the gap to the first after it, both as the samples see them.
    const milliseconds = now - flow.at;
    if (flow.at && milliseconds > flow.longest) {
      outages.push({ kind, since: flow.at, milliseconds });
      note(`${kind} again, after ${milliseconds} ms`);
      steadySince = now;
    }
    flow.count = count;
    flow.at = now;
  }
}

const steady = () => settled && connection.connectionState === "connected" && sinceStart() - steadySince >= STEADY
  && Object.values(flows).every((flow) => sinceStart() - flow.at <= flow.longest);

watchSamples(({ media }, pairId) => {
  watchPair(pairId);
  watchMedia(media);
});

let inTroubleSince;
let restartedAt = -Infinity;
function restartIfInTrouble() {
  const states = [connection.connectionState, connection.iceConnectionState];
  const failed = states.includes("failed");
  if (!established || finishing || !(failed || states.includes("disconnected"))) {
    inTroubleSince = undefined;
    return;
  }
  const now = performance.now();
  inTroubleSince ??= now;
  if (now - restartedAt < RESTART_AGAIN_AFTER || (!failed && now - inTroubleSince < RESTART_AFTER)) return;
  restartedAt = now;
  restarts.push(sinceStart());
  note("ICE restart");
  connection.restartIce();
}
setInterval(restartIfInTrouble, 250);

async function recover() {
  await watchUntil(() => finishing || steady());
  if (finishing) return;
  milestone("steady");
  note("media flows again");
  sendData(); // measuring goes on meanwhile
  const messages = 2 * DATA_MESSAGES;
  await watchUntil(() => finishing || (data.verifiedMessages === messages && data.sentMessages === messages));
  if (finishing) return;
  await post("/stage", "recovered");
}

// --------------------------------------------------------------------------------------------------------------- call

const talking = () => connection.connectionState === "connected"
  && data.verifiedMessages === DATA_MESSAGES && data.sentMessages === DATA_MESSAGES
  && (latest.media.audio.receivedPackets ?? 0) >= ENOUGH_AUDIO_PACKETS
  && (latest.media.video.receivedFrames ?? 0) >= ENOUGH_VIDEO_FRAMES;

function hangUp() {
  finishing = true;
  tell({ kind: "finish" });
}

async function call() {
  element("hang-up").onclick = hangUp;

  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 360 } });
  element("local").srcObject = stream;
  for (const track of stream.getTracks()) connection.addTrack(track, stream);

  listen(handle);
  if (side === "callee") tell({ kind: "hello" });
  if (!await watchUntil(() => failure || talking(), patience)) failure ??= "deadline";
  if (failure) return failure;

  milestone("talking");
  note("talking");
  established = true;
  await post("/stage", "talking");
  await watchUntil(() => finishing || watching);
  if (watching) await recover();
  await watchUntil(() => finishing);
  const up = connection.connectionState === "connected";
  await stopMedia();
  return up ? "connected" : "failed";
}

await run(call, () => ({ data, faultAt, outages, restarts, pairChanges }), bye);
