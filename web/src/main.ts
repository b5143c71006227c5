// The page of `make run`: two tabs talk with camera, microphone, screen share and chat, through the published SDK.
import {
  ConnectionState,
  DisconnectReason,
  type LocalParticipant,
  type Participant,
  type RemoteParticipant,
  Room,
  RoomEvent,
  Track,
  type TrackPublication,
} from "livekit-client";

const CHAT_TOPIC = "lk.chat";

function element<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`no element ${id}`);
  return found as T;
}

const room = new Room({ adaptiveStream: true, dynacast: true });
const stage = element("stage");
const sounds = new Map<string, HTMLMediaElement>();

function say(text: string): void {
  element("status").textContent = text;
}

// One tile per video, and one per participant without any: what is shown follows the room, nothing else is kept.
function draw(): void {
  const wanted = new Map<string, { participant: Participant; publication: TrackPublication | undefined }>();
  for (const participant of [room.localParticipant, ...room.remoteParticipants.values()]) {
    const videos = [...participant.videoTrackPublications.values()].filter((it) => it.track && !it.isMuted);
    for (const publication of videos) wanted.set(publication.trackSid, { participant, publication });
    if (videos.length === 0) wanted.set(participant.identity, { participant, publication: undefined });
  }
  for (const tile of [...stage.children]) {
    if (tile instanceof HTMLElement && !wanted.has(tile.dataset["key"] ?? "")) tile.remove();
  }
  for (const [key, { participant, publication }] of wanted) {
    const present = [...stage.children].find((it) => (it as HTMLElement).dataset["key"] === key);
    const tile = present instanceof HTMLElement ? present : newTile(key, participant, publication);
    tile.classList.toggle("speaking", participant.isSpeaking);
  }
}

function newTile(key: string, participant: Participant, publication: TrackPublication | undefined): HTMLElement {
  const tile = document.createElement("figure");
  tile.dataset["key"] = key;
  if (publication?.track) {
    const video = publication.track.attach() as HTMLVideoElement;
    video.muted = true;
    tile.append(video);
    tile.classList.toggle("screen", publication.source === Track.Source.ScreenShare);
  }
  const caption = document.createElement("figcaption");
  const you = participant === room.localParticipant ? " (you)" : "";
  caption.textContent = `${participant.name || participant.identity}${you}`;
  tile.append(caption);
  stage.append(tile);
  return tile;
}

function write(from: string, text: string): void {
  const line = document.createElement("li");
  line.textContent = `${from}: ${text}`;
  element("messages").append(line);
  line.scrollIntoView({ block: "end" });
}

function pressed(id: string, on: boolean): void {
  element(id).setAttribute("aria-pressed", String(on));
}

function toggle(id: string, name: string, act: (me: LocalParticipant) => Promise<unknown>): void {
  element(id).addEventListener("click", () => {
    act(room.localParticipant).then(refresh, (error: unknown) => say(`${name}: ${reason(error)}`));
  });
}

function refresh(): void {
  const me = room.localParticipant;
  pressed("microphone", me.isMicrophoneEnabled);
  pressed("camera", me.isCameraEnabled);
  pressed("screen", me.isScreenShareEnabled);
  draw();
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function join(url: string, token: string): Promise<void> {
  say("connecting");
  await room.connect(url, token);
  element("join").hidden = true;
  element("call").hidden = false;
  say(`in room ${room.name} as ${room.localParticipant.identity}`);
  refresh();
  // Both are asked for together so that the browser asks once; a machine without either may still listen and chat.
  await room.localParticipant.enableCameraAndMicrophone().catch((error: unknown) => say(`camera: ${reason(error)}`));
  refresh();
}

for (const event of [
  RoomEvent.ParticipantConnected,
  RoomEvent.ParticipantDisconnected,
  RoomEvent.TrackSubscribed,
  RoomEvent.TrackUnsubscribed,
  RoomEvent.TrackMuted,
  RoomEvent.TrackUnmuted,
  RoomEvent.LocalTrackPublished,
  RoomEvent.LocalTrackUnpublished,
  RoomEvent.ActiveSpeakersChanged,
] as const) {
  room.on(event, refresh);
}
room.on(RoomEvent.TrackSubscribed, (track) => {
  if (track.kind !== Track.Kind.Audio || track.sid === undefined) return;
  const heard = track.attach();
  sounds.set(track.sid, heard);
  document.body.append(heard);
});
room.on(RoomEvent.TrackUnsubscribed, (track) => {
  track.detach().forEach((it) => it.remove());
  // The SDK has detached by now what it knows of; the element is ours.
  sounds.get(track.sid ?? "")?.remove();
  sounds.delete(track.sid ?? "");
});
room.on(RoomEvent.ConnectionStateChanged, (state) => {
  if (state === ConnectionState.Reconnecting || state === ConnectionState.Connecting) say(state);
});
room.on(RoomEvent.Reconnected, () => say(`in room ${room.name} as ${room.localParticipant.identity}`));
room.on(RoomEvent.Disconnected, (why) => {
  say(`left: ${why === undefined ? "connection lost" : (DisconnectReason[why] ?? why).toString().toLowerCase().replaceAll("_", " ")}`);
  sounds.forEach((it) => it.remove());
  sounds.clear();
  element("join").hidden = false;
  element("call").hidden = true;
  stage.replaceChildren();
});
room.registerTextStreamHandler(CHAT_TOPIC, async (reader, from) => {
  const sender = room.remoteParticipants.get(from.identity) as RemoteParticipant | undefined;
  write(sender?.name || from.identity, await reader.readAll());
});

toggle("microphone", "microphone", (me) => me.setMicrophoneEnabled(!me.isMicrophoneEnabled));
toggle("camera", "camera", (me) => me.setCameraEnabled(!me.isCameraEnabled));
toggle("screen", "screen share", (me) => me.setScreenShareEnabled(!me.isScreenShareEnabled, { audio: true }));
toggle("leave", "leave", () => room.disconnect());

element<HTMLFormElement>("chat").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = element<HTMLInputElement>("text");
  const text = input.value.trim();
  if (text === "") return;
  input.value = "";
  room.localParticipant
    .sendText(text, { topic: CHAT_TOPIC })
    .then(() => write("you", text), (error: unknown) => say(`chat: ${reason(error)}`));
});

element<HTMLFormElement>("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const url = element<HTMLInputElement>("url").value;
  const token = element<HTMLInputElement>("token").value;
  join(url, token).catch((error: unknown) => say(`could not join: ${reason(error)}`));
});

// The link that `make run` prints carries both after the #, which browsers never send to a server.
const given = new URLSearchParams(location.hash.slice(1));
element<HTMLInputElement>("url").value = given.get("url") ?? location.origin.replace(/^http/, "ws");
element<HTMLInputElement>("token").value = given.get("token") ?? "";
if (given.has("token")) {
  history.replaceState(null, "", location.pathname);
  element<HTMLFormElement>("join").requestSubmit();
}
