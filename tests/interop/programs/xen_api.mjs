// Xen Orchestra's library, npm's xen-api: its object cache where the server has events, else records and calls, and tasks.
//
//   node xen_api.mjs NODE_MODULES URL          prints one line of JSON that says what was done
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [modules, url] = process.argv.slice(2)
const { createClient } = await import(pathToFileURL(createRequire(`${modules}/x`).resolve('xen-api')))

const open = async (transport, watchEvents) => {
  const xapi = createClient({ auth: { user: 'root', password: 'xenroot' }, transport, url, watchEvents })
  await xapi.connect()
  return xapi
}
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
const done = { transports: {}, cache: false }

// Calls and records of each transport
for (const transport of ['json-rpc', 'xml-rpc', 'auto']) {
  const xapi = await open(transport, false)
  assert.equal(xapi.pool.name_label, 'sample pool')
  const types = (await xapi.call('system.listMethods')).filter(name => name.endsWith('.get_all_records'))
  let records = 0
  for (const name of types) {
    for (const record of await xapi.getAllRecords(name.slice(0, name.indexOf('.')))) {
      assert.ok(record.$ref.startsWith('OpaqueRef:'), record.$ref)
      assert.equal(typeof record.uuid, 'string')
      records += 1
    }
  }
  const web = await xapi.getRecordByUuid('VM', '11111111-aaaa-4aaa-8aaa-000000000001')
  assert.deepEqual([web.$type, web.name_label, Number(web.memory_static_max)], ['VM', 'web', 2147483648])
  assert.equal(await xapi.getField('VM', web.$ref, 'is_a_template'), false)
  await assert.rejects(xapi.call('VM.get_record', 'OpaqueRef:NULL'), { code: 'HANDLE_INVALID' })
  await assert.rejects(xapi.call('VM.no_such_message', web.$ref), { code: 'MESSAGE_METHOD_UNKNOWN' })
  done.transports[transport] = [types.length, records]
  await xapi.disconnect()
}

// A VM from a template, by tasks
const xapi = await open('auto', false)
const watched = async (method, ...args) => {
  const task = await xapi.call(`Async.${method}`, ...args)
  for (;;) {
    const { status, result, error_info } = await xapi.call('task.get_record', task)
    if (status === 'pending') {
      await sleep(50)
      continue
    }
    await xapi.call('task.destroy', task)
    if (status !== 'success') {
      throw Object.assign(new Error(error_info.join()), { code: error_info[0] })
    }
    return /^<value>(.*)<\/value>$/.exec(result)?.[1] ?? result
  }
}
const [template] = await xapi.call('VM.get_by_name_label', 'Debian Bookworm 12')
const vm = await watched('VM.clone', template, 'made by xen-api')
await xapi.setField('VM', vm, 'is_a_template', false)
await xapi.setFieldEntry('VM', vm, 'other_config', 'owner', 'xen-api')
assert.equal((await xapi.getRecord('VM', vm)).other_config.owner, 'xen-api')
await watched('VM.start', vm, false, false)
assert.equal(await xapi.getField('VM', vm, 'power_state'), 'Running')
await assert.rejects(watched('VM.start', vm, false, false), { code: 'VM_BAD_POWER_STATE' })
await watched('VM.hard_shutdown', vm)
const methods = await xapi.call('system.listMethods')

// The object cache
if (methods.includes('event.from')) {
  const watching = await open('auto', true)
  await watching.objectsFetched
  const cached = type => Object.values(watching.objects.all).filter(each => each.$type === type)
  for (const name of methods.filter(each => each.endsWith('.get_all_records'))) {
    const type = name.slice(0, name.indexOf('.'))
    if (['task', 'message', 'session'].includes(type)) continue // may change meanwhile
    const served = Object.keys(await watching.call(name)).sort()
    assert.deepEqual(cached(type).map(each => each.$ref).sort(), served, type)
  }
  const object = watching.getObjectByRef(vm)
  assert.equal(object.$VBDs.length, object.VBDs.length)
  await object.set_name_label('renamed')
  assert.equal((await watching.barrier(vm)).name_label, 'renamed')
  await watching.callAsync('VM.start', vm, false, false)
  assert.equal((await watching.barrier(vm)).power_state, 'Running')
  await assert.rejects(watching.callAsync('VM.start', vm, false, false), { code: 'VM_BAD_POWER_STATE' })
  await watching.callAsync('VM.hard_shutdown', vm)
  done.cache = true
  await watching.disconnect()
}

await watched('VM.destroy', vm)
await assert.rejects(xapi.getRecord('VM', vm), { code: 'HANDLE_INVALID' })
await xapi.disconnect()
console.log(JSON.stringify(done))
