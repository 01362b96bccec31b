// A call by HTTP: event has method, path, query, headers and body; context the request's id, the time left and a logger.
export async function handler(event, context) {
  let name
  try {
    name = event.body ? JSON.parse(event.body).name : undefined
  } catch {
    return { statusCode: 400, body: 'the body is no JSON object\n' }
  }
  context.logger.info('greets', { name })
  return { message: `Hello, ${name ?? 'world'}` }
}
