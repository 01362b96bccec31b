// An instance on Node's own HTTP server, with its default settings. It answers with what it saw of a request, or does
// what the header `x-do` asks for. The other origins of this folder understand the same words where their server can.
import { createHash } from 'node:crypto'
import http from 'node:http'
import { createRequire } from 'node:module'

const PORT = Number(process.env.PORT)
// How requests ended, as this server saw them.
const count = { started: 0, running: 0, most: 0, whole: 0, broken: 0 }
// Who waits for the word `next` or `release`.
const waiting = []

const pause = () => new Promise((go) => waiting.push(go))

function begin(req, res) {
  count.started += 1
  count.running += 1
  count.most = Math.max(count.most, count.running)
  // A request that came whole and is answered is no breakage; one that is cut off within its body is.
  req.once('end', () => { if (req.complete) count.whole += 1 })
  req.once('close', () => { if (!req.complete) count.broken += 1 })
  res.once('close', () => { count.running -= 1 })
}

async function see(req) {
  const [hash, chunks] = [createHash('sha256'), { bytes: 0 }]
  for await (const chunk of req) {
    hash.update(chunk)
    chunks.bytes += chunk.length
  }
  const pairs = []
  for (let i = 0; i < req.rawHeaders.length; i += 2) pairs.push([req.rawHeaders[i].toLowerCase(), req.rawHeaders[i + 1]])
  return {
    server: 'node', pid: process.pid, port: PORT, connection: req.socket.remotePort,
    method: req.method, target: req.url, headers: pairs, trailers: req.rawTrailers,
    bytes: chunks.bytes, sha256: hash.digest('hex'),
  }
}

function json(res, value) {
  const text = JSON.stringify(value)
  res.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
  res.end(text)
}

// 64 KiB whose every byte says where it stands.
const BLOCK = Buffer.from(Uint8Array.from({ length: 65536 }, (_, i) => (i * 31 + (i >> 8)) & 255))

async function write(res, bytes) {
  if (!res.write(bytes)) await new Promise((go) => { res.once('drain', go); res.once('close', go) })
}

const DO = {
  async down(req, res) {
    const bytes = Number(req.headers['x-bytes'])
    if (req.headers['x-chunked'] === undefined) res.setHeader('content-length', bytes)
    for (let left = bytes; left > 0 && !res.destroyed; left -= BLOCK.length) await write(res, BLOCK.subarray(0, left))
    res.end()
  },
  async chunks(req, res) {
    for (let i = 0; i < Number(req.headers['x-count']); i += 1) await write(res, `chunk ${i}\n`)
    res.end()
  },
  async early(_, res) { res.writeHead(403, { 'content-length': 5 }).end('early') },
  async mirror(req, res) {
    res.writeHead(200)
    res.flushHeaders()
    for await (const chunk of req) await write(res, chunk)
    res.end()
  },
  async events(req, res) {
    res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
    for (let i = 0; i < Number(req.headers['x-count']); i += 1) {
      res.write(`id: ${i}\ndata: event ${i}\n\n`)
      await pause()
    }
    res.end()
  },
  async trailers(_, res) {
    res.writeHead(200, { trailer: 'x-sum' })
    res.write('body')
    res.addTrailers({ 'x-sum': '42' })
    res.end()
  },
  async status(req, res) {
    res.writeHead(Number(req.headers['x-status']), { etag: '"one"', 'set-cookie': ['a=1', 'b=2', 'a=3'] }).end()
  },
  async hold(req, res) {
    await pause()
    json(res, await see(req))
  },
  async half(req, res) {
    if (req.headers['x-chunked'] === undefined) res.setHeader('content-length', 1000)
    res.setHeader('x-pid', process.pid)
    res.write('half')
  },
  async next(_, res) {
    const go = waiting.shift()
    go?.()
    json(res, { released: go !== undefined })
  },
  async count(_, res) { json(res, count) },
}

const server = http.createServer(async (req, res) => {
  const word = req.headers['x-do']
  if (word !== 'next' && word !== 'count') begin(req, res)
  try {
    if (word === undefined) json(res, await see(req))
    else if (DO[word]) await DO[word](req, res)
    else res.writeHead(501).end()
  } catch (e) {
    // The other side broke off: there is nobody to tell.
    res.destroy(e)
  }
})

if (process.env.WITH_WS) {
  const { WebSocketServer } = createRequire(`${process.env.WITH_WS}/`)('ws')
  new WebSocketServer({ server }).on('connection', (socket, request) => {
    socket.on('message', (data, binary) => {
      const text = binary ? '' : data.toString()
      if (text === 'headers') socket.send(JSON.stringify(request.headers))
      else if (text === 'close') socket.close(4001, 'asked to')
      else if (text === 'die') process.kill(process.pid, 'SIGKILL')
      else socket.send(data, { binary })
    })
  })
}

// A start that takes its time, for calls that wait.
setTimeout(() => server.listen(PORT, '127.0.0.1'), Number(process.env.START_MS ?? 0))
process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeIdleConnections() })
