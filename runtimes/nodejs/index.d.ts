/** Types of what a handler gets and gives: `handler(event, context)`. */

/** Which function was called. */
export interface FunctionIdentity {
  namespace: string
  name: string
  revision: string
}

/** Who called, and what. */
export interface RequestContext {
  requestId: string
  sourceIp: string
  /** When the call came, RFC 3339. */
  time: string
  function: FunctionIdentity
  /** The part of the path that the platform took off. */
  prefix?: string
  /** W3C trace context. */
  traceparent?: string
}

/** A call by HTTP. */
export interface HttpEvent {
  type: 'http'
  httpMethod: string
  /** As it was sent, without the query. */
  path: string
  /** Names in lower case; repeated ones joined by ", ", cookies by "; ". */
  headers: Record<string, string>
  /** The last value of each name. */
  queryStringParameters: Record<string, string>
  multiValueQueryStringParameters: Record<string, string[]>
  /** queryStringParameters as JSON text. */
  queries: string
  /** Text, or base64 of bytes; "" without one. */
  body: string
  isBase64Encoded: boolean
  requestContext: RequestContext
}

/** An event that the platform made: a schedule's, a warm-up. */
export interface PlatformEvent<Payload = unknown> {
  type: string
  /** When it was due, RFC 3339. */
  time: string
  /** Which schedule made it. */
  name?: string
  /** JSON, text or null. */
  payload: Payload
  requestContext: RequestContext
}

export interface Logger {
  /** Writes a line of the log; `fields` become fields of the line. */
  debug(message: unknown, fields?: object): void
  info(message: unknown, fields?: object): void
  warn(message: unknown, fields?: object): void
  error(message: unknown, fields?: object): void
}

/** What a handler is told of its call. */
export interface Context {
  readonly requestId: string
  readonly functionName: string
  readonly namespace: string
  readonly revision: string
  readonly memoryLimitInMB: number
  /** When the call's time is over: milliseconds since 1970. */
  readonly deadline: number
  /** Milliseconds until the deadline; 0 after it. */
  getRemainingTimeInMillis(): number
  readonly logger: Logger
}

export type HeaderValue = string | number | boolean

/** An answer by HTTP. */
export interface HttpResult {
  /** 200 to 599. */
  statusCode: number
  headers?: Record<string, HeaderValue | HeaderValue[] | null | undefined>
  multiValueHeaders?: Record<string, HeaderValue[]>
  body?: string | Uint8Array | AsyncIterable<string | Uint8Array> | null
  /** The body is base64 of bytes. */
  isBase64Encoded?: boolean
}

/** Bytes and streams are answered as they are, undefined by 204, any other value as JSON. */
export type Result = HttpResult | Uint8Array | AsyncIterable<string | Uint8Array> | object | string | number | boolean | null | void

export type Handler<Event = HttpEvent> = (event: Event, context: Context) => Result | Promise<Result>
