// The published Node SDK as a participant: one command a line on stdin, one answer or event a line on stdout, all JSON.
// What it does is named as in tests/support/client_process.py.
import {createInterface} from 'node:readline';
import {
  AudioFrame, AudioSource, AudioStream, LocalAudioTrack, LocalVideoTrack, Room, RoomEvent, SimulateScenarioKind,
  TrackKind, TrackPublishOptions, TrackSource, VideoBufferType, VideoFrame, VideoSource, VideoStream, dispose,
} from '@livekit/rtc-node';

const SAMPLE_RATE = 48_000;
const TONE_HZ = 440;
const WIDTH = 320;
const HEIGHT = 180;
const room = new Room();
let playing = true;

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function happened(event) {
  say({event});
}

async function playTone(source) {
  const samples = SAMPLE_RATE / 100;
  for (let at = 0; playing; at += samples) {
    const frame = AudioFrame.create(SAMPLE_RATE, 1, samples);
    for (let i = 0; i < samples; i++) {
      frame.data[i] = 16_000 * Math.sin((2 * Math.PI * TONE_HZ * (at + i)) / SAMPLE_RATE);
    }
    await source.captureFrame(frame);
  }
}

async function showPattern(source) {
  for (let count = 0; playing; count++) {
    const picture = new Uint8Array(WIDTH * HEIGHT * 4).fill(255);
    picture.fill(60 + ((count * 5) % 120), 0, (WIDTH * HEIGHT * 4) / 2);
    source.captureFrame(new VideoFrame(picture, WIDTH, HEIGHT, VideoBufferType.RGBA));
    await new Promise((resolve) => setTimeout(resolve, 66));
  }
}

async function listen(track, identity) {
  for await (const frame of new AudioStream(track, SAMPLE_RATE, 1)) {
    let real = 0;
    let imaginary = 0;
    let energy = 0;
    frame.data.forEach((sample, i) => {
      const value = sample / 32768;
      real += value * Math.cos((2 * Math.PI * TONE_HZ * i) / SAMPLE_RATE);
      imaginary += value * Math.sin((2 * Math.PI * TONE_HZ * i) / SAMPLE_RATE);
      energy += value * value;
    });
    const count = frame.data.length;
    const tone = (2 * (real ** 2 + imaginary ** 2)) / count ** 2;
    if (energy / count > 1e-3 && tone > 0.6 * (energy / count)) happened(`heard ${identity}`);
  }
}

async function watch(track, identity) {
  let frames = 0;
  for await (const _ of new VideoStream(track)) {
    if (++frames % 10 === 0) happened(`saw ${identity}`);
  }
}

room
  .on(RoomEvent.ParticipantConnected, (who) => happened(`participant_connected ${who.identity}`))
  .on(RoomEvent.ParticipantDisconnected, (who) => happened(`participant_disconnected ${who.identity}`))
  .on(RoomEvent.TrackMuted, (_, who) => happened(`track_muted ${who.identity}`))
  .on(RoomEvent.TrackUnpublished, (_, who) => happened(`track_unpublished ${who.identity}`))
  .on(RoomEvent.LocalTrackSubscribed, () => happened('local_track_subscribed'))
  .on(RoomEvent.Reconnecting, () => happened('reconnecting'))
  .on(RoomEvent.Reconnected, () => happened('reconnected'))
  .on(RoomEvent.Disconnected, (reason) => happened(`disconnected ${reason}`))
  .on(RoomEvent.DataReceived, (data, who, kind, topic) =>
    happened(`data ${who?.identity ?? ''} ${topic ?? ''} ${new TextDecoder().decode(data)}`))
  .on(RoomEvent.ParticipantAttributesChanged, (changed, who) =>
    Object.entries(changed).forEach(([key, value]) => happened(`attribute ${who.identity} ${key}=${value}`)))
  .on(RoomEvent.TrackSubscribed, (track, _, who) => {
    happened(`track_subscribed ${who.identity}`);
    (track.kind === TrackKind.KIND_AUDIO ? listen : watch)(track, who.identity);
  });
room.registerTextStreamHandler('notes', async (reader, who) =>
  happened(`text ${who.identity} ${(await reader.readAll()).length}`));

const COMMANDS = {
  async join({url, token}) {
    await room.connect(url, token, {autoSubscribe: true, dynacast: true});
    room.localParticipant.registerRpcMethod('greet', async (call) => `hello ${call.callerIdentity}, ${call.payload}`);
    return room.localParticipant.sid;
  },
  async publish_tone() {
    const source = new AudioSource(SAMPLE_RATE, 1);
    const options = new TrackPublishOptions({source: TrackSource.SOURCE_MICROPHONE});
    const track = LocalAudioTrack.createAudioTrack('tone', source);
    const publication = await room.localParticipant.publishTrack(track, options);
    playTone(source);
    return publication.sid;
  },
  async publish_video() {
    const source = new VideoSource(WIDTH, HEIGHT);
    const options = new TrackPublishOptions({source: TrackSource.SOURCE_CAMERA});
    const track = LocalVideoTrack.createVideoTrack('pattern', source);
    const publication = await room.localParticipant.publishTrack(track, options);
    showPattern(source);
    return publication.sid;
  },
  unpublish: ({sid}) => room.localParticipant.unpublishTrack(sid),
  send_data: ({text, topic, reliable}) =>
    room.localParticipant.publishData(new TextEncoder().encode(text), {reliable, topic}),
  send_text: ({text, topic}) => room.localParticipant.sendText(text, {topic}).then(() => null),
  set_attributes: ({attributes}) => room.localParticipant.setAttributes(attributes),
  call: ({identity, method, payload}) =>
    room.localParticipant.performRpc({destinationIdentity: identity, method, payload, responseTimeout: 10_000}),
  simulate: ({scenario}) => room.simulateScenario(SimulateScenarioKind[scenario]),
  async leave() {
    playing = false;
    await room.disconnect();
  },
};

for await (const line of createInterface({input: process.stdin})) {
  const {id, does, ...details} = JSON.parse(line);
  COMMANDS[does](details).then(
    (answer) => say({id, answer: answer ?? null}),
    (error) => say({id, error: String(error)}),
  );
}
playing = false;
await dispose();
process.exit(0);
