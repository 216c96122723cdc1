/**
 * Starter scenarios of `mdevsim init`: the same load in each form of a file. They run as they are.
 */
import { basename, extname } from 'node:path';

const NAME_LIMIT = 64;
const DEFAULT_NAME = 'load';

/** Returns the starter for a file; undefined for an extension without one. */
export function starterOf(path: string): string | undefined {
  const extension = extname(path).toLowerCase();
  const name = basename(path, extname(path)).slice(0, NAME_LIMIT).toWellFormed() || DEFAULT_NAME;
  return STARTERS[extension]?.(name);
}

/** Extensions of the files that have a starter. */
export const starterExtensions = (): string[] => Object.keys(STARTERS);

const QUESTION = 'Do the vGPUs answer in time, with the right bytes?';

const yaml = (name: string): string => `\
# yaml-language-server: $schema=./mdevsim.schema.json
# (npx mdevsim schema > mdevsim.schema.json: an editor then checks and completes the settings)
name: ${JSON.stringify(name)}
question: ${QUESTION}
vms: 2
vgpus: 2
load:
  # Two virtual users (VUs) on each vGPU, one iteration after the other.
  closed: { executor: constant-vus, vus: 2, duration: 5s, workload: { copy: 3, dma-churn: 1 } }
  # 40 iterations per second in all, whatever the system does.
  open: { executor: constant-arrival-rate, rate: 40, duration: 5s, maxVUs: 32, workload: compute }
thresholds:
  command_latency{stage:open}: ['p(95)<1s']
  checks: ['rate==1']
`;

const json = (name: string): string =>
  `${JSON.stringify(
    {
      name,
      question: QUESTION,
      vms: 2,
      vgpus: 2,
      load: {
        closed: {
          executor: 'constant-vus',
          vus: 2,
          duration: '5s',
          workload: { copy: 3, 'dma-churn': 1 },
        },
        open: {
          executor: 'constant-arrival-rate',
          rate: 40,
          duration: '5s',
          maxVUs: 32,
          workload: 'compute',
        },
      },
      thresholds: { 'command_latency{stage:open}': ['p(95)<1s'], checks: ['rate==1'] },
    },
    null,
    2,
  )}\n`;

const typescript = (name: string): string => `\
import { CompletionStatus, type GuestGpu, type GuestVm, Opcode, scenario, submit } from 'mdevsim';

export default scenario({
  name: ${JSON.stringify(name)},
  question: '${QUESTION}',
  vms: 2,
  vgpus: 2,
  load: {
    // Two virtual users (VUs) on each vGPU, one iteration after the other.
    closed: { executor: 'constant-vus', vus: 2, duration: '5s', workload: { copy: 3, 'dma-churn': 1 } },
    // 40 calls of iteration() per second in all, whatever the system does.
    open: { executor: 'constant-arrival-rate', rate: 40, duration: '5s', maxVUs: 32, workload: 'iteration' },
  },
  thresholds: {
    'command_latency{stage:open}': ['p(95)<1s'],
    checks: ['rate==1'],
  },

  /** A workload: one iteration of a VU on a vGPU. */
  async iteration(vm: GuestVm, vgpu: GuestGpu): Promise<void> {
    const { status } = await submit(vm, vgpu, { opcode: Opcode.nop });
    vm.verify.check(status === CompletionStatus.ok, \`\${vgpu.name}: an empty command ended with \${status}\`);
  },
});
`;

const STARTERS: Readonly<Record<string, (name: string) => string>> = {
  '.yaml': yaml,
  '.yml': yaml,
  '.json': json,
  '.ts': typescript,
};
