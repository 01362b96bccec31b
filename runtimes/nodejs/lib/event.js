'use strict'
// A request made into the event that a handler gets.

// Types whose bodies are text.
const TEXT = /^(text\/.*|application\/(json|xml|x-www-form-urlencoded|(x-)?javascript|ecmascript|graphql|(x-)?yaml|x-ndjson|.*\+(json|xml|yaml)))$/
const TYPE = /^[a-zA-Z0-9-]{1,63}$/
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

// An event that the platform sent wrongly.
class BadEvent extends Error {}

// Headers with lower-case names; repeated ones in one text.
function headersOf(raw) {
  const headers = new Map()
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i].toLowerCase()
    const before = headers.get(name)
    headers.set(name, before === undefined ? raw[i + 1] : before + (name === 'cookie' ? '; ' : ', ') + raw[i + 1])
  }
  return Object.fromEntries(headers)
}

// The path as it was sent, and the query. A proxy's form `http://host/path` has the same parts behind its host.
function targetOf(url) {
  const target = /^[a-z][a-z0-9+.-]*:\/\/[^/?]*/i.test(url) ? url.replace(/^[^:]+:\/\/[^/?]*/, '') || '/' : url
  const at = target.indexOf('?')
  return at < 0 ? [target, ''] : [target.slice(0, at), target.slice(at + 1)]
}

function queriesOf(query) {
  const all = new Map()
  for (const [name, value] of new URLSearchParams(query)) {
    const values = all.get(name)
    if (values === undefined) all.set(name, [value])
    else values.push(value)
  }
  return [Object.fromEntries([...all].map(([name, values]) => [name, values.at(-1)])), Object.fromEntries(all)]
}

// Text of a body if its type is and its bytes are.
function textOf(bytes, headers) {
  const [type, ...parameters] = (headers['content-type'] ?? '').toLowerCase().split(';').map((part) => part.trim())
  const charset = parameters.find((part) => part.startsWith('charset='))?.slice('charset='.length).replaceAll('"', '')
  const isText = type === '' || TEXT.test(type)
  const isPlain = ['', 'identity'].includes(headers['content-encoding'] ?? '')
  if (!isText || !isPlain || !['utf-8', 'utf8', 'us-ascii', undefined].includes(charset)) return undefined
  try {
    return utf8.decode(bytes)
  } catch {
    return undefined
  }
}

function requestContext(call, headers, spec, peer) {
  const { namespace, name } = spec.function
  const context = {
    requestId: call.id,
    // A socket for both families writes IPv4 so.
    sourceIp: headers['x-forwarded-for']?.split(',', 1)[0].trim() || peer.replace(/^::ffff:/, ''),
    time: new Date(call.began).toISOString(),
    function: { namespace, name, revision: spec.revision },
  }
  if (headers['x-forwarded-prefix'] !== undefined) context.prefix = headers['x-forwarded-prefix']
  if (headers.traceparent !== undefined) context.traceparent = headers.traceparent
  return context
}

function payloadOf(bytes, headers) {
  if (bytes.length === 0) return null
  const type = (headers['content-type'] ?? '').toLowerCase().split(';', 1)[0].trim()
  const isJson = type === 'application/json' || type.endsWith('+json')
  try {
    const text = utf8.decode(bytes)
    return isJson ? JSON.parse(text) : text
  } catch (error) {
    throw new BadEvent(`the payload is not ${isJson ? 'JSON' : 'UTF-8 text'}: ${error.message}`)
  }
}

// An event that the platform made.
function fromPlatform(request, bytes, headers, context) {
  const type = headers['dormouse-event']
  if (!TYPE.test(type)) throw new BadEvent('dormouse-event must be 1 to 63 letters, digits and -')
  if (request.method !== 'POST') throw new BadEvent(`an event comes by POST, not by ${request.method}`)
  const event = { type, time: headers['dormouse-event-time'] ?? context.time }
  if (headers['dormouse-event-name'] !== undefined) event.name = headers['dormouse-event-name']
  return { ...event, payload: payloadOf(bytes, headers), requestContext: context }
}

// The event of a request whose body is there.
function eventOf(call, request, bytes, spec) {
  const headers = headersOf(request.rawHeaders)
  const context = requestContext(call, headers, spec, request.socket.remoteAddress ?? '')
  if (headers['dormouse-event'] !== undefined) return fromPlatform(request, bytes, headers, context)
  const [path, query] = targetOf(request.url)
  const [queryStringParameters, multiValueQueryStringParameters] = queriesOf(query)
  const text = textOf(bytes, headers)
  return {
    type: 'http',
    httpMethod: request.method,
    path,
    headers,
    queryStringParameters,
    multiValueQueryStringParameters,
    queries: JSON.stringify(queryStringParameters),
    body: text ?? bytes.toString('base64'),
    isBase64Encoded: text === undefined,
    requestContext: context,
  }
}

module.exports = { BadEvent, eventOf }
