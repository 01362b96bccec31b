'use strict'
// Ed25519 (RFC 8032) by Node's own crypto.
const { createPublicKey, verify } = require('node:crypto')
const { decoded } = require('./base64')

const KEY_BYTES = 32
const SIGNATURE_BYTES = 64

// A public key from base64 of its 32 bytes; throws what is wrong with it.
function publicKey(base64) {
  const bytes = decoded(base64)
  if (bytes?.length !== KEY_BYTES) throw new Error(`an Ed25519 key is base64 of ${KEY_BYTES} bytes`)
  return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: bytes.toString('base64url') }, format: 'jwk' })
}

// Whether the base64 text is the key's signature over exactly these bytes.
function isSigned(key, body, base64) {
  const signature = decoded(base64)
  return signature?.length === SIGNATURE_BYTES && verify(null, body, key, signature)
}

module.exports = { isSigned, publicKey }
