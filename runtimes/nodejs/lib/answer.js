'use strict'
// Writes answers: of results, of streams, of failures.
const log = require('./log')
const { BODILESS, EMPTY, InvalidResult, LENGTHLESS, bytesOf, hasType, typeOf } = require('./result')

// What callers are told. The trace is in the log, the owner's words are in the log: a caller may be anybody.
const WORDS = {
  HandlerError: [500, 'the function failed; its log says more'],
  InvalidResult: [500, 'the function gave no valid result; its log says more'],
  Exited: [500, 'the function ended its process during the call'],
  UncaughtException: [500, 'the function failed outside of a call while this one ran; its log says more'],
  BadEvent: [400, 'the event is not valid'],
  BadRequest: [400, 'the request is not valid'],
  BodyTooLarge: [413, 'the body is larger than 32 MiB'],
}

function head(calls, response, status, pairs) {
  if (calls.isDraining) pairs.push(['connection', 'close'])
  response.writeHead(status, pairs.flat())
}

// Answers with a whole body. A response that is over (its caller left) takes nothing.
function whole(calls, call, { status, pairs, body }) {
  const { response } = call
  if (response.destroyed) return
  const bytes = BODILESS.has(status) ? EMPTY : body
  if (!LENGTHLESS.has(status)) pairs.push(['content-length', String(bytes.length)])
  head(calls, response, status, pairs)
  response.end(bytes)
}

function failed(calls, call, code, words = WORDS[code][1]) {
  const body = Buffer.from(`${JSON.stringify({ error: code, message: words, request_id: call.id })}\n`)
  const pairs = [['content-type', 'application/json'], ['dormouse-error', code]]
  whole(calls, call, { status: WORDS[code][0], pairs, body })
}

// What a handler's error is called.
const codeOf = (error) => (error instanceof InvalidResult ? 'InvalidResult' : 'HandlerError')

// Says in the log what failed, and tells the caller as much as can still be told.
function fail(calls, call, error) {
  log.failure(codeOf(error), error)
  // Not before what was written has left.
  if (call.response.headersSent) setImmediate(() => call.response.destroy())
  else failed(calls, call, codeOf(error))
}

// Resolves when a response takes more, or when its caller has left.
function drained(response) {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done)
      resolve()
    }
    response.on('drain', done).on('close', done)
  })
}

// Answers with what an async iterator gives. Before its first piece everything can still go wrong in order.
async function stream(calls, call, { status, pairs, body }, isHead) {
  const { response } = call
  const iterator = body[Symbol.asyncIterator]()
  if (isHead || BODILESS.has(status)) {
    await iterator.return?.()
    if (BODILESS.has(status)) return whole(calls, call, { status, pairs, body: EMPTY })
    head(calls, response, status, pairs)
    response.end()
    return
  }
  let isOver = false
  try {
    for (let piece = await iterator.next(); ; piece = await iterator.next()) {
      isOver = piece.done
      if (response.destroyed || isOver) break
      const bytes = bytesOf(piece.value, 'a piece of a stream')
      if (!response.headersSent) {
        if (!hasType(pairs)) pairs.push(['content-type', typeOf(piece.value)])
        head(calls, response, status, pairs)
      }
      if (!response.write(bytes)) await drained(response)
    }
    if (!isOver) return
    if (!response.headersSent) whole(calls, call, { status, pairs, body: EMPTY })
    else response.end()
  } finally {
    if (!isOver) await iterator.return?.()
  }
}

module.exports = { fail, failed, stream, whole }
