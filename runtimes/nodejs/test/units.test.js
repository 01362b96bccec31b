'use strict'
// What of the runtime is a rule: data in, expected out. The whole is held to its contract by tests/suite_runtimes.
const assert = require('node:assert/strict')
const { spawnSync } = require('node:child_process')
const { generateKeyPairSync, sign } = require('node:crypto')
const test = require('node:test')
const { decoded } = require('../lib/base64')
const { BadEvent, eventOf } = require('../lib/event')
const { answerOf } = require('../lib/result')
const { isSigned, publicKey } = require('../lib/signature')
const { BadLoad, fromEnv, fromLoad } = require('../lib/spec')

const bytes = (hex) => Buffer.from(hex, 'hex')

// RFC 8032, section 7.1: tests 1 to 3 and SHA(abc).
const VECTORS = [
  ['d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a', '',
    'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b'],
  ['3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c', '72',
    '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00'],
  ['fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025', 'af82',
    '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a'],
]

test('signatures of the RFC hold, and nothing that is near them', () => {
  for (const [key, message, signature] of VECTORS) {
    const of = publicKey(bytes(key).toString('base64'))
    const [body, good] = [bytes(message), bytes(signature)]
    assert.ok(isSigned(of, body, good.toString('base64')))
    for (const at of [0, 31, 32, 63]) {
      const bad = Buffer.from(good)
      bad[at] ^= 1
      assert.ok(!isSigned(of, body, bad.toString('base64')), `byte ${at}`)
    }
    assert.ok(!isSigned(of, Buffer.concat([body, Buffer.of(0)]), good.toString('base64')))
    assert.ok(!isSigned(of, body, undefined))
    assert.ok(!isSigned(of, body, good.subarray(0, 63).toString('base64')))
  }
  const { publicKey: other, privateKey } = generateKeyPairSync('ed25519')
  const raw = Buffer.from(other.export({ format: 'jwk' }).x, 'base64url').toString('base64')
  const body = Buffer.from('body')
  assert.ok(isSigned(publicKey(raw), body, sign(null, body, privateKey).toString('base64')))
  assert.throws(() => publicKey('c2hvcnQ='), /32 bytes/)
  for (const small of ['00'.repeat(32), `01${'00'.repeat(31)}`, `ee${'ff'.repeat(31)}`]) {
    assert.throws(() => publicKey(bytes(small).toString('base64')), /small order/)
  }
})

test('base64 is what the RFC says and nothing that Buffer passes over', () => {
  for (const good of ['', 'AA==', 'AAA=', 'AAAA', '+/+/']) assert.equal(decoded(good).toString('base64'), good)
  for (const bad of ['A', 'AA', 'AAA', 'A===', '====', 'A=A=', 'AA=A', '-_-_', 'AAA\n', 'AA==AAAA', undefined, 7]) {
    assert.equal(decoded(bad), undefined, String(bad))
  }
})

const request = (method, url, rawHeaders) => ({ method, url, rawHeaders, socket: { remoteAddress: '::ffff:10.1.2.3' } })
const spec = { function: { namespace: 'n', name: 'f' }, revision: 'r' }
const call = { id: 'id', began: 0 }
const event = (method, url, headers = [], body = '') => eventOf(call, request(method, url, headers), Buffer.from(body), spec)

test('targets become path and query', () => {
  const table = [
    ['/', '/', {}], ['/a?', '/a', {}], ['/a?b=c?d', '/a', { b: 'c?d' }], ['/a?b=%zz&%C3%A9', '/a', { b: '%zz', 'é': '' }],
    ['http://h', '/', {}], ['http://h/p?x=1', '/p', { x: '1' }], ['/http://h/x', '/http://h/x', {}], ['*', '*', {}],
  ]
  for (const [url, path, queries] of table) {
    const made = event('GET', url)
    assert.deepEqual([made.path, made.queryStringParameters], [path, queries], url)
  }
})

test('the peer is the source where nobody forwarded', () => {
  assert.equal(event('GET', '/').requestContext.sourceIp, '10.1.2.3')
  assert.equal(event('GET', '/', ['X-Forwarded-For', ' 1.1.1.1 , 2.2.2.2']).requestContext.sourceIp, '1.1.1.1')
})

test('an event of the platform comes as it should or not at all', () => {
  assert.throws(() => event('PUT', '/', ['dormouse-event', 'schedule']), BadEvent)
  assert.throws(() => event('POST', '/', ['dormouse-event', '']), BadEvent)
  assert.throws(() => event('POST', '/', ['dormouse-event', 'x'], Buffer.of(0xff)), BadEvent)
  const made = event('POST', '/', ['dormouse-event', 'x'])
  assert.deepEqual([made.type, made.time, made.payload], ['x', '1970-01-01T00:00:00.000Z', null])
})

test('a result with inherited statusCode is data', () => {
  assert.equal(answerOf(Object.create({ statusCode: 500 })).status, 200)
  assert.equal(answerOf({ statusCode: 200, body: null }).body.length, 0)
})

test('a load and the environment give the same', () => {
  const load = { pod: 'p', function: { uid: 'u', namespace: 'n', name: 'f' }, revision: 'r', handler: 'a/b.c', files: {},
    memoryMiB: 128, timeoutMs: 5, concurrency: 2 }
  const { pod, files, env, ...loaded } = fromLoad(Buffer.from(JSON.stringify(load)))
  const booted = fromEnv({ DORMOUSE_NAMESPACE: 'n', K_SERVICE: 'f', K_REVISION: 'r', DORMOUSE_HANDLER: 'a/b.c',
    DORMOUSE_MEMORY_MIB: '128', DORMOUSE_TIMEOUT_MS: '5', DORMOUSE_CONCURRENCY: '2' })
  booted.function.uid = 'u'
  assert.deepEqual(loaded, booted)
  assert.throws(() => fromEnv({ DORMOUSE_HANDLER: 'a.b', DORMOUSE_TIMEOUT_MS: '1s' }), /DORMOUSE_TIMEOUT_MS: timeoutMs must be/)
})

test('a load is text', () => {
  const load = { pod: 'p', function: { uid: 'u', namespace: 'n', name: 'f' }, revision: 'r', handler: 'a.b', files: {},
    memoryMiB: 128, timeoutMs: 5, concurrency: 2 }
  for (const more of [{ files: { '\ud800': '' } }, { env: { A: '\udc80' } }, { pod: '\ud800' }, { revision: '\udfff' }]) {
    assert.throws(() => fromLoad(Buffer.from(JSON.stringify({ ...load, ...more }))), BadLoad, JSON.stringify(more))
  }
})

test('a logger says what it is given', () => {
  const script = `const { logger } = require(${JSON.stringify(require.resolve('../lib/log'))})
    logger.info('100%'); logger.warn({ a: 1 }, { user: 1n }); logger.error('x', { time: 'mine', own: 1 }); logger.debug(null)`
  const { stdout } = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' })
  const lines = stdout.trim().split('\n').map((line) => JSON.parse(line))
  assert.deepEqual(lines.map(({ level, message }) => [level, message]), [['info', '100%'], ['warn', '{ a: 1 }'], ['error', 'x'], ['debug', 'null']])
  assert.match(lines[1].fields, /BigInt/)
  assert.equal(lines[2].own, 1)
  assert.notEqual(lines[2].time, 'mine')
})
