// A WebSocket client on npm's `ws`: node ws_client.mjs URL IDLE_SECONDS. Prints as JSON what came back.
import { createRequire } from 'node:module'

const WebSocket = createRequire(`${process.env.WITH_WS}/`)('ws')
const [url, idle] = [process.argv[2], Number(process.argv[3])]

const open = async () => {
  const socket = new WebSocket(url, { perMessageDeflate: false })
  await new Promise((go, fail) => { socket.once('open', go); socket.once('error', fail) })
  return socket
}
const message = (socket) => new Promise((go) => socket.once('message', (data, binary) => go(binary ? data : data.toString())))
const closed = (socket) => new Promise((go) => socket.once('close', (code, reason) => go([code, reason.toString()])))
const ask = (socket, data) => { const answer = message(socket); socket.send(data); return answer }

const out = {}
const first = await open()
out.text = await ask(first, 'grüße')
const bytes = Buffer.from(Uint8Array.from({ length: 200000 }, (_, i) => i & 255))
out.binary = bytes.equals(await ask(first, bytes))
const pong = new Promise((go) => first.once('pong', (data) => go(data.toString())))
first.ping('still there?')
out.pong = await pong
out.many = true
for (let i = 0; i < 200; i += 1) out.many &&= (await ask(first, `message ${i}`)) === `message ${i}`
await new Promise((go) => setTimeout(go, idle * 1000))
out.after_idle = await ask(first, 'awake')
out.headers = JSON.parse(await ask(first, 'headers'))
const end = closed(first)
first.send('close')
out.closed_by_server = await end
const second = await open()
const leave = closed(second)
second.close(4002, 'bye')
out.closed_by_client = (await leave)[0]
const third = await open()
const death = closed(third)
third.send('die')
out.died = (await death)[0]
console.log(JSON.stringify(out))
