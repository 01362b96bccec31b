// A client of Redis' protocol (RESP2): one connection, commands in a line behind each other, dialled again after it broke.
const net = require('node:net')

const LONGEST_MS = 5_000 // without an answer the connection counts as broken
const MOST_BYTES = 16 * 1024 * 1024 // of answers that are not read to their end

class Redis {
  #url
  #socket = null
  #waiting = []
  #unread = Buffer.alloc(0)

  constructor (url) {
    this.#url = new URL(url)
  }

  // One command; its answer is a string, a number, null or a list of these.
  async call (...words) {
    if (this.#socket === null) this.#dial()
    return this.#send(words)
  }

  #dial () {
    const { hostname, port, username, password, pathname } = this.#url
    const socket = net.connect(Number(port || 6379), hostname)
    socket.setNoDelay(true)
    socket.setTimeout(LONGEST_MS, () => {
      if (this.#waiting.length > 0) socket.destroy(new Error(`Redis did not answer within ${LONGEST_MS} ms`))
    })
    socket.on('data', (bytes) => this.#read(bytes))
    socket.on('error', () => {}) // told by what follows it
    socket.on('close', () => this.#broke(socket))
    // An idle connection keeps no instance from ending.
    socket.unref()
    this.#socket = socket
    const quietly = (words) => this.#send(words).catch((error) => socket.destroy(error))
    if (password) quietly(['AUTH', ...[username, password].filter(Boolean).map(decodeURIComponent)])
    if (pathname.length > 1) quietly(['SELECT', pathname.slice(1)])
  }

  #send (words) {
    const parts = words.map((word) => Buffer.from(String(word)))
    const packed = parts.flatMap((part) => [Buffer.from(`$${part.length}\r\n`), part, Buffer.from('\r\n')])
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.#socket.write(Buffer.concat([Buffer.from(`*${parts.length}\r\n`), ...packed]))
    })
  }

  #broke (socket) {
    if (this.#socket !== socket) return
    this.#socket = null
    this.#unread = Buffer.alloc(0)
    const error = socket.errored ?? new Error('Redis closed the connection')
    for (const { reject } of this.#waiting.splice(0)) reject(error)
  }

  #read (bytes) {
    this.#unread = Buffer.concat([this.#unread, bytes])
    for (let at = parse(this.#unread, 0); at !== null; at = parse(this.#unread, 0)) {
      this.#unread = this.#unread.subarray(at.end)
      const { resolve, reject } = this.#waiting.shift()
      if (at.value instanceof Error) reject(at.value)
      else resolve(at.value)
    }
    if (this.#unread.length > MOST_BYTES) this.#socket.destroy(new Error('an answer of Redis is too long'))
  }
}

// The answer that begins at a place, and where it ends; null until all of it is there.
function parse (bytes, start) {
  const line = bytes.indexOf('\r\n', start)
  if (line === -1) return null
  const [kind, text, next] = [String.fromCharCode(bytes[start]), bytes.toString('utf8', start + 1, line), line + 2]
  if (kind === '+') return { value: text, end: next }
  if (kind === '-') return { value: new Error(`Redis: ${text}`), end: next }
  if (kind === ':') return { value: Number(text), end: next }
  const count = Number(text)
  if (count < 0) return { value: null, end: next }
  if (kind === '$') {
    const end = next + count + 2
    return bytes.length < end ? null : { value: bytes.toString('utf8', next, end - 2), end }
  }
  const list = []
  let end = next
  while (list.length < count) {
    const item = parse(bytes, end)
    if (item === null) return null
    list.push(item.value)
    end = item.end
  }
  return { value: list, end }
}

exports.Redis = Redis
