'use strict'
// The traffic port: a request is read whole, made an event, given to the handler, answered.
const http = require('node:http')
const net = require('node:net')
const answer = require('./answer')
const { BadEvent, eventOf } = require('./event')
const log = require('./log')
const { answerOf, isIterator } = require('./result')

// An activator closes connections that idled for 60 s: so it is the one who closes.
const KEEP_ALIVE_MS = 75_000
// An activator's largest head (128 KiB), and half as much for what it adds.
const MAX_HEAD = 192 * 1024
const MAX_BODY = 32 * 1024 * 1024
// As many connections as the largest concurrency may be waiting to be accepted.
const BACKLOG = 1024
const EMPTY = Buffer.alloc(0)

// The body, or undefined when the caller left before its end or it is too large: then `tooLarge` was called, and what
// is left of it is read and dropped, so that the caller can read why.
async function collect(request, tooLarge) {
  const { headers } = request
  const length = Number(headers['content-length'] ?? 0)
  const drop = () => {
    request.resume()
    tooLarge()
  }
  if (length > MAX_BODY) return drop()
  if (length === 0 && headers['transfer-encoding'] === undefined) return EMPTY
  const pieces = []
  let size = 0
  try {
    for await (const piece of request.iterator({ destroyOnReturn: false })) {
      size += piece.length
      if (size > MAX_BODY) return drop()
      pieces.push(piece)
    }
  } catch {
    return undefined
  }
  return request.complete ? (pieces.length === 1 ? pieces[0] : Buffer.concat(pieces)) : undefined
}

// What a handler is told of its call.
function contextOf(call, spec) {
  const deadline = call.began + spec.timeoutMs
  return {
    requestId: call.id,
    functionName: spec.function.name,
    namespace: spec.function.namespace,
    revision: spec.revision,
    memoryLimitInMB: spec.memoryMiB,
    deadline,
    getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
    logger: log.logger,
  }
}

class Traffic {
  constructor(spec, user, calls) {
    Object.assign(this, { spec, user, calls })
    // An upload may take as long as a call: whoever forwards it counts its time.
    const limits = { keepAliveTimeout: KEEP_ALIVE_MS, maxHeaderSize: MAX_HEAD, requestTimeout: 0 }
    this.server = http.createServer({ ...limits, requireHostHeader: false })
    // A head is bounded by its bytes: of more headers than a number, Node passes over the last without a word.
    this.server.maxHeadersCount = 0
    this.server.on('request', (request, response) => void this.serve(request, response))
    this.server.on('clientError', refuse)
  }

  // Resolves when the port is open.
  listen(host, port) {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject)
      this.server.listen({ host, port, backlog: BACKLOG }, () => {
        this.server.off('error', reject)
        resolve()
      })
    })
  }

  // No new connections; those without a call are closed. Node takes an answer that is written for one that has left, and
  // would cut it off: so those are waited for first.
  stop() {
    const leaving = [...this.calls.open].find(({ response }) => response.writableEnded)
    if (leaving === undefined) {
      this.server.close()
      this.server.closeIdleConnections()
    } else {
      net.Server.prototype.close.call(this.server)
      leaving.response.once('close', () => this.stop())
    }
  }

  async serve(request, response) {
    if (!isRequest(request)) {
      response.writeHead(400, { 'content-type': 'application/json', 'dormouse-error': 'BadRequest', connection: 'close' })
      response.end(refusal('this is no HTTP/1.1 request'))
      return
    }
    const call = this.calls.begin(request, response)
    const tooLarge = () => answer.failed(this.calls, call, 'BodyTooLarge')
    const bytes = await collect(request, tooLarge)
    if (bytes === undefined) return
    let event
    try {
      event = eventOf(call, request, bytes, this.spec)
    } catch (error) {
      if (!(error instanceof BadEvent)) throw error
      log.current.run(call, () => log.failure('BadEvent', error))
      answer.failed(this.calls, call, 'BadEvent')
      return
    }
    await this.calls.run(call, () => this.answer(call, event, request.method === 'HEAD'))
  }

  async answer(call, event, isHead) {
    try {
      if (event.type === 'warm-up') {
        await this.user.warmUp?.(event, contextOf(call, this.spec))
        answer.whole(this.calls, call, answerOf(undefined))
        return
      }
      const made = answerOf(await this.user.handler(event, contextOf(call, this.spec)))
      if (isIterator(made.body)) await answer.stream(this.calls, call, made, isHead)
      else answer.whole(this.calls, call, made)
    } catch (error) {
      answer.fail(this.calls, call, error)
    }
  }
}

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/

// Node takes HTTP/0.9, some versions a space in a header's name, and a request without a Host or with two.
function isRequest({ httpVersion, rawHeaders }) {
  let hosts = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (!TOKEN.test(rawHeaders[i])) return false
    if (/^host$/i.test(rawHeaders[i])) hosts += 1
  }
  return httpVersion === '1.0' || (httpVersion === '1.1' && hosts === 1)
}

const refusal = (message) => `${JSON.stringify({ error: 'BadRequest', message })}\n`

// What was no request.
function refuse(error, socket) {
  if (!socket.writable) return
  const isLarge = error.code === 'HPE_HEADER_OVERFLOW'
  const body = refusal(isLarge ? 'the head is too large' : 'this is no HTTP/1.1 request')
  const status = isLarge ? '431 Request Header Fields Too Large' : '400 Bad Request'
  const head = `HTTP/1.1 ${status}\r\ncontent-type: application/json\r\ndormouse-error: BadRequest\r\nconnection: close\r\n`
  socket.end(`${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
}

module.exports = { Traffic }
