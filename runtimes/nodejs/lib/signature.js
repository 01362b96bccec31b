'use strict'
// Ed25519 (RFC 8032) by Node's own crypto.
const { createPublicKey, verify } = require('node:crypto')
const { decoded } = require('./base64')

const KEY_BYTES = 32
const SIGNATURE_BYTES = 64
// The y of points of small order, by which anybody can sign, in every writing: 0, 1, -1, two of order 8, and p and p + 1,
// which are 0 and 1 again. OpenSSL takes them.
const SMALL = new Set([
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
])

// A public key from base64 of its 32 bytes; throws what is wrong with it.
function publicKey(base64) {
  const bytes = decoded(base64)
  if (bytes?.length !== KEY_BYTES) throw new Error(`an Ed25519 key is base64 of ${KEY_BYTES} bytes`)
  // Its last bit is the sign of x.
  const y = Buffer.from(bytes)
  y[KEY_BYTES - 1] &= 0x7f
  if (SMALL.has(y.toString('hex'))) throw new Error('this key is a point of small order, by which anybody can sign')
  return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: bytes.toString('base64url') }, format: 'jwk' })
}

// Whether the base64 text is the key's signature over exactly these bytes.
function isSigned(key, body, base64) {
  const signature = decoded(base64)
  return signature?.length === SIGNATURE_BYTES && verify(null, body, key, signature)
}

module.exports = { isSigned, publicKey }
