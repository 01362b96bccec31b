'use strict'
// What is to run: a load's body or, in the boot form, the environment, made into the same checked value:
// {function: {uid, namespace, name}, revision, handler, memoryMiB, timeoutMs, concurrency, initTimeoutMs}, and of a load
// {pod, env, files: [[path, Buffer]]}.

const { decoded } = require('./base64')

// Nobody waits longer for a start: the default of a Function's queue.maxWaitSeconds.
const INIT_TIMEOUT_MS = 30_000
const MAX_FILES = 1000
const MAX_FILE_BYTES = 256 * 1024
const MAX_PATH = 255
// A Kubernetes name or uid, or a revision of ours.
const MAX_NAME = 253

const RANGES = {
  memoryMiB: [1, 1 << 20],
  timeoutMs: [1, 3_600_000],
  concurrency: [1, 1000],
  initTimeoutMs: [1, 600_000],
}

// Why a load is none; `status` and `code` as the protocol has them.
class BadLoad extends Error {
  constructor(message, status = 400, code = 'BadLoad') {
    super(message)
    Object.assign(this, { status, code })
  }
}

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value)

function fields(value, where, needed, optional = []) {
  if (!isObject(value)) throw new BadLoad(`${where} must be an object`)
  for (const name of needed) if (!Object.hasOwn(value, name)) throw new BadLoad(`${where}: ${name} is missing`)
  for (const name of Object.keys(value)) {
    if (!needed.includes(name) && !optional.includes(name)) throw new BadLoad(`${where}: ${name} is not known`)
  }
}

// Text that can be written: JSON may hold half of a surrogate pair, which no file or variable can.
const isText = (value) => typeof value === 'string' && Buffer.from(value).toString() === value

function name(value, where) {
  if (isText(value) && value.length > 0 && value.length <= MAX_NAME) return value
  throw new BadLoad(`${where} must be text of 1 to ${MAX_NAME} characters`)
}

function number(value, where) {
  const [least, most] = RANGES[where]
  if (Number.isInteger(value) && value >= least && value <= most) return value
  throw new BadLoad(`${where} must be a whole number from ${least} to ${most}`)
}

function path(value) {
  const steps = value.split('/')
  const isBad = steps.some((step) => step === '' || step === '.' || step === '..') || value.includes('\0')
  if (isBad || !isText(value) || Buffer.byteLength(value) > MAX_PATH) {
    const shown = JSON.stringify(value.slice(0, MAX_PATH))
    throw new BadLoad(`files: ${shown} must be a relative path of at most ${MAX_PATH} bytes of UTF-8, without empty names, . or ..`)
  }
  return value
}

function content(value, of) {
  const bytes = decoded(value)
  if (bytes !== undefined) return bytes
  throw new BadLoad(`files: the content of ${JSON.stringify(of)} must be base64`)
}

function files(value) {
  if (!isObject(value)) throw new BadLoad('files must be an object')
  const list = Object.entries(value).map(([of, text]) => [path(of), content(text, of)])
  const bytes = list.reduce((sum, [, data]) => sum + data.length, 0)
  if (list.length > MAX_FILES || bytes > MAX_FILE_BYTES) {
    const limit = `${MAX_FILES} files of ${MAX_FILE_BYTES} bytes in all`
    throw new BadLoad(`files: ${list.length} files of ${bytes} bytes; the limit is ${limit}`, 413, 'TooLarge')
  }
  return list
}

function env(value) {
  if (!isObject(value)) throw new BadLoad('env must be an object')
  for (const [key, text] of Object.entries(value)) {
    const isGood = /^[A-Za-z_][A-Za-z0-9_.-]*$/.test(key) && isText(text) && !text.includes('\0')
    if (!isGood) throw new BadLoad(`env: ${JSON.stringify(key)} must be a variable's name, and its value text without NUL`)
  }
  return value
}

function handler(value) {
  if (typeof value === 'string' && value.length <= MAX_PATH && /^[^.\0/][^\0]*\.[A-Za-z_$][\w$]*$/.test(value)) {
    path(value)
    return value
  }
  throw new BadLoad('handler must be MODULE.EXPORT, for example index.handler')
}

// A load's body, whose signature was checked.
function fromLoad(body) {
  let load
  try {
    load = JSON.parse(body.toString('utf8'))
  } catch (error) {
    throw new BadLoad(`the body is not JSON: ${error.message}`)
  }
  const needed = ['pod', 'function', 'revision', 'handler', 'files', 'memoryMiB', 'timeoutMs', 'concurrency']
  fields(load, 'the load', needed, ['env', 'initTimeoutMs'])
  fields(load.function, 'function', ['uid', 'namespace', 'name'])
  return {
    pod: name(load.pod, 'pod'),
    function: {
      uid: name(load.function.uid, 'function.uid'),
      namespace: name(load.function.namespace, 'function.namespace'),
      name: name(load.function.name, 'function.name'),
    },
    revision: name(load.revision, 'revision'),
    handler: handler(load.handler),
    files: files(load.files),
    env: env(load.env ?? {}),
    memoryMiB: number(load.memoryMiB, 'memoryMiB'),
    timeoutMs: number(load.timeoutMs, 'timeoutMs'),
    concurrency: number(load.concurrency, 'concurrency'),
    initTimeoutMs: number(load.initTimeoutMs ?? INIT_TIMEOUT_MS, 'initTimeoutMs'),
  }
}

function setting(from, variable, field, fallback) {
  if (!from[variable]) return fallback
  try {
    return number(Number(from[variable]), field)
  } catch (error) {
    throw new BadLoad(`${variable}: ${error.message}`)
  }
}

// The boot form's environment.
function fromEnv(from) {
  return {
    function: { uid: '', namespace: from.DORMOUSE_NAMESPACE || 'default', name: from.K_SERVICE || 'function' },
    revision: from.K_REVISION || '',
    handler: handler(from.DORMOUSE_HANDLER),
    memoryMiB: setting(from, 'DORMOUSE_MEMORY_MIB', 'memoryMiB', 256),
    timeoutMs: setting(from, 'DORMOUSE_TIMEOUT_MS', 'timeoutMs', 30_000),
    concurrency: setting(from, 'DORMOUSE_CONCURRENCY', 'concurrency', 1),
    initTimeoutMs: setting(from, 'DORMOUSE_INIT_TIMEOUT_MS', 'initTimeoutMs', INIT_TIMEOUT_MS),
  }
}

module.exports = { BadLoad, fromEnv, fromLoad }
