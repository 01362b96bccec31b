'use strict'
// Where the main thread is, asked from the second one: V8 stops it even within an endless loop.
const inspector = require('node:inspector')

// A thread that runs code stops at its next jump back or call; one that waits for something does not stop at all.
const STOP_MS = 500

// Resolves to the main thread's stack, or undefined when it runs no code.
function whereMainIs() {
  return new Promise((resolve) => {
    const urls = new Map()
    const session = new inspector.Session()
    session.connectToMainThread()
    session.on('Debugger.scriptParsed', ({ params }) => urls.set(params.scriptId, params.url))
    session.on('Debugger.paused', ({ params }) => resolve(params.callFrames.map((frame) => written(frame, urls)).join('\n')))
    session.post('Debugger.enable')
    session.post('Debugger.pause')
    setTimeout(resolve, STOP_MS)
  })
}

function written({ functionName, location }, urls) {
  const url = (urls.get(location.scriptId) ?? '').replace(/^file:\/\//, '')
  return `    at ${functionName || '<anonymous>'} (${url}:${location.lineNumber + 1}:${location.columnNumber + 1})`
}

module.exports = { whereMainIs }
