// Says whether IAM policies let a request pass: a question in JSON on each line of the input, an answer on each of the output.
// The question: {"principal", "action", "resource", "account", "context", "identity": [policy], "bucket": policy or null}.
import { createInterface } from 'node:readline'
import { runSimulation } from '@cloud-copilot/iam-simulate'

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line)
  const found = await runSimulation({
    request: {
      principal: asked.principal,
      action: asked.action,
      resource: { resource: asked.resource, accountId: asked.account },
      contextVariables: asked.context,
    },
    identityPolicies: asked.identity.map((policy, number) => ({ name: `policy-${number}`, policy })),
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    resourcePolicy: asked.bucket ?? undefined,
  }, {})
  const ignored = found.result?.ignoredContextKeys ?? []
  const errors = found.resultType === 'error' ? found.errors : ignored.length ? { ignored } : null
  console.log(JSON.stringify({ verdict: found.overallResult ?? null, errors }))
}
