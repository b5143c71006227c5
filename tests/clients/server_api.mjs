// The published server SDK for Node: one call a line on stdin ({method, arguments}), its answer a line on stdout, as JSON.
import {createInterface} from 'node:readline';
import {AccessToken, RoomServiceClient} from 'livekit-server-sdk';

const [url, key, secret] = process.argv.slice(2);
const rooms = new RoomServiceClient(url, key, secret);

function plain(_, value) {
  return typeof value === 'bigint' ? Number(value) : value;
}

async function token({room, identity}) {
  const made = new AccessToken(key, secret, {identity, ttl: 600});
  made.addGrant({roomJoin: true, room});
  return made.toJwt();
}

async function call(method, given) {
  if (method === 'token') return token(given[0]);
  if (method === 'sendData') given[1] = new TextEncoder().encode(given[1]);
  return rooms[method](...given);
}

for await (const line of createInterface({input: process.stdin})) {
  const {id, does, given} = JSON.parse(line);
  const said = await call(does, given).then(
    (answer) => ({id, answer: answer ?? null}),
    (error) => ({id, error: `${error.status} ${error.code} ${error.message}`}),
  );
  process.stdout.write(`${JSON.stringify(said, plain)}\n`);
}
