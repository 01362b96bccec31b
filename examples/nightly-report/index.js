const { Redis } = require('./redis')

// Made once: every call of this instance uses this connection.
const redis = new Redis(process.env.REDIS_URL)

exports.handler = async (event, context) => {
  if (event.type === 'schedule') return report(new Date(event.time), context)
  if (event.type !== 'http') return undefined
  const day = event.queryStringParameters.day ?? dayBefore(new Date())
  if (!/^\d{4}-\d{2}-\d{2}$/.test(day)) return { statusCode: 400, body: `day must be as 2026-11-26, is ${day}\n` }
  const kept = await redis.call('GET', `report:${day}`)
  return kept === null ? { statusCode: 404, body: `there is no report of ${day}\n` } : JSON.parse(kept)
}

// By the time at which it was due, not the one at which it runs: late or again, it makes the same report.
async function report (due, context) {
  const day = dayBefore(due)
  const fields = await redis.call('HGETALL', `visits:${day}`)
  const pages = []
  for (let i = 0; i < fields.length; i += 2) pages.push({ page: fields[i], visits: Number(fields[i + 1]) })
  pages.sort((a, b) => b.visits - a.visits || (a.page < b.page ? -1 : 1))
  const total = pages.reduce((sum, page) => sum + page.visits, 0)
  const made = { day, total, pages: pages.slice(0, 10) }
  await redis.call('SET', `report:${day}`, JSON.stringify(made))
  context.logger.info('report', { day, total })
  return made
}

function dayBefore (time) {
  return new Date(time.getTime() - 86_400_000).toISOString().slice(0, 10)
}
