'use strict'
// Imports the user's module and finds its handler. What goes wrong is an InitFailure with a code and words for the
// function's owner.
const { spawnSync } = require('node:child_process')
const { existsSync, readFileSync, readdirSync } = require('node:fs')
const { createRequire } = require('node:module')
const path = require('node:path')
const { pathToFileURL } = require('node:url')

const EXTENSIONS = ['.js', '.mjs', '.cjs']

class InitFailure extends Error {
  constructor(code, message, cause) {
    super(message)
    Object.assign(this, { code, cause })
  }
}

// The file of a handler `MODULE.EXPORT` in a folder, and the export's name.
function locate(folder, handler) {
  const dot = handler.lastIndexOf('.')
  const [module, name] = [handler.slice(0, dot), handler.slice(dot + 1)]
  const file = EXTENSIONS.map((extension) => path.join(folder, module + extension)).find((file) => existsSync(file))
  if (file !== undefined) return { file, name }
  const tried = EXTENSIONS.map((extension) => module + extension).join(', ')
  throw new InitFailure('HandlerNotFound', `handler ${handler}: there is no file ${tried}`)
}

// Whether a file is an ECMAScript module by its name or by the nearest package.json.
function isModule(file, folder) {
  if (!file.endsWith('.js')) return file.endsWith('.mjs')
  for (let at = path.dirname(file); at.startsWith(folder); at = path.dirname(at)) {
    const manifest = path.join(at, 'package.json')
    if (existsSync(manifest)) return JSON.parse(readFileSync(manifest, 'utf8')).type === 'module'
  }
  return false
}

// What require says of a file that is an ECMAScript module all the same.
const wantsImport = (error) =>
  ['ERR_REQUIRE_ESM', 'ERR_REQUIRE_ASYNC_MODULE'].includes(error?.code) ||
  (error instanceof SyntaxError && /import statement|import\.meta|Unexpected token 'export'|await is only/.test(error.message))

// Gives {module}: what a module exports is not awaited, though it may look like a promise.
async function imported(file, folder) {
  if (!isModule(file, folder)) {
    try {
      return { module: createRequire(file)(file) }
    } catch (error) {
      if (!wantsImport(error)) throw error
      try {
        return { module: await import(pathToFileURL(file).href) }
      } catch (again) {
        // Without a look at the syntax (before Node 20.19) the file is no module to import either.
        if (again instanceof SyntaxError && wantsImport(again)) {
          again.message += ` (name the file ${path.basename(file, '.js')}.mjs to use import and export)`
        }
        throw again
      }
    }
  }
  return { module: await import(pathToFileURL(file).href) }
}

// Files that are looked at for a syntax error: a second's time.
const MAX_CHECKED = 20

// Where a syntax error is: the stack begins with `FILE:LINE`.
function placeIn(stack, folder) {
  const first = String(stack).split('\n', 1)[0].replace(/^file:\/\//, '')
  const match = /^(.+):(\d+)$/.exec(first)
  return match === null ? undefined : `${path.relative(folder, match[1])}:${match[2]}: `
}

// Of an ECMAScript module Node 18 and 20 tell the place only where they print the error and end: so another Node does that,
// which runs nothing.
function place(error, file, folder) {
  const told = placeIn(error.stack, folder)
  if (told !== undefined) return told
  const others = modulesIn(folder).filter((other) => other !== file)
  for (const checked of [file, ...others].slice(0, MAX_CHECKED)) {
    const { status, stderr } = spawnSync(process.execPath, ['--check', checked], { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] })
    if (status !== 0 && stderr.includes(error.message)) return placeIn(stderr, folder) ?? ''
  }
  return ''
}

// The folder's own files of JavaScript.
function modulesIn(folder) {
  const entries = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.name !== 'node_modules')
  return entries.flatMap((entry) => {
    const full = path.join(folder, entry.name)
    return entry.isDirectory() ? modulesIn(full) : /\.m?js$/.test(entry.name) ? [full] : []
  })
}

// Where an error was thrown: the first line of its stack that is in the folder.
function thrownAt(error, folder) {
  const at = String(error?.stack).split('\n').find((line) => line.includes(folder) && /^\s+at /.test(line))
  const match = at === undefined ? null : /([^\s(]+):(\d+):\d+\)?$/.exec(at.replaceAll('file://', ''))
  return match === null ? '' : `${path.relative(folder, match[1])}:${match[2]}: `
}

function explained(error, file, folder) {
  if (error instanceof InitFailure) return error
  if (!(error instanceof Error)) return new InitFailure('InitError', `the module threw ${String(error)}`, error)
  // One that code threw, by JSON.parse say, is no error of the code's own syntax.
  const isOfSource = error instanceof SyntaxError && (placeIn(error.stack, folder) !== undefined || thrownAt(error, folder) === '')
  if (isOfSource) {
    return new InitFailure('SyntaxError', `${place(error, file, folder)}SyntaxError: ${error.message}`, error)
  }
  const isMissing = ['MODULE_NOT_FOUND', 'ERR_MODULE_NOT_FOUND'].includes(error.code)
  return new InitFailure(isMissing ? 'ModuleNotFound' : 'InitError', words(error, folder), error)
}

// An error that was thrown outside of the import while it went on.
const strayed = (error, folder) => new InitFailure('InitError', words(error, folder), error)

const words = (error, folder) =>
  `${thrownAt(error, folder)}${String(error).split('\n', 1)[0].replaceAll(`${folder}${path.sep}`, '')}`

function found(module, name, file, folder) {
  const get = (key) => module?.[key] ?? module?.default?.[key]
  const handler = get(name)
  const where = path.relative(folder, file)
  if (typeof handler !== 'function') {
    const names = [...new Set([...Object.keys(module ?? {}), ...Object.keys(module?.default ?? {})])]
    const has = names.length === 0 ? 'it exports nothing' : `it exports ${names.slice(0, 10).join(', ')}`
    const what = handler === undefined ? `does not export ${name}` : `exports ${name}, which is no function`
    throw new InitFailure('HandlerNotFound', `${where} ${what}; ${has}`)
  }
  if (handler.length > 2) {
    const why = 'handlers with a callback are not called: return a value or a promise'
    throw new InitFailure('HandlerNotFound', `${where}: ${name} takes ${handler.length} parameters; ${why}`)
  }
  const warmUp = get('warmUp')
  return { handler, warmUp: typeof warmUp === 'function' ? warmUp : undefined }
}

// Gives {handler, warmUp}.
async function importHandler(folder, handler) {
  const { file, name } = locate(folder, handler)
  try {
    const { module } = await imported(file, folder)
    return found(module, name, file, folder)
  } catch (error) {
    throw explained(error, file, folder)
  }
}

module.exports = { InitFailure, importHandler, strayed }
