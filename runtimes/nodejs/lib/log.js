'use strict'
// The log: one JSON object a line on stdout, in the order in which it was said. What user code writes by console or to
// stdout and stderr becomes such lines.
const { writeSync } = require('node:fs')
const { formatWithOptions } = require('node:util')
const { AsyncLocalStorage } = require('node:async_hooks')

const STDOUT = 1
// Characters of one message: a line stays far below what log collectors take, whatever an object prints as.
const MAX_MESSAGE = 64 * 1024
// What is kept of a text without its line's end: then it is a line.
const MAX_PARTIAL = MAX_MESSAGE

// The call that is running, whatever it awaits.
const current = new AsyncLocalStorage()

const cut = (text) =>
  text.length <= MAX_MESSAGE ? text : `${text.slice(0, MAX_MESSAGE)}… (${text.length - MAX_MESSAGE} more characters)`

function put(line) {
  let bytes = Buffer.from(line)
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(writeSync(STDOUT, bytes))
    } catch (error) {
      // A pipe whose reader is slow: the line is not lost, and nothing overtakes it.
      if (error.code !== 'EAGAIN') return
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
    }
  }
}

// Writes a line. `fields` come after the four that every line has, and replace none of them.
function emit(level, message, fields) {
  const call = current.getStore()
  const line = { time: new Date().toISOString(), level, message: cut(String(message)) }
  if (call !== undefined) line.requestId = call.id
  put(`${written(line, fields)}\n`)
}

function written(line, fields) {
  if (fields === undefined || fields === null) return JSON.stringify(line)
  try {
    return JSON.stringify({ ...line, ...fields, ...line })
  } catch (error) {
    return JSON.stringify({ ...line, fields: `not JSON: ${error.message}` })
  }
}

// Writes an error with its code and whole trace.
function failure(code, error, more) {
  const isError = error instanceof Error
  const stack = isError ? cut(String(error.stack)) : undefined
  emit('error', isError ? `${error.name}: ${error.message}` : formatted([error]), { error: code, stack, ...more })
}

const formatted = (args) => formatWithOptions({ colors: false }, ...args)

// For user code: a message and fields.
const said = (level) => (message, fields) => emit(level, formatted([message]), fields)
const logger = Object.freeze({ debug: said('debug'), info: said('info'), warn: said('warn'), error: said('error') })

// Texts without their line's end yet, of each call or of nobody.
const partials = new WeakMap()
const nobody = {}

function write(level) {
  return (chunk, encoding, done) => {
    const owner = current.getStore() ?? nobody
    const kept = partials.get(owner) ?? {}
    const text = typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8')
    const lines = ((kept[level] ?? '') + text).split('\n')
    kept[level] = lines.pop()
    if (kept[level].length > MAX_PARTIAL) lines.push(...flushed(kept, level))
    partials.set(owner, kept)
    for (const line of lines) emit(level, line)
    const callback = typeof encoding === 'function' ? encoding : done
    if (callback) process.nextTick(callback)
    return true
  }
}

function flushed(kept, level) {
  const text = kept[level]
  kept[level] = ''
  return text ? [text] : []
}

// Writes what a call has begun to say.
function flush(call) {
  const kept = partials.get(call)
  if (kept === undefined) return
  partials.delete(call)
  current.run(call, () => {
    for (const level of Object.keys(kept)) for (const text of flushed(kept, level)) emit(level, text)
  })
}

// From here on everything that JavaScript code writes is a line of the log.
function takeOver() {
  const levels = { log: 'info', info: 'info', debug: 'debug', warn: 'warn', error: 'error' }
  for (const [name, level] of Object.entries(levels)) console[name] = (...args) => emit(level, formatted(args))
  console.trace = (...args) => emit('debug', new Error(formatted(args)).stack.replace(/^Error/, 'Trace'))
  process.stdout.write = write('info')
  process.stderr.write = write('error')
  process.removeAllListeners('warning')
  process.on('warning', (warning) => {
    // How a module is loaded is our choice, so what Node thinks of that choice is nothing for its owner.
    const ours = warning.code === 'MODULE_TYPELESS_PACKAGE_JSON' || warning.message.includes('Module using require()')
    if (!ours) emit('warn', `${warning.name}: ${warning.message}`)
  })
}

module.exports = { current, emit, failure, flush, logger, takeOver }
