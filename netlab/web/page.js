// What the lab's pages have in common: their parameters, the timeline, the way to the lab, and what getStats says.
//
//   ?room=R&side=caller|callee           which side of which room of the lab's web server this page is
//   &ice=[{"urls":…}]                    RTCConfiguration.iceServers as JSON, none by default
//   &policy=all|relay                    iceTransportPolicy
//   &patience=20                         seconds after which a call that does not work is given up
//   &me=NAME&peer=NAME                   shown to people
//   &withhold=candidates                 call.js only: the other side is never told this one's candidates
//
// Once everything has arrived as it should, the stage is "talking" and the call goes on until somebody hangs up: a
// person here, or the lab by a message of kind "finish". Then media stops, the statistics are posted as the result, and
// on "bye" the connection is closed.

export const query = new URLSearchParams(location.search);
export const room = query.get("room") ?? "lobby";
export const side = query.get("side") ?? "caller";
export const patience = 1000 * Number(query.get("patience") ?? 20);
const api = `/api/rooms/${encodeURIComponent(room)}/${side}`;

export const configuration = {
  iceServers: JSON.parse(query.get("ice") ?? "[]"),
  iceTransportPolicy: query.get("policy") ?? "all",
};

export const ENOUGH_AUDIO_PACKETS = 50;
export const ENOUGH_VIDEO_FRAMES = 15;

const REQUEST_PATIENCE = 6000; // the server holds a long poll for 4 s
const POST_ATTEMPTS = 10;
const SAMPLE_EVERY = 200;      // how often the statistics are looked at

export const element = (id) => document.getElementById(id);
export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// ---------------------------------------------------------------------------------------------------------- timeline

let started = performance.now();
export const timeline = [];
export const milestones = {};

// The clock of the timeline starts again.
export function restart() {
  started = performance.now();
}

export const sinceStart = () => Math.round(performance.now() - started);

export function note(what) {
  const milliseconds = sinceStart();
  timeline.push({ milliseconds, what });
  console.info(`netlab ${milliseconds} ms: ${what}`);
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = `${milliseconds} ms`;
  item.append(time, what);
  element("timeline").append(item);
  element("timeline").scrollTop = element("timeline").scrollHeight;
}

export function milestone(name) {
  milestones[name] ??= sinceStart();
}

export function show(state) {
  element("state").textContent = state;
  element("state").className = state;
}

// --------------------------------------------------------------------------------------------------------- the lab

async function request(path, options = {}) {
  // Every request has a limit: a NAT that forgets an idle connection must not hang the call.
  const signal = AbortSignal.timeout(REQUEST_PATIENCE);
  const response = await fetch(api + path, { ...options, signal, cache: "no-store" });
  if (!response.ok) throw new Error(`${path}: HTTP ${response.status}`);
  return response.status === 204 ? undefined : response.json();
}

// One post at a time: candidates must not overtake the description they belong to.
let posting = Promise.resolve();
export function post(path, body) {
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
export function tell(message) {
  told += 1;
  return post(`/messages?number=${told - 1}`, message);
}

let listening = true;
export function stopListening() {
  listening = false;
}

export async function listen(handle) {
  let after = 0;
  while (listening) {
    try {
      const messages = await request(`/messages?after=${after}`);
      after += messages.length;
      for (const message of messages) {
        try {
          await handle(message);
        } catch (error) {
          note(`${message.kind}: ${error.message}`);
        }
      }
    } catch (error) {
      note(`signalling: ${error.message}`);
      await pause(500);
    }
  }
}

// --------------------------------------------------------------------------------------------------------- connection

let connection; // the page's only one

// Tells people and the timeline what becomes of the page's connection; `failed` is called when it has failed.
export function follow(made, failed) {
  connection = made;
  connection.onconnectionstatechange = () => {
    note(`connection ${connection.connectionState}`);
    show(connection.connectionState);
    if (connection.connectionState === "connected") milestone("connected");
    if (connection.connectionState === "failed") failed();
  };
  connection.oniceconnectionstatechange = () => note(`ice ${connection.iceConnectionState}`);
  connection.onicegatheringstatechange = () => {
    note(`gathering ${connection.iceGatheringState}`);
    if (connection.iceGatheringState === "complete") milestone("gathered");
  };
  connection.onicecandidateerror = ({ url, errorCode, errorText }) => note(`${url}: error ${errorCode} ${errorText}`);
  connection.ontrack = ({ streams, track }) => {
    element("remote").srcObject = streams[0];
    track.onunmute = () => milestone(`${track.kind}Flowing`);
  };
}

export function noteCandidate({ type, protocol, address, port }) {
  note(`candidate ${type} ${protocol} ${address}:${port}`);
}

// ---------------------------------------------------------------------------------------------------------- statistics

const pairsSeen = new Map(); // pairs that are pruned vanish from getStats; what they carried still counts

// A pair gets another id when the address of its remote end, first met in a check ("prflx", which Chromium shows
// without the address), arrives as a candidate. Its counters go on under the new id and must not count twice.
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

export let latest = { media: { audio: {}, video: {} } };

// `watcher` is called with each sample: the statistics as in `latest`, and the id of the pair in use.
let watcher = () => {};
let sampleEvery = SAMPLE_EVERY;
export function watchSamples(watch) {
  watcher = watch;
}

export function sampleOften(milliseconds) {
  sampleEvery = milliseconds;
}

export async function measure() {
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
      counters.sentCodec = byId.get(report.codecId)?.mimeType;
    } else if (report.type === "inbound-rtp") {
      counters.receivedBytes = report.bytesReceived;
      counters.receivedPackets = report.packetsReceived;
      counters.lostPackets = report.packetsLost;
      if (report.framesDecoded !== undefined) counters.receivedFrames = report.framesDecoded;
      counters.receivedCodec = byId.get(report.codecId)?.mimeType;
    }
  }
  latest = { selected: selected && pairsSeen.get(selected.id), media };
  watcher(latest, selected?.id);
  draw();
}

export const size = (bytes) => bytes === undefined ? "–"
  : bytes < 10_000 ? `${bytes} B`
    : bytes < 10_000_000 ? `${(bytes / 1000).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

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
}

// Measures until the condition holds; returns whether it does.
export async function watchUntil(condition, milliseconds = Infinity) {
  const deadline = performance.now() + milliseconds;
  while (!condition() && performance.now() < deadline) {
    await measure();
    await pause(sampleEvery);
  }
  return condition();
}

// --------------------------------------------------------------------------------------------------------- the end

// Stops sending, and waits until nothing arrives any more.
export async function stopMedia() {
  await Promise.all(connection.getSenders().map((sender) => sender.replaceTrack(null)));
  // What is under way arrives, then the last statistics can be compared with the other side's and the server's.
  let before;
  let quiet = 0;
  await watchUntil(() => {
    const { audio, video } = latest.media;
    const now = (audio.receivedPackets ?? 0) + (video.receivedPackets ?? 0);
    quiet = now === before ? quiet + 1 : 0;
    before = now;
    return quiet >= 3;
  }, 3000);
}

// Runs the call, posts what came of it, and closes the connection when the lab says so. `call` gives the outcome;
// `particulars` gives what this kind of page has to add to its result.
export async function run(call, particulars, bye) {
  element("who").textContent = `${query.get("me") ?? side} calling ${query.get("peer") ?? "the other side"} in ${room}`;
  element("local-name").textContent = query.get("me") ?? "this side";
  element("remote-name").textContent = query.get("peer") ?? "the other side";

  let outcome;
  let problem;
  try {
    outcome = await call();
    if (connection) await measure();
  } catch (error) {
    outcome = "error";
    problem = String(error?.stack ?? error);
    note(problem);
    show("error");
  }
  note(`result ${outcome}`);
  const result = () => ({
    outcome, problem, agent: navigator.userAgent, selected: latest.selected, pairs: [...pairsSeen.values()],
    media: latest.media, milestones, timeline, ...particulars(),
  });
  await post("/result", result());
  await Promise.race([bye, pause(20_000)]);
  // Media has stopped, but probes for bandwidth may have gone on: what the server counts, count to the end.
  if (connection) await measure().catch((error) => note(error.message));
  const closing = result();
  connection?.close();
  await post("/result", closing);
  await post("/stage", "closed");
  note("closed");
  show("closed");
}
