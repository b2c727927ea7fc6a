// The call page of the lab: a browser calls a browser, and they signal over HTTP. It makes the call by itself, from
// what its URL says, and posts how it went; `page.js` has the parameters. Each side of a room must be opened once.

import {
  ENOUGH_AUDIO_PACKETS, ENOUGH_VIDEO_FRAMES, configuration, element, follow, latest, listen, milestone, note,
  noteCandidate, patience, pause, post, restart, run, side, size, stopListening, stopMedia, tell, watchUntil,
} from "/page.js";

const DATA_MESSAGES = 200;
const DATA_MESSAGE_BYTES = 1024;

// --------------------------------------------------------------------------------------------------------- connection

const connection = new RTCPeerConnection({ ...configuration, bundlePolicy: "max-bundle" });

let failure;          // why the call is given up, once it is
let finishing = false; // somebody has hung up
let dismissed;        // called when the lab says "bye"
const bye = new Promise((resolve) => { dismissed = resolve; });

follow(connection, () => { failure ??= "failed"; });
connection.onicecandidate = ({ candidate }) => {
  if (!candidate?.candidate) return;
  noteCandidate(candidate);
  tell({ kind: "candidate", candidate });
};

const earlyCandidates = [];
async function describeRemote(description) {
  await connection.setRemoteDescription(description);
  for (const candidate of earlyCandidates.splice(0)) await addCandidate(candidate);
}

const addCandidate = (candidate) =>
  connection.addIceCandidate(candidate).catch((error) => note(`candidate refused: ${error.message}`));

async function handle(message) {
  switch (message.kind) {
    case "hello": // the callee is there and has its camera: the clock starts with the offer
      restart();
      await connection.setLocalDescription();
      note("offer");
      return tell({ kind: "description", description: connection.localDescription });
    case "description":
      if (message.description.type === "offer") {
        restart();
        await describeRemote(message.description);
        await connection.setLocalDescription();
        note("answer");
        return tell({ kind: "description", description: connection.localDescription });
      }
      return describeRemote(message.description);
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
channel.onopen = async () => {
  milestone("dataOpen");
  note("data channel open");
  for (let index = 0; index < DATA_MESSAGES && channel.readyState === "open"; index += 1) {
    channel.send(pattern(side, index));
    data.sentMessages += 1;
    data.sentBytes += DATA_MESSAGE_BYTES;
    drawData();
    if (index % 10 === 9) await pause(20);
  }
};
channel.onmessage = ({ data: received }) => {
  const bytes = new Uint8Array(received);
  const expected = pattern(side === "caller" ? "callee" : "caller", data.receivedMessages);
  data.receivedMessages += 1;
  data.receivedBytes += bytes.length;
  if (bytes.length === expected.length && bytes.every((byte, at) => byte === expected[at])) data.verifiedMessages += 1;
  drawData();
  if (data.verifiedMessages === DATA_MESSAGES) {
    milestone("dataVerified");
    note("data verified");
  }
};

function drawData() {
  element("data-sent").textContent = `${size(data.sentBytes)}, ${data.sentMessages} messages`;
  element("data-received").textContent = `${size(data.receivedBytes)}, ${data.verifiedMessages} verified`;
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
  await post("/stage", "talking");
  await watchUntil(() => finishing || failure);
  await stopMedia();
  return failure ?? "connected";
}

await run(call, () => ({ data }), bye);
