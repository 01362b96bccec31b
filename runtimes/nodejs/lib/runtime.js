'use strict'
// A runtime's life (../../README.md): parked until a load comes, or, with DORMOUSE_HANDLER, booted with its code.
// Before all else, which takes a while: nothing of the user's has begun.
process.on('SIGTERM', () => stop())
process.on('SIGINT', () => stop())

const { realpathSync, rmSync } = require('node:fs')
const path = require('node:path')
const { Worker } = require('node:worker_threads')
const answer = require('./answer')
const { CELLS, Calls, WATCHED } = require('./calls')
const { InitFailure, importHandler, strayed } = require('./handler')
const log = require('./log')
const { Traffic } = require('./server')
const rehearse = require('./rehearse')
const { publicKey } = require('./signature')
const { fromEnv } = require('./spec')

// The longest that an exiting process waits until the load's caller was told.
const TOLD_MS = 1000
const SETTINGS = ['DORMOUSE_LOAD_PORT', 'DORMOUSE_LOAD_KEY', 'DORMOUSE_POD_UID', 'DORMOUSE_HANDLER', 'DORMOUSE_CODE_DIR',
  'DORMOUSE_NAMESPACE', 'DORMOUSE_MEMORY_MIB', 'DORMOUSE_TIMEOUT_MS', 'DORMOUSE_CONCURRENCY', 'DORMOUSE_INIT_TIMEOUT_MS']

const shared = new Int32Array(new SharedArrayBuffer(4 * CELLS))
// parked -> initialising -> serving or spent -> leaving
let state = 'parked'
let guard
let calls
let traffic
// The folder of a load: removed at the end.
let folder

function port(variable, fallback) {
  const value = Number(process.env[variable] || fallback)
  if (Number.isInteger(value) && value > 0 && value < 65536) return value
  throw new Error(`${variable} must be a port, not ${process.env[variable]}`)
}

// Starts the second thread, with a load port when there are settings for one.
function startGuard(door, address) {
  const limits = { maxOldGenerationSizeMb: 32 }
  guard = new Worker(path.join(__dirname, 'guard.js'), { workerData: { shared, door }, resourceLimits: limits })
  guard.on('error', (error) => leave(1, 'GuardFailed', error))
  guard.on('message', (message) => {
    if (message.name === 'rehearse') void rehearse.calls(message.folder).then(() => guard.postMessage({ name: 'rehearsed' }))
    if (message.name === 'load') void load(message.spec, message.folder, address)
    if (message.name === 'told') leave(1)
  })
  calls = new Calls(shared, () => guard.postMessage({ name: 'calling' }))
}

// Ends the process. Calls in flight get `code` by the exit hook below.
function leave(status, code, error) {
  if (error !== undefined) log.failure(code, error)
  state = 'leaving'
  end(code)
  process.exit(status)
}

// Answers every call that nobody will answer any more. What is written here leaves at once: sockets try before they queue.
function end(code) {
  for (const call of calls?.open ?? []) {
    if (call.response.headersSent) call.response.destroy()
    else if (code !== undefined) answer.failed(calls, call, code)
  }
}

// Imports the handler and opens the traffic port. Gives the milliseconds of the import.
async function initialise(spec, where, address) {
  state = 'initialising'
  process.chdir(where)
  const began = performance.now()
  const user = await importHandler(where, spec.handler)
  const initMs = Math.round((performance.now() - began) * 1000) / 1000
  traffic = new Traffic(spec, user, calls)
  await traffic.listen(address.host, address.port).catch((error) => {
    throw new InitFailure('InitError', `the traffic port cannot be opened: ${error.message}`, error)
  })
  state = 'serving'
  guard.postMessage({ name: 'initialised', initMs })
}

async function load(spec, where, address) {
  folder = where
  Object.assign(process.env, spec.env, { K_SERVICE: spec.function.name, K_CONFIGURATION: spec.function.name, K_REVISION: spec.revision })
  try {
    await initialise(spec, where, address)
  } catch (error) {
    initFailed(error)
  }
}

// Says why there is no handler; the guard tells the load's caller, and then this process leaves.
function initFailed(error) {
  if (state !== 'initialising') return
  state = 'spent'
  const { code, message, cause = error } = error instanceof InitFailure ? error : strayed(error, process.cwd())
  log.emit('error', message, { error: code, stack: String(cause?.stack ?? cause) })
  guard.postMessage({ name: 'failed', code, message })
}

function park(address) {
  const { DORMOUSE_LOAD_KEY: key, DORMOUSE_POD_UID: pod } = process.env
  const door = { host: address.host, port: port('DORMOUSE_LOAD_PORT', 8081), key: key && keyOf(key), pod }
  startGuard(door, address)
}

// The key as it was given, if it is one.
function keyOf(key) {
  try {
    publicKey(key)
    return key
  } catch (error) {
    throw new Error(`DORMOUSE_LOAD_KEY: ${error.message}`)
  }
}

function boot(address) {
  const spec = fromEnv(process.env)
  const where = codeFolder(process.env.DORMOUSE_CODE_DIR || '/app')
  startGuard()
  guard.postMessage({ name: 'initialising', spec })
  initialise(spec, where, address).catch(initFailed)
}

function codeFolder(of) {
  try {
    return realpathSync(of)
  } catch (error) {
    throw new Error(`DORMOUSE_CODE_DIR: ${error.message}`)
  }
}

// A setting that is wrong is said in the last line.
function start() {
  try {
    const address = { host: process.env.HOST || undefined, port: port('PORT', 8080) }
    if (process.env.DORMOUSE_HANDLER) boot(address)
    else park(address)
    for (const name of SETTINGS) delete process.env[name]
  } catch (error) {
    log.emit('error', error.message, { error: 'BadSetting' })
    leave(1)
  }
}

function stop() {
  if (state !== 'serving') leave(0)
  traffic.stop()
  calls.drain(() => leave(0))
}

function uncaught(error) {
  if (state === 'initialising') initFailed(error)
  // The load's caller is being told of the first one.
  else if (state === 'spent') log.failure('InitError', error)
  else leave(1, 'UncaughtException', error)
}

function exiting(status) {
  if (state === 'initialising') {
    initFailed(new InitFailure('Exited', `the module ended the process with code ${status} while it was imported`))
  }
  if (state === 'spent') {
    // Nobody but the guard can tell the load's caller, and it ends with this thread.
    Atomics.wait(shared, WATCHED, 1, TOLD_MS)
  } else if (state === 'serving') {
    log.emit('error', `the function ended the process with code ${status}`, { error: 'Exited' })
    end('Exited')
  }
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
}

log.takeOver()
process.on('uncaughtException', uncaught)
process.on('exit', exiting)
start()
