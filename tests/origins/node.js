// An instance on Node's own HTTP server that writes down what it saw: one JSON line when a request's head has come, and
// one when its body has come whole. Usage: node node.js PORT LOG
'use strict';
const fs = require('fs');
const http = require('http');

const [port, log] = process.argv.slice(2);
const KEPT = 200; // bytes of a body that are kept: bodies of tests are shorter

function note(entry) {
  fs.appendFileSync(log, JSON.stringify(entry) + '\n');
}

function pairs(raw) {
  const list = [];
  for (let i = 0; i < raw.length; i += 2) list.push([raw[i].toLowerCase(), raw[i + 1]]);
  return list;
}

const server = http.createServer((request, response) => {
  const seen = { method: request.method, target: request.url, headers: pairs(request.rawHeaders) };
  note({ event: 'head', ...seen });
  let bytes = 0;
  let text = '';
  request.on('data', (chunk) => {
    bytes += chunk.length;
    if (text.length < KEPT) text += chunk.toString('latin1').slice(0, KEPT - text.length);
  });
  request.on('end', () => {
    note({ event: 'whole', ...seen, bytes, text, trailers: pairs(request.rawTrailers) });
    response.end('ok');
  });
  request.on('error', () => {});
});
// What the parser refuses never becomes a request; it is written down because a proxy let it through.
server.on('clientError', (error, socket) => {
  note({ event: 'refused', code: error.code });
  if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
});
server.listen(Number(port), '127.0.0.1');
