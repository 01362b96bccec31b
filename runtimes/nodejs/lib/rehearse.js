'use strict'
// What a load and its first call need is compiled by V8 and set up by Node when it is first used: tens of milliseconds in
// all. So a runtime plays both through before it says that it is parked, with a handler, a key and ports of its own.
const { generateKeyPairSync, sign } = require('node:crypto')
const http = require('node:http')
const { rmSync } = require('node:fs')
const { CELLS, Calls } = require('./calls')
const { Door } = require('./door')
const { importHandler } = require('./handler')
const log = require('./log')
const { Traffic } = require('./server')

const LOOPBACK = '127.0.0.1'
// Longest time for a step, each of which takes milliseconds.
const LIMIT_MS = 5000
const POD = 'rehearsal'
const CODE = {
  'plain.js': 'exports.handler = async (event) => ({ statusCode: 200, headers: { a: "b" }, body: event.body })',
  'module.mjs': 'export const handler = async () => [1]',
}
const SPEC = { function: { uid: 'r', namespace: 'r', name: 'r' }, revision: 'r', memoryMiB: 1, timeoutMs: 1000, concurrency: 1 }

function ask(port, method, path, headers, body) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host: LOOPBACK, port, method, path, headers, agent: false, timeout: LIMIT_MS }, (response) => {
      response.resume().on('end', () => {
        if (response.statusCode === 200) resolve()
        else reject(new Error(`it was answered ${response.statusCode}`))
      })
    })
    request.on('timeout', () => request.destroy(new Error('it takes too long')))
    request.on('error', reject).end(body)
  })
}

// Main thread: imports of both kinds from a folder that `load` wrote, and calls.
async function calls(folder) {
  for (const handler of ['plain.handler', 'module.handler']) {
    const calls = new Calls(new Int32Array(new SharedArrayBuffer(4 * CELLS)), () => {})
    const traffic = new Traffic(SPEC, await importHandler(folder, handler), calls)
    await traffic.listen(LOOPBACK, 0)
    try {
      const { port } = traffic.server.address()
      await ask(port, 'GET', '/?a=b', {})
      await ask(port, 'POST', '/', { 'content-type': 'application/json' }, '{}')
    } finally {
      traffic.stop()
    }
  }
}

// Second thread: a load, whose code `inMain(spec, folder)` has the main thread play with.
async function load(inMain) {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const key = Buffer.from(publicKey.export({ format: 'jwk' }).x, 'base64url').toString('base64')
  const files = Object.fromEntries(Object.entries(CODE).map(([name, text]) => [name, Buffer.from(text).toString('base64')]))
  const body = Buffer.from(JSON.stringify({ pod: POD, ...SPEC, handler: 'plain.handler', files, env: { A: 'b' } }))
  const door = new Door({ key, pod: POD }, async (spec, folder) => {
    await inMain(spec, folder)
    rmSync(folder, { recursive: true, force: true })
    door.answer(200, { initMs: 0 })
  })
  await new Promise((resolve) => door.server.listen({ host: LOOPBACK, port: 0 }, resolve))
  const signature = sign(null, body, privateKey).toString('base64')
  try {
    await ask(door.server.address().port, 'POST', '/load', { 'dormouse-signature': signature }, body)
  } finally {
    door.server.close()
  }
}

// A rehearsal that fails costs the first call some time, and nothing else.
const rehearsed = (play) => (of) => play(of).catch((error) => log.emit('warn', `the rehearsal failed: ${error.message}`))

module.exports = { calls: rehearsed(calls), load: rehearsed(load) }
