'use strict'
// A handler's result made into an answer: {status, headers: [name, value, ...], body}, where body is a Buffer or an
// async iterator. `Content-Length` and `Content-Type` of a stream are not in it yet.

const { decoded } = require('./base64')

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/
// Headers of the connection, which is not the function's, and the length, which is counted.
const NOT_SETTABLE = new Set(['connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate', 'proxy-authorization',
  'te', 'trailer', 'transfer-encoding', 'upgrade', 'http2-settings', 'content-length'])
const BODILESS = new Set([204, 205, 304])
// Of those, which a caller knows to have no body (RFC 9112 6.3); a 205 has to say so.
const LENGTHLESS = new Set([204, 304])
const EMPTY = Buffer.alloc(0)
const OCTETS = 'application/octet-stream'
const TEXT = 'text/plain; charset=utf-8'

// A result that is none.
class InvalidResult extends Error {
  get name() { return 'InvalidResult' }
}

const isIterator = (value) => typeof value?.[Symbol.asyncIterator] === 'function'
const isScalar = (value) => ['string', 'number', 'boolean'].includes(typeof value)

function kind(value) {
  if (value === null) return 'null'
  return Array.isArray(value) ? 'a list' : typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

// Bytes of a body or of one piece of a stream.
function bytesOf(value, what) {
  if (typeof value === 'string') return Buffer.from(value, 'utf8')
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  throw new InvalidResult(`${what} must be text or bytes, not ${kind(value)}`)
}

function addHeaders(pairs, headers, field, isMany) {
  if (headers === undefined || headers === null) return
  if (typeof headers !== 'object' || Array.isArray(headers)) {
    throw new InvalidResult(`${field} must be an object, not ${kind(headers)}`)
  }
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || value === null) continue
    if (!TOKEN.test(name)) throw new InvalidResult(`${field}: ${JSON.stringify(name)} is no name of a header`)
    if (isMany && !Array.isArray(value)) throw new InvalidResult(`${field}: ${name} must be a list`)
    for (const one of Array.isArray(value) ? value : [value]) addHeader(pairs, name, one, field)
  }
}

function addHeader(pairs, name, value, field) {
  if (!isScalar(value)) throw new InvalidResult(`${field}: ${name} must be text, a number or a boolean, not ${kind(value)}`)
  const text = String(value)
  if (!VALUE.test(text)) throw new InvalidResult(`${field}: ${name} has a character that no header may have`)
  const lower = name.toLowerCase()
  if (NOT_SETTABLE.has(lower) || lower.startsWith('dormouse-')) return
  // What stands in both lists of headers is said once.
  if (!pairs.some(([n, v]) => n.toLowerCase() === lower && v === text)) pairs.push([name, text])
}

const hasType = (pairs) => pairs.some(([name]) => name.toLowerCase() === 'content-type')

function bodyOf(result) {
  const { body, isBase64Encoded = false } = result
  if (typeof isBase64Encoded !== 'boolean') throw new InvalidResult('isBase64Encoded must be true or false')
  if (body === undefined || body === null) return [EMPTY, undefined]
  if (isBase64Encoded) {
    const bytes = decoded(body)
    if (bytes !== undefined) return [bytes, OCTETS]
    const not = typeof body === 'string' ? 'text that is none' : kind(body)
    throw new InvalidResult(`body must be base64 text, as isBase64Encoded says, not ${not}`)
  }
  if (isIterator(body)) return [body, undefined]
  if (typeof body === 'string') return [Buffer.from(body, 'utf8'), TEXT]
  if (body instanceof Uint8Array) return [bytesOf(body), OCTETS]
  throw new InvalidResult(`body must be text, bytes or an async iterator, not ${kind(body)}: use JSON.stringify`)
}

function http(result) {
  const status = result.statusCode
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new InvalidResult(`statusCode must be a whole number from 200 to 599, not ${JSON.stringify(status) ?? kind(status)}`)
  }
  const pairs = []
  addHeaders(pairs, result.headers, 'headers', false)
  addHeaders(pairs, result.multiValueHeaders, 'multiValueHeaders', true)
  const [body, type] = bodyOf(result)
  if (type !== undefined && !hasType(pairs)) pairs.push(['content-type', type])
  return { status, pairs, body: BODILESS.has(status) && !isIterator(body) ? EMPTY : body }
}

function json(value) {
  let text
  try {
    text = JSON.stringify(value)
  } catch (error) {
    throw new InvalidResult(`the result cannot be written as JSON: ${error.message}`)
  }
  if (text === undefined) throw new InvalidResult(`the result cannot be written as JSON: it is ${kind(value)}`)
  return { status: 200, pairs: [['content-type', 'application/json']], body: Buffer.from(text, 'utf8') }
}

// The answer that a result stands for: {status, pairs, body}.
function answerOf(result) {
  if (result === undefined) return { status: 204, pairs: [], body: EMPTY }
  if (isIterator(result)) return { status: 200, pairs: [], body: result }
  if (result instanceof Uint8Array) return { status: 200, pairs: [['content-type', OCTETS]], body: bytesOf(result) }
  const isHttp = typeof result === 'object' && result !== null && Object.hasOwn(result, 'statusCode')
  return isHttp ? http(result) : json(result)
}

// The type of a stream without one, by its first piece.
const typeOf = (piece) => (typeof piece === 'string' ? TEXT : OCTETS)

module.exports = { BODILESS, EMPTY, InvalidResult, LENGTHLESS, answerOf, bytesOf, hasType, isIterator, typeOf }
