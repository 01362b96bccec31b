'use strict'
// PID 1 of a container. The kernel drops a SIGKILL that comes from PID 1's own container, and Node has no other end for a
// process whose main thread spins: so the runtime is a child of this process, which says what it hears and ends as it does.
const { spawn } = require('node:child_process')
const { constants } = require('node:os')
const path = require('node:path')
const log = require('./log')

// What asked for the end, if something has.
let heard

const main = path.join(__dirname, '../main.js')
const child = spawn(process.execPath, [...process.execArgv, main], { stdio: 'inherit' })

for (const name of ['SIGTERM', 'SIGINT']) {
  process.on(name, () => {
    heard = name
    child.kill(name)
  })
}

child.on('error', (error) => {
  log.failure('BadStart', error)
  process.exit(1)
})

// As a shell says it. A child that was asked to end before it could listen has ended as it was asked.
child.on('exit', (status, signal) => {
  process.exit(signal === null ? status : signal === heard ? 0 : 128 + constants.signals[signal])
})
