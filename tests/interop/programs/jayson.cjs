// npm's jayson: XenAPI as JSON-RPC 1.0 and 2.0, and a batch with one refusal.
//
//   node jayson.cjs NODE_MODULES URL
const assert = require('node:assert/strict')
const [modules, url] = process.argv.slice(2)
const jayson = require(require.resolve('jayson/promise', { paths: [modules] }))

const { hostname, port } = new URL(url)
const main = async () => {
  const done = {}
  for (const version of [1, 2]) {
    const client = jayson.Client.http({ hostname, port, path: '/jsonrpc', version })
    const session = (await client.request('session.login_with_password', ['root', 'xenroot'])).result
    const { result, error } = await client.request('VM.get_all_records', [session])
    assert.equal(error, version === 1 ? null : undefined)
    const web = Object.values(result).find(each => each.name_label === 'web')
    assert.deepEqual([web.memory_static_max, web.snapshot_time], [2147483648, '19700101T00:00:00Z'])
    const refused = (await client.request('VM.get_record', [session, 'OpaqueRef:NULL'])).error
    const words = ['HANDLE_INVALID', 'VM', 'OpaqueRef:NULL']
    assert.deepEqual(refused, version === 1 ? words : { code: 1, message: words[0], data: words.slice(1) })
    if (version === 2) {
      const answers = await client.request([
        client.request('pool.get_all', [session], undefined, false),
        client.request('pool.get_all', ['OpaqueRef:none'], undefined, false),
      ])
      assert.deepEqual(answers.map(each => (each.error ? each.error.message : each.result.length)), [1, 'SESSION_INVALID'])
    }
    assert.equal((await client.request('session.logout', [session])).result, '')
    done[version] = Object.keys(result).length
  }
  console.log(JSON.stringify(done))
}
main().catch(error => {
  console.error(error)
  process.exitCode = 1
})
