/**
 * `npm run bench -- lookup|pin|map|viommu|vgpu|vfio-user|explore|load`: runs the named benches with their baselines; by
 * default all of them. `load-memory` takes ten minutes and runs only if it is named. `load` and `load-memory` run the
 * build.
 */
import { benchExplore } from './explore.ts';
import { benchLoad } from './load.ts';
import { benchLoadMemory } from './load-memory.ts';
import { benchLookup } from './lookup.ts';
import { benchMap } from './map.ts';
import { benchPin } from './pin.ts';
import { Report } from './report.ts';
import { Rival } from './rival.ts';
import { benchVfioUser } from './vfio-user.ts';
import { benchVgpu } from './vgpu.ts';
import { benchViommu } from './viommu.ts';

const BENCHES = {
  lookup: benchLookup,
  pin: benchPin,
  map: benchMap,
  viommu: benchViommu,
  vgpu: benchVgpu,
  'vfio-user': benchVfioUser,
  explore: benchExplore,
  load: benchLoad,
};
/** Benches that run only if they are named. */
const LONG_BENCHES = { 'load-memory': benchLoadMemory };
const ALL_BENCHES = { ...BENCHES, ...LONG_BENCHES };
const isName = (name: string): name is keyof typeof ALL_BENCHES => Object.hasOwn(ALL_BENCHES, name);

async function main(names: readonly string[]): Promise<number> {
  const chosen = names.length > 0 ? names : Object.keys(BENCHES);
  const unknown = chosen.find((name) => !isName(name));
  if (unknown !== undefined) {
    console.error(`no bench ${unknown}; accepted: ${Object.keys(ALL_BENCHES).join(', ')}`);
    return 2;
  }
  const report = new Report();
  const rival = new Rival();
  try {
    for (const name of chosen.filter(isName)) await ALL_BENCHES[name](report, rival);
  } finally {
    rival.close();
  }
  return report.end();
}

process.exitCode = await main(process.argv.slice(2));
