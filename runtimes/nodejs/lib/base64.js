'use strict'
// Base64 as RFC 4648 has it: Buffer alone takes anything for it and skips what it does not know.

// The bytes; undefined when the text is no base64.
function decoded(text) {
  if (typeof text !== 'string' || text.length % 4 !== 0 || /[^A-Za-z0-9+/=]/.test(text)) return undefined
  const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0
  const bytes = Buffer.from(text, 'base64')
  return bytes.length === (text.length / 4) * 3 - padding ? bytes : undefined
}

module.exports = { decoded }
