// The call page of the lab. It makes the call by itself, from what its URL says, and posts how it went:
//
//   /call?room=R&side=caller|callee      both required; each side of a room must be opened once
//        &ice=[{"urls":…}]               RTCConfiguration.iceServers as JSON, none by default
//        &policy=all|relay               iceTransportPolicy
//        &patience=20                    seconds after which a call that does not work is given up
//        &me=NAME&peer=NAME              shown to people
//
// Once audio, video and data have arrived verified, the stage is "talking" and the call goes on until somebody hangs
// up: a person here, or the lab by a message of kind "finish". Then media stops, the statistics are posted as the
// result, and on "bye" the connection is closed.
//
// A call that has been up is not given up: when ICE is disconnected for some time, or has failed, the page restarts it,
// on either side (perfect negotiation). The lab says "fault" before it breaks something and "settle" afterwards; the
// stage is "watching" in between, and "recovered" once audio and video flow without a gap and new data has arrived
// verified. What the page has seen of it is in the result: outages, restarts, changes of the pair in use.

const query = new URLSearchParams(location.search);
const room = query.get("room") ?? "lobby";
const side = query.get("side") ?? "caller";
const patience = 1000 * Number(query.get("patience") ?? 20);
const api = `/api/rooms/${encodeURIComponent(room)}/${side}`;

const DATA_MESSAGES = 200;
const DATA_MESSAGE_BYTES = 1024;
const ENOUGH_AUDIO_PACKETS = 50;
const ENOUGH_VIDEO_FRAMES = 15;

const REQUEST_PATIENCE = 6000;   // the server holds a long poll for 4 s
const POST_ATTEMPTS = 10;
const FAILURE_PATIENCE = 1000;   // until candidates arrive, "failed" may mean that there is nothing to try yet
const RESTART_AFTER = 500;       // ICE has tried for seconds when it says "disconnected"
const RESTART_AGAIN_AFTER = 8000;
const SILENCE = 400;             // sound comes every 20 ms
const FREEZE = 1000;             // pictures come some twenty times a second
const STEADY = 2000;             // without silence or freeze

const element = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// ---------------------------------------------------------------------------------------------------------- timeline

let started = performance.now();
const timeline = [];
const milestones = {};

function note(what) {
  const milliseconds = sinceOffer();
  timeline.push({ milliseconds, what });
  console.info(`netlab ${milliseconds} ms: ${what}`);
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = `${milliseconds} ms`;
  item.append(time, what);
  element("timeline").append(item);
  element("timeline").scrollTop = element("timeline").scrollHeight;
}

const sinceOffer = () => Math.round(performance.now() - started);

function milestone(name) {
  milestones[name] ??= sinceOffer();
}

function show(state) {
  element("state").textContent = state;
  element("state").className = state;
}

// --------------------------------------------------------------------------------------------------------- signalling

async function request(path, options = {}) {
  // Every request has a limit: a NAT that forgets an idle connection must not hang the call.
  const signal = AbortSignal.timeout(REQUEST_PATIENCE);
  const response = await fetch(api + path, { ...options, signal, cache: "no-store" });
  if (!response.ok) throw new Error(`${path}: HTTP ${response.status}`);
  return response.status === 204 ? undefined : response.json();
}

// One post at a time: candidates must not overtake the description they belong to.
let posting = Promise.resolve();
function post(path, body) {
  const send = () => request(path, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  posting = posting.then(async () => {
    for (let attempt = 1; attempt <= POST_ATTEMPTS; attempt += 1) {
      try {
        return await send();
      } catch (error) {
        note(`post failed: ${error.message}`);
        await pause(200);
      }
    }
    return undefined;
  });
  return posting;
}

// Messages are numbered, so that one that arrived although it seemed not to does not arrive twice.
let told = 0;
function tell(message) {
  told += 1;
  return post(`/messages?number=${told - 1}`, message);
}

let listening = true;
async function listen(handle) {
  let after = 0;
  while (listening) {
    try {
      const messages = await request(`/messages?after=${after}`);
      after += messages.length;
      for (const message of messages) {
        await handle(message).catch((error) => note(`${message.kind}: ${error.message}`));
      }
    } catch (error) {
      note(`signalling: ${error.message}`);
      await pause(500);
    }
  }
}

// --------------------------------------------------------------------------------------------------------- connection

const connection = new RTCPeerConnection({
  iceServers: JSON.parse(query.get("ice") ?? "[]"),
  iceTransportPolicy: query.get("policy") ?? "all",
  bundlePolicy: "max-bundle",
});

let failure;          // why the call is given up, once it is
let established = false; // the call has been up
let finishing = false; // somebody has hung up
let dismissed;        // called when the lab says "bye"
const bye = new Promise((resolve) => { dismissed = resolve; });

connection.onconnectionstatechange = () => {
  note(`connection ${connection.connectionState}`);
  show(connection.connectionState);
  if (connection.connectionState === "connected") milestone("connected");
  if (connection.connectionState === "failed" && !established) setTimeout(giveUpIfStillFailed, FAILURE_PATIENCE);
};
function giveUpIfStillFailed() {
  if (connection.connectionState === "failed" && !established) failure ??= "failed";
}
connection.oniceconnectionstatechange = () => note(`ice ${connection.iceConnectionState}`);
connection.onicegatheringstatechange = () => {
  note(`gathering ${connection.iceGatheringState}`);
  if (connection.iceGatheringState === "complete") milestone("gathered");
};
connection.onicecandidate = ({ candidate }) => {
  if (!candidate?.candidate) return;
  note(`candidate ${candidate.type} ${candidate.protocol} ${candidate.address}:${candidate.port}`);
  tell({ kind: "candidate", candidate });
};
connection.onicecandidateerror = ({ url, errorCode, errorText }) => note(`${url}: error ${errorCode} ${errorText}`);
connection.ontrack = ({ streams, track }) => {
  element("remote").srcObject = streams[0];
  track.onunmute = () => milestone(`${track.kind}Flowing`);
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
    note(connection.localDescription.type);
    await tell({ kind: "description", description: connection.localDescription });
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
      started = performance.now();
      return offer();
    case "description":
      if (!connection.remoteDescription && side === "callee") started = performance.now();
      return receive(message.description);
    case "fault":
      watching = true;
      faultAt = sinceOffer();
      note("fault");
      return post("/stage", "watching");
    case "settle":
      settled = true;
      steadySince = sinceOffer();
      return note("settle");
    case "candidate":
      if (connection.remoteDescription) return addCandidate(message.candidate);
      earlyCandidates.push(message.candidate);
      return undefined;
    case "finish":
      finishing = true;
      return undefined;
    case "bye":
      listening = false;
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
    if (count % 10 === 0) await pause(20);
  }
}
channel.onmessage = ({ data: received }) => {
  const bytes = new Uint8Array(received);
  const expected = pattern(side === "caller" ? "callee" : "caller", data.receivedMessages);
  data.receivedMessages += 1;
  data.receivedBytes += bytes.length;
  if (bytes.length === expected.length && bytes.every((byte, at) => byte === expected[at])) data.verifiedMessages += 1;
  if (data.verifiedMessages % DATA_MESSAGES === 0) {
    milestone("dataVerified");
    note("data verified");
  }
};

// ---------------------------------------------------------------------------------------------------------- statistics

const pairsSeen = new Map(); // pairs that are pruned vanish from getStats; what they carried still counts

// A pair gets another id when the address of its remote end, first met in a check ("prflx", which Chromium shows without
// the address), arrives as a candidate. Its counters go on under the new id and must not count twice.
function forgetRenamed(current) {
  const ids = new Set(current.map((pair) => pair.id));
  for (const [id, old] of pairsSeen) {
    if (ids.has(id) || old.remote.type !== "prflx") continue;
    const renamed = current.map((pair) => pairsSeen.get(pair.id)).find((pair) =>
      pair.local.address === old.local.address && pair.local.port === old.local.port
      && pair.remote.port === old.remote.port
      && pair.bytesSent >= old.bytesSent && pair.requestsReceived >= old.requestsReceived);
    if (renamed) {
      pairsSeen.delete(id);
      note(`pair ${old.local.type}/prflx is now ${renamed.local.type}/${renamed.remote.type}`);
    }
  }
}

let latest = { media: { audio: {}, video: {} } };

async function measure() {
  const reports = [...(await connection.getStats()).values()];
  const byId = new Map(reports.map((report) => [report.id, report]));
  const transport = reports.find((report) => report.type === "transport");
  const pairs = reports.filter((report) => report.type === "candidate-pair");
  const end = (id) => {
    const candidate = byId.get(id) ?? {};
    return {
      type: candidate.candidateType, protocol: candidate.protocol, relayProtocol: candidate.relayProtocol,
      address: candidate.address ?? candidate.ip, port: candidate.port, url: candidate.url,
    };
  };
  for (const pair of pairs) {
    pairsSeen.set(pair.id, {
      local: end(pair.localCandidateId), remote: end(pair.remoteCandidateId), state: pair.state,
      nominated: pair.nominated ?? false,
      packetsSent: pair.packetsSent, packetsReceived: pair.packetsReceived, // not in Firefox
      bytesSent: pair.bytesSent ?? 0, bytesReceived: pair.bytesReceived ?? 0,
      requestsSent: (pair.requestsSent ?? 0) + (pair.consentRequestsSent ?? 0),
      requestsReceived: pair.requestsReceived ?? 0,
      responsesSent: pair.responsesSent ?? 0, responsesReceived: pair.responsesReceived ?? 0,
      roundTripSeconds: pair.currentRoundTripTime,
    });
  }
  forgetRenamed(pairs);
  const selected = byId.get(transport?.selectedCandidatePairId)
    ?? pairs.find((pair) => pair.selected) // Firefox
    ?? pairs.find((pair) => pair.nominated && pair.state === "succeeded");
  const media = { audio: {}, video: {} };
  for (const report of reports) {
    const counters = media[report.kind];
    if (report.type === "outbound-rtp") {
      counters.sentBytes = (counters.sentBytes ?? 0) + report.bytesSent;
      counters.sentPackets = (counters.sentPackets ?? 0) + report.packetsSent;
      if (report.framesSent !== undefined) counters.sentFrames = report.framesSent;
    } else if (report.type === "inbound-rtp") {
      counters.receivedBytes = report.bytesReceived;
      counters.receivedPackets = report.packetsReceived;
      counters.lostPackets = report.packetsLost;
      if (report.framesDecoded !== undefined) counters.receivedFrames = report.framesDecoded;
    }
  }
  latest = { selected: selected && pairsSeen.get(selected.id), media };
  watchPair(selected?.id);
  watchMedia(media);
  draw();
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
    pairChanges.push(sinceOffer());
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
  const now = sinceOffer();
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

const steady = () => settled && connection.connectionState === "connected" && sinceOffer() - steadySince >= STEADY
  && Object.values(flows).every((flow) => sinceOffer() - flow.at <= flow.longest);

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
  restarts.push(sinceOffer());
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

const size = (bytes) => bytes === undefined ? "–"
  : bytes < 10_000 ? `${bytes} B` : bytes < 10_000_000 ? `${(bytes / 1000).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

function draw() {
  const { selected, media } = latest;
  if (selected) {
    for (const which of ["local", "remote"]) {
      const { type, relayProtocol, address, port } = selected[which];
      element(`${which}-type`).textContent = relayProtocol ? `${type} (${relayProtocol})` : type;
      element(`${which}-address`).textContent = `${address}:${port}`;
    }
    const relayed = selected.local.type === "relay" || selected.remote.type === "relay";
    const trip = selected.roundTripSeconds === undefined ? "" : `, ${(selected.roundTripSeconds * 1000).toFixed(1)} ms`;
    element("wire").textContent = `${relayed ? "through the relay" : "direct"}${trip}`;
    element("path-sent").textContent = size(selected.bytesSent);
    element("path-received").textContent = size(selected.bytesReceived);
  }
  for (const kind of ["audio", "video"]) {
    const unit = kind === "video" ? "frames" : "packets";
    const count = (direction) => media[kind][`${direction}${unit === "frames" ? "Frames" : "Packets"}`] ?? 0;
    element(`${kind}-sent`).textContent = `${size(media[kind].sentBytes)}, ${count("sent")} ${unit}`;
    element(`${kind}-received`).textContent = `${size(media[kind].receivedBytes)}, ${count("received")} ${unit}`;
  }
  element("data-sent").textContent = `${size(data.sentBytes)}, ${data.sentMessages} messages`;
  element("data-received").textContent = `${size(data.receivedBytes)}, ${data.verifiedMessages} verified`;
}

const talking = () => connection.connectionState === "connected"
  && data.verifiedMessages === DATA_MESSAGES && data.sentMessages === DATA_MESSAGES
  && (latest.media.audio.receivedPackets ?? 0) >= ENOUGH_AUDIO_PACKETS
  && (latest.media.video.receivedFrames ?? 0) >= ENOUGH_VIDEO_FRAMES;

async function watchUntil(condition, milliseconds = Infinity) {
  const deadline = performance.now() + milliseconds;
  while (!condition() && performance.now() < deadline) {
    await measure();
    await pause(watching ? 50 : 200);
  }
  return condition();
}

// --------------------------------------------------------------------------------------------------------------- call

function hangUp() {
  finishing = true;
  tell({ kind: "finish" });
}

async function stopMedia() {
  await Promise.all(connection.getSenders().map((sender) => sender.replaceTrack(null)));
  // What is under way arrives, then the last statistics can be compared with the other side's and the server's.
  let before;
  let quiet = 0;
  await watchUntil(() => {
    const now = latest.media.audio.receivedPackets + latest.media.video.receivedPackets;
    quiet = now === before ? quiet + 1 : 0;
    before = now;
    return quiet >= 3;
  }, 3000);
}

async function call() {
  element("who").textContent = `${query.get("me") ?? side} calling ${query.get("peer") ?? "the other side"} in ${room}`;
  element("local-name").textContent = query.get("me") ?? "this side";
  element("remote-name").textContent = query.get("peer") ?? "the other side";
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

function result(outcome, problem) {
  const { selected, media } = latest;
  const agent = navigator.userAgent;
  return {
    outcome, problem, agent, selected, pairs: [...pairsSeen.values()], media, data, milestones, timeline,
    faultAt, outages, restarts, pairChanges,
  };
}

let outcome;
let problem;
try {
  outcome = await call();
  await measure();
} catch (error) {
  outcome = "error";
  problem = String(error?.stack ?? error);
  note(problem);
  show("error");
}
note(`result ${outcome}`);
await post("/result", result(outcome, problem));
await Promise.race([bye, pause(20_000)]);
// Media has stopped, but probes for bandwidth may have gone on: what the server counts, count to the end.
await measure().catch((error) => note(error.message));
const closing = result(outcome, problem);
connection.close();
await post("/result", closing);
await post("/stage", "closed");
note("closed");
show("closed");
