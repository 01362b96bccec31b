'use strict'
// The second thread: it takes the load, and it sees to it that nothing runs for ever or takes all memory. It can do so
// while user code keeps the first thread busy.
const { readFileSync, rmSync } = require('node:fs')
const { parentPort, workerData } = require('node:worker_threads')
const { OLDEST, WATCHED, second } = require('./calls')
const { Door } = require('./door')
const log = require('./log')
const rehearse = require('./rehearse')
const { whereMainIs } = require('./where')

const LOOK_MS = 100
// An activator gives up at timeoutMs and needs a moment to take the instance out of routing: this is for what is left.
const GRACE_S = 3
// Looks without a call until there are no more looks: calls that follow each other cost no message each.
const IDLE_LOOKS = 20
const MIB = 1 << 20

const { shared, door: settings } = workerData
let door
let folder
let limits
// When initialisation must be over; undefined when it is.
let initEnds
let looking
let idle = 0
// The end is decided: whatever the main thread says comes too late.
let isOver = false

const inMain = (message) => parentPort.postMessage(message)

// Ends the process, whose main thread may never look again.
async function kill(code, message) {
  isOver = true
  clearInterval(looking)
  log.emit('error', message, { error: code, stack: await whereMainIs() })
  const end = () => {
    // Only a loaded folder is ours to remove.
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
    process.kill(process.pid, 'SIGKILL')
  }
  if (initEnds === undefined || door === undefined) end()
  else door.answer(422, { error: code, message }, end)
}

// MiB that the process holds of its own. Pages of programs and libraries are the kernel's to take back; where it does not
// tell them apart (it is no Linux), they count.
function heldMib() {
  try {
    return Math.ceil(Number(/^RssAnon:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'latin1'))[1]) / 1024)
  } catch {
    return Math.ceil(process.memoryUsage.rss() / MIB)
  }
}

function look() {
  const held = heldMib()
  if (held > limits.memoryMiB) {
    void kill('OutOfMemory', `the process holds ${held} MiB; the function's memory is ${limits.memoryMiB} MiB`)
    return
  }
  if (initEnds !== undefined) {
    if (performance.now() > initEnds) void kill('InitTimeout', `the module was not imported within ${limits.initTimeoutMs} ms`)
    return
  }
  const oldest = Atomics.load(shared, OLDEST)
  const allowed = Math.ceil(limits.timeoutMs / 1000) + GRACE_S
  if (oldest !== 0 && second() - oldest > allowed) {
    void kill('Timeout', `a call runs ${GRACE_S} s longer than its ${limits.timeoutMs} ms: the instance ends`)
    return
  }
  idle = oldest === 0 ? idle + 1 : 0
  if (idle > IDLE_LOOKS) rest()
}

function rest() {
  clearInterval(looking)
  looking = undefined
  Atomics.store(shared, WATCHED, 0)
  // A call that began before it could see this.
  if (Atomics.load(shared, OLDEST) !== 0) watch()
}

function watch() {
  Atomics.store(shared, WATCHED, 1)
  idle = 0
  looking ??= setInterval(look, LOOK_MS)
}

const hears = {
  // The boot form: the main thread has begun already.
  initialising({ spec }) {
    limits = spec
    initEnds = performance.now() + spec.initTimeoutMs
    watch()
  },
  initialised({ initMs }) {
    if (isOver) return
    initEnds = undefined
    door?.answer(200, { initMs })
  },
  failed({ code, message }) {
    if (isOver) return
    // An exiting main thread waits for this: nobody else can answer for it.
    const told = () => {
      Atomics.store(shared, WATCHED, -1)
      Atomics.notify(shared, WATCHED)
      inMain({ name: 'told' })
    }
    clearInterval(looking)
    if (door === undefined) told()
    else door.answer(422, { error: code, message }, told)
  },
  calling: watch,
}

parentPort.on('message', ({ name, ...rest }) => hears[name](rest))

// Opens the load port, when both threads are ready for a load.
function park() {
  door = new Door(settings, (spec, where) => {
    folder = where
    hears.initialising({ spec })
    inMain({ name: 'load', spec, folder })
  })
  door.server.listen({ host: settings.host, port: settings.port })
}

// Has the main thread play with a folder of code; resolves when it has.
function rehearseInMain(spec, where) {
  inMain({ name: 'rehearse', spec, folder: where })
  return new Promise((resolve) => {
    hears.rehearsed = resolve
  })
}

if (settings !== undefined) void rehearse.load(rehearseInMain).then(park)
