/**
 * The report of served devices.
 */
import type { VgpuStats } from '../gpu/stats.ts';
import { boundedText, counted, oneLine } from '../report/text.ts';
import type { ServedReport } from '../vfio-user/serve-task.ts';
import type { ServedWorker } from './serve.ts';

/** Returns whether a device has kept every rule: nothing is mapped or pinned, and no contract was broken. */
export const isClean = ({ report, failure }: ServedWorker): boolean =>
  failure === '' &&
  report !== undefined &&
  report.liveMaps === 0 &&
  report.heldPins === 0 &&
  report.violationCount === 0;

/** Returns the lines of one device. `gpu` is a vGPU's use of its physical GPU. */
export function deviceLines(worker: ServedWorker, gpu?: VgpuStats): string[] {
  const { name, report, failure } = worker;
  if (!report) return [`${name}: FAILED: ${oneLine(boundedText(failure))}`];
  return [
    `${name}: ${counted(report.clients, 'client')}, ${counted(report.commands, 'command')}, ${counted(report.errors, 'error')}`,
    `  maps ${report.maps}, unmaps ${report.unmaps}, at most ${report.peakMaps} live, ${counted(report.switches, 'switch', 'switches')}; now ${report.liveMaps} maps, ${report.heldPins} pins`,
    `  pins ${report.pins}, faults ${report.faults}, interrupts ${report.signalled} of ${report.interrupts}, ` +
      `DMA by messages ${report.messageReads} reads, ${report.messageWrites} writes`,
    ...(gpu ? [gpuLine(gpu)] : []),
    ...lostLines(report),
    ...report.metrics.map(({ name: metric, value }) => `  ${metric}: ${value}`),
    ...report.violations.map((text) => `  VIOLATION ${oneLine(boundedText(text))}`),
    ...report.lines.map((text) => `  ${oneLine(boundedText(text))}`),
  ];
}

const gpuLine = ({ gpu, type, share, busyUs, waitedUs, turns, preemptions }: VgpuStats): string =>
  `  GPU ${gpu}: ${type}, share ${share}, busy ${Math.round(busyUs)} us, waited ${Math.round(waitedUs)} us, ` +
  `${turns} turns, ${preemptions} preemptions`;

const lostLines = ({ lostAccesses, mixedMaps }: ServedReport): string[] => [
  ...(lostAccesses > 0
    ? [`  ${counted(lostAccesses, 'access', 'accesses')} behind the end of a shrunk file`]
    : []),
  ...(mixedMaps > 0
    ? [`  ${counted(mixedMaps, 'map')} of guest RAM or of a vIOMMU while maps of the other were live (R2)`]
    : []),
];
