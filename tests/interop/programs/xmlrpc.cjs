// npm's xmlrpc: values of each type, a VM that starts as a task, errors.
//
//   node xmlrpc.cjs NODE_MODULES URL
const assert = require('node:assert/strict')
const [modules, url] = process.argv.slice(2)
const xmlrpc = require(require.resolve('xmlrpc', { paths: [modules] }))

const { hostname, port } = new URL(url)
const client = xmlrpc.createClient({ host: hostname, port, path: '/RPC2' })
const ask = (method, ...params) =>
  new Promise((resolve, reject) => client.methodCall(method, params, (error, value) => (error ? reject(error) : resolve(value))))

const main = async () => {
  const session = (await ask('session.login_with_password', 'root', 'xenroot', '1.0', 'npm')).Value
  const call = async (method, ...params) => {
    const answer = await ask(method, session, ...params)
    if (answer.Status !== 'Success') throw Object.assign(new Error(answer.ErrorDescription.join()), { words: answer.ErrorDescription })
    return answer.Value
  }
  const records = await call('VM.get_all_records')
  const [web, record] = Object.entries(records).find(([, each]) => each.name_label === 'web')
  assert.equal(record.memory_static_max, '2147483648')
  assert.equal(record.is_a_template, false)
  assert.ok(record.snapshot_time instanceof Date)
  assert.deepEqual(record.other_config, {})
  const [template] = await call('VM.get_by_name_label', 'Debian Bookworm 12')
  const vm = await call('VM.clone', template, 'made by xmlrpc')
  await call('VM.set_is_a_template', vm, false)
  const task = await call('Async.VM.start', vm, false, false)
  while ((await call('task.get_status', task)) === 'pending') await new Promise(resolve => setTimeout(resolve, 50))
  assert.deepEqual([await call('task.get_status', task), await call('task.get_progress', task)], ['success', 1])
  await call('task.destroy', task)
  await assert.rejects(call('VM.destroy', vm), error => error.words[0] === 'VM_BAD_POWER_STATE')
  await call('VM.hard_shutdown', vm)
  await call('VM.destroy', vm)
  await assert.rejects(call('VM.get_record', vm), error => `${error.words}` === `HANDLE_INVALID,VM,${vm}`)
  await call('session.logout')
  await assert.rejects(call('VM.get_all'), error => `${error.words}` === `SESSION_INVALID,${session}`)
  console.log(JSON.stringify({ records: Object.keys(records).length, web }))
}
main().catch(error => {
  console.error(error)
  process.exitCode = 1
})
