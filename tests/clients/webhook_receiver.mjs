// The published server SDK for Node as a receiver of webhooks: one request a line on stdin ({body, authorization}), what
// it made of it a line on stdout.
import {createInterface} from 'node:readline';
import {WebhookReceiver} from 'livekit-server-sdk';

const [key, secret] = process.argv.slice(2);
const receiver = new WebhookReceiver(key, secret);

for await (const line of createInterface({input: process.stdin})) {
  const {body, authorization} = JSON.parse(line);
  const said = await receiver.receive(body, authorization).then(
    (event) => ({event: event.event, id: event.id, room: event.room?.name ?? '', identity: event.participant?.identity ?? '',
      track: event.track?.sid ?? '', createdAt: Number(event.createdAt)}),
    (error) => ({error: String(error)}),
  );
  process.stdout.write(`${JSON.stringify(said)}\n`);
}
