/**
 * Saved state of an sPAPR unit: each bridge's windows with their TCEs, which are not in guest RAM, the VIO windows, and
 * the call page's registers. QEMU's `vmstate_spapr_tce_table` has a table's start, page size and entries. RTAS calls
 * have no state besides windows. Nothing is cached, so nothing is dropped.
 */
import { hex } from '../../memory/address.ts';
import { decodeState, encodeState, type StateReader, type StateValues } from '../../proto/state-codec.ts';
import { checkQuirks } from '../quirks.ts';
import type { SpaprBridge } from './bridge.ts';
import type { CallPage } from './call-page.ts';
import { acceptable, type HypercallContext } from './hypercalls.ts';
import type { TceBudget, TceWindow, WindowShape } from './tce-window.ts';

const KIND = 'spapr-tce';
const VERSION = 1;

/** Head of a run of TCEs other than 0: first index and count, 32 bits each; then the TCEs; little endian. */
const RUN_HEAD_BYTES = 8;
const TCE_BYTES = 8;

/** The parts of a unit that have state. */
export interface SpaprParts {
  readonly bridges: readonly SpaprBridge[];
  readonly vio: ReadonlyMap<number, TceWindow>;
  readonly page: CallPage;
  readonly budget: TceBudget;
  readonly context: HypercallContext;
}

/** Returns the state of a unit. No call may be in progress. */
export function saveUnit({ bridges, vio, page, context }: SpaprParts): Uint8Array {
  return encodeState(KIND, VERSION, {
    quirks: context.quirks,
    bridges: bridges.length,
    vioLiobns: [...vio.keys()],
    callPage: page.registers,
    ...Object.assign({}, ...bridges.map(bridgeValues)),
    ...Object.fromEntries([...vio.values()].map((window, i) => [`vio${i}.tces`, writeTces(window)])),
  });
}

function bridgeValues({ slots }: SpaprBridge, i: number): StateValues {
  const values: Record<string, StateValues[string]> = {};
  for (const [slot, window] of slots.entries()) {
    const name = `bridge${i}.window${slot}`;
    values[`${name}.present`] = window !== undefined;
    if (!window) continue;
    values[`${name}.liobn`] = window.liobn;
    values[`${name}.start`] = window.start;
    values[`${name}.pageShift`] = window.pageShift;
    values[`${name}.entries`] = window.entries;
    values[`${name}.isDefault`] = window.isDefault;
    values[`${name}.tces`] = writeTces(window);
  }
  return values;
}

function writeTces(window: TceWindow): Uint8Array {
  const runs: { first: number; tces: bigint[] }[] = [];
  for (const [index, tce] of window.tces()) {
    const last = runs.at(-1);
    if (last && last.first + last.tces.length === index) last.tces.push(tce);
    else runs.push({ first: index, tces: [tce] });
  }
  const view = new DataView(new ArrayBuffer(RUN_HEAD_BYTES * runs.length + TCE_BYTES * window.live));
  let at = 0;
  for (const { first, tces } of runs) {
    view.setUint32(at, first, true);
    view.setUint32(at + 4, tces.length, true);
    at += RUN_HEAD_BYTES;
    for (const tce of tces) {
      view.setBigUint64(at, tce, true);
      at += TCE_BYTES;
    }
  }
  return new Uint8Array(view.buffer);
}

/**
 * Restores the state of another unit with the same bridges.
 * @throws StateError
 */
export function restoreUnit(bytes: Uint8Array, parts: SpaprParts): void {
  const { bridges, vio, page, context } = parts;
  const state = decodeState(bytes, KIND, VERSION);
  checkQuirks(state, context.quirks);
  const count = state.number('bridges');
  if (count !== bridges.length) throw state.error('bridges', `is ${count}; accepted: ${bridges.length}`);
  const liobns = [...vio.keys()];
  const found = state.numbers('vioLiobns', liobns.length);
  if (found.length !== liobns.length || found.some((liobn, i) => liobn !== liobns[i]))
    throw state.error(
      'vioLiobns',
      `are ${found.map(hex).join(', ')}; accepted: ${liobns.map(hex).join(', ')}`,
    );
  const odd = page.restore(state.bytes('callPage', page.registers.length));
  if (odd !== undefined)
    throw state.error('callPage', `has a byte at ${hex(odd)} that is no register; accepted: as made`);
  for (const bridge of bridges) restoreBridge(state, bridge, parts);
  for (const [i, window] of [...vio.values()].entries()) readTces(state, `vio${i}.tces`, window, parts);
}

function restoreBridge(state: StateReader, bridge: SpaprBridge, parts: SpaprParts): void {
  const shapes = bridge.slots.map((_, slot) => shapeOf(state, `bridge${bridge.index}.window${slot}`));
  const refused = bridge.restore(shapes);
  if (refused) throw state.error(`bridge${bridge.index}.window${refused.slot}`, refused.what);
  for (const [slot, window] of bridge.slots.entries())
    if (window) readTces(state, `bridge${bridge.index}.window${slot}.tces`, window, parts);
}

function shapeOf(state: StateReader, name: string): WindowShape | undefined {
  if (!state.boolean(`${name}.present`)) return undefined;
  return {
    liobn: state.number(`${name}.liobn`),
    // May exceed 53 bits: the bridge checks it against the two possible starts.
    start: state.number(`${name}.start`),
    pageShift: state.number(`${name}.pageShift`),
    entries: state.number(`${name}.entries`),
    isDefault: state.boolean(`${name}.isDefault`),
  };
}

/** Fills an empty window. Each TCE must be one that H_PUT_TCE would store. */
function readTces(state: StateReader, name: string, window: TceWindow, parts: SpaprParts): void {
  const { budget, context } = parts;
  const bytes = state.bytes(name);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const refuse = (wrong: string) => state.error(name, wrong);
  let end = 0;
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < RUN_HEAD_BYTES) throw refuse(`end within a run at ${at}`);
    const first = view.getUint32(at, true);
    const count = view.getUint32(at + 4, true);
    at += RUN_HEAD_BYTES;
    if (count < 1 || count * TCE_BYTES > bytes.length - at)
      throw refuse(`have a run of ${count}; accepted: 1 to ${Math.floor((bytes.length - at) / TCE_BYTES)}`);
    if (first < end || first + count > window.entries)
      throw refuse(`have ${first} +${count}; accepted: from ${end}, below ${window.entries}`);
    if (count > budget.limit - budget.live)
      throw refuse(`bring the unit to ${budget.live + count} TCEs; accepted: up to ${budget.limit}`);
    end = first + count;
    for (let index = first; index < end; index++, at += TCE_BYTES) {
      const tce = view.getBigUint64(at, true);
      if (tce === 0n || !acceptable(context, tce, window))
        throw refuse(`have ${hex(tce)} at ${index}; accepted: TCEs other than 0 of guest RAM`);
      window.set(index, tce);
    }
  }
}
