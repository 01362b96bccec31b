'use strict'
// The load port: takes one load, and says to all others who holds this instance.
const http = require('node:http')
const { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } = require('node:fs')
const { tmpdir } = require('node:os')
const path = require('node:path')
const log = require('./log')
const { isSigned, publicKey } = require('./signature')
const { BadLoad, fromLoad } = require('./spec')

// 256 KiB of files are 350 KiB of base64, and environment variables may be as long again.
const MAX_BODY = 1 << 20
// One caller loads, and few ask whether they may.
const MAX_CONNECTIONS = 64
// A load comes from the same cluster: 1 MiB in 5 s is what the slowest link would do.
const BODY_MS = 5000

// Writes the code into a new folder that nobody else can read.
function write(files) {
  const folder = newFolder()
  const made = new Set([folder])
  try {
    for (const [name, content] of files) {
      const file = path.join(folder, name)
      const parent = path.dirname(file)
      if (!made.has(parent)) mkdirSync(parent, { recursive: true, mode: 0o700 })
      made.add(parent)
      writeFileSync(file, content, { mode: 0o600, flag: 'wx' })
    }
  } catch (error) {
    rmSync(folder, { recursive: true, force: true })
    const clash = ['EEXIST', 'ENOTDIR', 'EISDIR'].includes(error.code)
    if (clash) throw new BadLoad(`files: two of them want the same path (${error.code})`)
    throw cannotWrite(error)
  }
  return folder
}

function newFolder() {
  try {
    return mkdtempSync(path.join(realpathSync(tmpdir()), 'dormouse-'))
  } catch (error) {
    throw cannotWrite(error)
  }
}

const cannotWrite = (error) => new BadLoad(`the code cannot be written: ${error.message}`, 500, 'CannotWrite')

function collect(request) {
  return new Promise((resolve, reject) => {
    const pieces = []
    let size = 0
    const slow = setTimeout(() => reject(new BadLoad('the body did not come within 5 s', 408, 'RequestTimeout')), BODY_MS)
    request.on('data', (piece) => {
      size += piece.length
      if (size <= MAX_BODY) pieces.push(piece)
    })
    request.on('end', () => {
      // Not before: whoever writes more than is read may lose the answer.
      if (size > MAX_BODY) reject(new BadLoad(`the body is larger than ${MAX_BODY} bytes`, 413, 'TooLarge'))
      else resolve(Buffer.concat(pieces))
    })
    request.on('close', () => {
      clearTimeout(slow)
      // After the body's end this says nothing any more.
      reject(new BadLoad('the body broke off'))
    })
    // What is to be known of it is known by the close that follows.
    request.on('error', () => {})
  })
}

class Door {
  // `key` and `pod` are texts or undefined; `loaded(spec, folder)` is called at most once. Throws when the key is none.
  constructor({ key, pod }, loaded) {
    Object.assign(this, { pod, loaded })
    this.key = key ? publicKey(key) : undefined
    this.holder = undefined
    // The response that the accepted load waits for.
    this.waiting = undefined
    this.server = http.createServer((request, response) => void this.serve(request, response))
    this.server.maxConnections = MAX_CONNECTIONS
    // A head is bounded by its bytes: of more headers than a number, Node passes over the last without a word.
    this.server.maxHeadersCount = 0
  }

  async serve(request, response) {
    try {
      if (request.url !== '/load') throw new BadLoad('the load port knows POST /load', 404, 'NotFound')
      if (request.method !== 'POST') throw new BadLoad(`POST /load, not ${request.method}`, 405, 'BadMethod')
      this.take(await collect(request), request.headers['dormouse-signature'], response)
    } catch (error) {
      if (!(error instanceof BadLoad)) {
        log.failure('LoadFailed', error)
        say(response, 500, { error: 'LoadFailed', message: `the load failed: ${error.message}` })
        return
      }
      const holder = error.code === 'AlreadyLoaded' ? this.holder : undefined
      // What else comes of this body is no request.
      const headers = [408, 413].includes(error.status) ? { connection: 'close' } : {}
      say(response, error.status, { error: error.code, message: error.message, holder }, headers)
    }
  }

  take(body, signature, response) {
    if (this.holder !== undefined) {
      const { namespace, name } = this.holder.function
      throw new BadLoad(`this instance runs ${namespace}/${name} ${this.holder.revision}`, 409, 'AlreadyLoaded')
    }
    if (this.key === undefined || !this.pod) {
      throw new BadLoad('DORMOUSE_LOAD_KEY or DORMOUSE_POD_UID is not set: nothing is loaded unsigned', 401, 'NoKey')
    }
    if (!isSigned(this.key, body, signature)) {
      throw new BadLoad('dormouse-signature is not the signature of this body by the key of this instance', 401, 'BadSignature')
    }
    const spec = fromLoad(body)
    if (spec.pod !== this.pod) throw new BadLoad(`this is pod ${this.pod}, not ${spec.pod}`, 401, 'WrongPod')
    const folder = write(spec.files)
    this.holder = { function: spec.function, revision: spec.revision }
    this.waiting = response
    delete spec.files
    this.loaded(spec, folder)
  }

  // Answers the load; `then` is called when the answer has left or nobody waits for it.
  answer(status, body, then = () => {}) {
    const response = this.waiting
    this.waiting = undefined
    if (response === undefined || response.destroyed) return then()
    response.once('close', then)
    say(response, status, body, status === 200 ? {} : { connection: 'close' })
  }
}

function say(response, status, body, headers = {}) {
  const text = `${JSON.stringify(body)}\n`
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text), ...headers })
  response.end(text)
}

module.exports = { Door }
