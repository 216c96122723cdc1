/**
 * RTAS calls of the DMA window option: LoPAR "Run-Time Abstraction Services", ibm,query-pe-dma-window,
 * ibm,create-pe-dma-window, ibm,remove-pe-dma-window, ibm,reset-pe-dma-window.
 */

import {
  CREATE_PE_DMA_WINDOW,
  QUERY_PE_DMA_WINDOW,
  REMOVE_PE_DMA_WINDOW,
  RESET_PE_DMA_WINDOW,
  RTAS_PARAMETER_ERROR,
  RTAS_SUCCESS,
} from '../../abi/spapr.ts';
import { BUID_HI, BUID_LO } from '../../abi/spapr-host-bridges.ts';
import type { Completion } from '../../platform/completion.ts';
import { type SpaprBridge, WINDOW_ENTRY_LIMIT, WINDOW_SLOTS } from './bridge.ts';

/** Answer to an RTAS call: its signed status, and the results after the status. */
export interface RtasResult {
  readonly status: number;
  readonly rets: readonly number[];
}

export interface RtasOutcome extends RtasResult {
  readonly done: Completion;
}

export interface RtasCall {
  /** Count of arguments. */
  readonly args: number;
  /** Accepted counts of results. */
  readonly rets: readonly number[];
  run(bridges: readonly SpaprBridge[], args: readonly number[], rets: number): RtasOutcome;
}

/** In the six-result form of the query, the largest window's TCEs are two words. The values are QEMU's. */
const EXTENDED_LARGEST = [0x20, 0] as const;
/** TCEs cannot be migrated between windows. */
const NO_MIGRATION = 0;

const failed: RtasOutcome = { status: RTAS_PARAMETER_ERROR, rets: [], done: undefined };

export const RTAS_CALLS: ReadonlyMap<string, RtasCall> = new Map<string, RtasCall>([
  [QUERY_PE_DMA_WINDOW, { args: 3, rets: [5, 6], run: query }],
  [CREATE_PE_DMA_WINDOW, { args: 5, rets: [4], run: create }],
  [REMOVE_PE_DMA_WINDOW, { args: 1, rets: [1], run: remove }],
  [RESET_PE_DMA_WINDOW, { args: 3, rets: [1], run: reset }],
]);

/** Runs a call. With a wrong count of arguments or results it fails and writes no results. */
export function runRtas(
  call: RtasCall,
  bridges: readonly SpaprBridge[],
  args: readonly number[],
  rets: number,
): RtasOutcome {
  if (args.length !== call.args || !call.rets.includes(rets)) return failed;
  return call.run(bridges, args, rets);
}

/** Returns the bridge of a BUID if it has dynamic windows. The configuration address before it is ignored. */
function bridgeOf(bridges: readonly SpaprBridge[], args: readonly number[]): SpaprBridge | undefined {
  if (args[1] !== BUID_HI) return undefined;
  const bridge = bridges[(args[2] as number) - BUID_LO];
  return bridge?.dynamicWindows ? bridge : undefined;
}

function query(bridges: readonly SpaprBridge[], args: readonly number[], rets: number): RtasOutcome {
  const bridge = bridgeOf(bridges, args);
  if (!bridge) return failed;
  const largest = rets === 6 ? EXTENDED_LARGEST : [WINDOW_ENTRY_LIMIT];
  const free = WINDOW_SLOTS - bridge.windows.length;
  return {
    status: RTAS_SUCCESS,
    rets: [free, ...largest, bridge.pageSizeMask, NO_MIGRATION],
    done: undefined,
  };
}

function create(bridges: readonly SpaprBridge[], args: readonly number[]): RtasOutcome {
  const outcome = bridgeOf(bridges, args)?.create(args[3] as number, args[4] as number);
  if (!outcome) return failed;
  const { status, window, done } = outcome;
  if (!window) return { status, rets: [], done };
  const high = Math.floor(window.start / 2 ** 32);
  return { status, rets: [window.liobn, high, window.start % 2 ** 32], done };
}

function remove(bridges: readonly SpaprBridge[], [liobn]: readonly number[]): RtasOutcome {
  for (const bridge of bridges) {
    const window = bridge.windowOf(liobn as number);
    if (!window) continue;
    if (!bridge.dynamicWindows) return failed;
    const { status, done } = bridge.remove(window);
    return { status, rets: [], done };
  }
  return failed;
}

function reset(bridges: readonly SpaprBridge[], args: readonly number[]): RtasOutcome {
  const outcome = bridgeOf(bridges, args)?.reset();
  return outcome ? { status: outcome.status, rets: [], done: outcome.done } : failed;
}
