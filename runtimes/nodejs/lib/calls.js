'use strict'
// The calls in flight: who is answered when the process cannot go on, what the guard looks at, when everything is done.
const { randomUUID } = require('node:crypto')
const log = require('./log')

// Cells of the memory that is shared with the guard, which looks while this thread may be spinning.
// Second (of the monotonic clock, which all threads share) in which the oldest running call began; 0: none runs.
const OLDEST = 0
// 1 while the guard looks; it is told when it should look again.
const WATCHED = 1
const CELLS = 2

const second = () => process.hrtime()[0]

class Calls {
  constructor(shared, wakeGuard) {
    this.shared = shared
    this.wakeGuard = wakeGuard
    // Calls whose code runs and what they began, in the order in which they began.
    this.running = new Map()
    this.open = new Set()
    this.isDraining = false
    this.whenDrained = undefined
  }

  // A request came. It is open until its answer has left or its connection broke.
  begin(request, response) {
    const id = request.headers['dormouse-request-id'] || randomUUID()
    const call = { id, began: Date.now(), response }
    this.open.add(call)
    response.once('close', () => {
      this.open.delete(call)
      this.settle()
    })
    return call
  }

  // Runs user code as this call. It goes on when the caller has left: the caller's leaving says nothing of what is to do.
  async run(call, code) {
    this.running.set(call, second())
    if (this.running.size === 1) Atomics.store(this.shared, OLDEST, second())
    if (Atomics.load(this.shared, WATCHED) === 0) {
      Atomics.store(this.shared, WATCHED, 1)
      this.wakeGuard()
    }
    try {
      return await log.current.run(call, code)
    } finally {
      this.running.delete(call)
      const oldest = this.running.values().next()
      Atomics.store(this.shared, OLDEST, oldest.done ? 0 : oldest.value)
      log.flush(call)
      this.settle()
    }
  }

  // Calls `done` once nothing runs and every answer has left.
  drain(done) {
    this.isDraining = true
    this.whenDrained = done
    this.settle()
  }

  settle() {
    if (this.whenDrained !== undefined && this.running.size === 0 && this.open.size === 0) this.whenDrained()
  }
}

module.exports = { CELLS, Calls, OLDEST, WATCHED, second }
