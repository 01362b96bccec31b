// What stands outside of the handler lives as long as the instance: a later call finds it as the one before left it.
let calls = 0

exports.handler = async (event, context) => {
  calls += 1
  const name = event.queryStringParameters.name ?? 'world'
  context.logger.info('greeting', { name })
  return { greeting: `Hello ${name}, from Node`, function: context.functionName, calls }
}
