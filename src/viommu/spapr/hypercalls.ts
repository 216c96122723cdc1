/**
 * The four TCE hypercalls: LoPAR "Logical Partitioning Option", H_GET_TCE to H_PUT_TCE_INDIRECT.
 *
 * Each handler checks in the specification's order, changes the table, and returns the return code with the completion
 * of the change's effects on devices.
 */

import {
  H_FUNCTION,
  H_GET_TCE,
  H_NOT_ENOUGH_RESOURCES,
  H_P4,
  H_PARAMETER,
  H_PUT_TCE,
  H_PUT_TCE_INDIRECT,
  H_STUFF_TCE,
  H_SUCCESS,
  TCE_CALL_LIMIT,
  TCE_LIST_BYTES,
} from '../../abi/spapr.ts';
import type { GuestRam } from '../../memory/guest-ram.ts';
import type { Completion } from '../../platform/completion.ts';
import type { Quirks } from '../quirks.ts';
import { decodeTce, type TceWindow } from './tce-window.ts';

/** Registers after a hypercall: `ret` is r3, `out` is r4 on. `out` is empty if the call does not change them. */
export interface HypercallResult {
  readonly ret: bigint;
  readonly out: readonly bigint[];
}

/** A result, and the completion before which it must not be returned. */
interface HypercallOutcome extends HypercallResult {
  readonly done: Completion;
}

/** Services of the unit for the handlers. */
export interface HypercallContext {
  readonly ram: GuestRam;
  readonly quirks: Quirks;
  /** Returns the window of a guest's 64-bit LIOBN. */
  windowOf(liobn: bigint): TceWindow | undefined;
  /** Updates the devices behind a window: `count` TCEs from `first` on have changed. */
  changed(window: TceWindow, first: number, count: number): Completion;
}

/** r4 to r9, as unsigned 64-bit numbers. */
export type HypercallArgs = readonly [bigint, bigint, bigint, bigint, bigint, bigint];

type Handler = (context: HypercallContext, args: HypercallArgs) => HypercallOutcome;

/** The TCE that a call names. */
interface Target {
  readonly window: TceWindow;
  readonly index: number;
}

const only = (ret: bigint): HypercallOutcome => ({ ret, out: [], done: undefined });

/** True if bit 63 is set. A negative LIOBN names several tables at once (MTT option), which no firmware here offers. */
const isNegative = (value: bigint): boolean => value >> 63n !== 0n;

export const HYPERCALLS: ReadonlyMap<number, Handler> = new Map<number, Handler>([
  [H_GET_TCE, getTce],
  [H_PUT_TCE, putTce],
  [H_STUFF_TCE, stuffTce],
  [H_PUT_TCE_INDIRECT, putTceIndirect],
]);

function target(context: HypercallContext, liobn: bigint, ioba: bigint): Target | undefined {
  const window = context.windowOf(liobn);
  const index = window?.indexOf(ioba);
  return window && index !== undefined ? { window, index } : undefined;
}

/** LoPAR: a TCE other than "Page Fault" must refer to the partition's memory. QEMU checks it only at the DMA. */
export function acceptable(
  { ram, quirks }: HypercallContext,
  raw: bigint,
  { pageShift, pageSize }: TceWindow,
): boolean {
  const { page, perm } = decodeTce(raw, pageShift);
  return quirks === 'qemu' || perm === 0 || ram.contains(page, pageSize);
}

function getTce(context: HypercallContext, [liobn, ioba]: HypercallArgs): HypercallOutcome {
  const at = target(context, liobn, ioba);
  return at ? { ret: H_SUCCESS, out: [at.window.get(at.index)], done: undefined } : only(H_PARAMETER);
}

function putTce(context: HypercallContext, [liobn, ioba, tce]: HypercallArgs): HypercallOutcome {
  const at = target(context, liobn, ioba);
  if (!at || !acceptable(context, tce, at.window)) return only(H_PARAMETER);
  return store(context, at, [tce], H_SUCCESS);
}

function stuffTce(context: HypercallContext, [liobn, ioba, tce, count]: HypercallArgs): HypercallOutcome {
  const at = target(context, liobn, ioba);
  if (!at) return only(H_PARAMETER);
  const { window, index } = at;
  const room = window.entries - index;
  if (context.quirks === 'qemu') {
    // The only limit is the window's size. The TCEs up to its end are stored before the call fails.
    if (count === 0n || count > BigInt(window.entries)) return only(H_PARAMETER);
    const fitting = Math.min(Number(count), room);
    return fill(context, at, fitting, tce, Number(count) > room ? H_PARAMETER : H_SUCCESS);
  }
  if (count > BigInt(TCE_CALL_LIMIT)) return only(H_P4);
  if (count > BigInt(room) || !acceptable(context, tce, window)) return only(H_PARAMETER);
  return fill(context, at, Number(count), tce, H_SUCCESS);
}

function putTceIndirect(context: HypercallContext, args: HypercallArgs): HypercallOutcome {
  const [liobn, ioba, list, count] = args;
  const qemu = context.quirks === 'qemu';
  if (!qemu && isNegative(liobn)) return only(H_FUNCTION);
  const at = target(context, liobn, ioba);
  if (!at || count > BigInt(TCE_CALL_LIMIT) || (qemu && count === 0n)) return only(H_PARAMETER);
  if (list % BigInt(TCE_LIST_BYTES) !== 0n) return only(H_PARAMETER);
  const tces = readList(context.ram, list, Number(count));
  if (!tces && !qemu) return only(H_PARAMETER);
  // QEMU does not notice that the list is not memory: it reads zeros.
  const values = tces ?? Array.from({ length: Number(count) }, () => 0n);
  const room = at.window.entries - at.index;
  if (qemu) return store(context, at, values.slice(0, room), values.length > room ? H_PARAMETER : H_SUCCESS);
  if (values.length > room || !values.every((tce) => acceptable(context, tce, at.window)))
    return only(H_PARAMETER);
  return store(context, at, values, H_SUCCESS);
}

/** Copies a page of big-endian TCEs, so that later writes of the guest to it have no effect. */
function readList(ram: GuestRam, list: bigint, count: number): bigint[] | undefined {
  const gpa = Number(list);
  if (!ram.contains(gpa, TCE_LIST_BYTES)) return undefined;
  const bytes = ram.read(gpa, count * 8);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: count }, (_, i) => view.getBigUint64(i * 8));
}

/** Stores consecutive TCEs and returns `ret`. */
function store(
  context: HypercallContext,
  { window, index }: Target,
  tces: readonly bigint[],
  ret: bigint,
): HypercallOutcome {
  if (tces.some((tce) => tce !== 0n) && !window.roomFor(index, tces.length))
    return only(H_NOT_ENOUGH_RESOURCES);
  tces.forEach((tce, i) => {
    window.set(index + i, tce);
  });
  return { ret, out: [], done: context.changed(window, index, tces.length) };
}

/** Stores one TCE `count` times and returns `ret`. */
function fill(
  context: HypercallContext,
  { window, index }: Target,
  count: number,
  tce: bigint,
  ret: bigint,
): HypercallOutcome {
  if (tce === 0n) window.clear(index, count);
  else if (!window.roomFor(index, count)) return only(H_NOT_ENOUGH_RESOURCES);
  else for (let i = 0; i < count; i++) window.set(index + i, tce);
  return { ret, out: [], done: context.changed(window, index, count) };
}
