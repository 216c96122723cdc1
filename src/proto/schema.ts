// Generated from proto/mdevsim.proto by `npm run proto`; do not edit.
import type { Reader, Writer } from 'protobufjs/minimal.js';

type Draft<T> = { -readonly [K in keyof T]: T[K] };
const NO_BYTES = new Uint8Array();

/** Tag of a message in its frame, and its codec. `end` is the reader's position after the message. */
export interface BodyCodec<Body> {
  readonly tag: number;
  write(body: Body, w: Writer): Writer;
  read(r: Reader, end: number): Body;
}

export interface DeviceReady {
  readonly threadId: number;
  readonly model: string;
}

export interface DmaUnmap {
  readonly iova: number;
  readonly size: number;
}

export interface DmaUnmapDone {
  readonly iova: number;
  readonly size: number;
  readonly released: number;
}

export interface DmaFault {
  readonly iova: number;
  readonly write: boolean;
  readonly denied: boolean;
}

export type DeviceStop = Record<string, never>;

export interface DeviceReport {
  readonly pins: number;
  readonly unpins: number;
  readonly faults: number;
  readonly faultsDropped: number;
  readonly stalls: number;
  readonly interrupts: number;
  readonly unimplemented: readonly UnimplementedAccess[];
  readonly unimplementedOthers: number;
  readonly metrics: readonly Metric[];
}

export interface UnimplementedAccess {
  readonly offset: number;
  readonly count: number;
  readonly bar: number;
  readonly write: boolean;
}

export interface Metric {
  readonly name: string;
  readonly value: number;
}

export interface DeviceLog {
  readonly text: string;
  readonly watchdog: boolean;
}

export interface DeviceFailed {
  readonly reason: string;
  readonly pinsReleased: number;
}

export interface Violation {
  readonly kind: string;
  readonly detail: string;
  readonly repeats: number;
}

export interface AddressSpaceSwitch {
  readonly from: string;
  readonly to: string;
  readonly liveMappings: number;
  readonly tookUs: number;
}

export interface FaultRecorded {
  readonly requesterId: number;
  readonly iova: number;
  readonly write: boolean;
  readonly reason: number;
  readonly text: string;
  readonly expected: boolean;
}

export interface GuestPhase {
  readonly name: string;
}

export interface GuestDone {
  readonly error: string;
}

export interface RunRequest {
  readonly scenario: string;
  readonly process: number;
  readonly vms: readonly number[];
  readonly vgpus: number;
  readonly seed: number;
  readonly ramMib: number;
  readonly timeoutMs: number;
  readonly inject: string;
  readonly trace: string;
  readonly viommu: string;
  readonly baselineWorkers: number;
  readonly params: string;
  readonly mdevs?: Mdevs;
  readonly device?: DeviceChoice;
  readonly gpu?: GpuSettings;
  readonly migrations?: Migrations;
  readonly folder: string;
  readonly vmSettings: readonly VmSettings[];
}

export interface VmSettings {
  readonly vm: number;
  readonly load: string;
  readonly ramMib: number;
  readonly viommu: string;
  readonly types: readonly string[];
  readonly bootUs: number;
}

export interface Migrations {
  readonly sockets: readonly string[];
  readonly vmsMax: number;
  readonly devicesMax: number;
}

export interface GpuSettings {
  readonly policy: string;
  readonly sliceUs: number;
  readonly types: readonly string[];
}

export interface DeviceChoice {
  readonly model: string;
  readonly timeoutMs: number;
  readonly source: string;
}

export interface Mdevs {
  readonly instances: readonly Mdev[];
}

export interface Mdev {
  readonly vm: number;
  readonly uuid: string;
  readonly parent: string;
  readonly type: string;
}

export interface HostReady {
  readonly pid: number;
}

export interface Progress {
  readonly devicesReady: number;
  readonly vmsDone: number;
  readonly operations: number;
  readonly bytesVerified: number;
  readonly phase: string;
}

export interface Histogram {
  readonly name: string;
  readonly data: Uint8Array;
}

export interface VmResult {
  readonly operations: number;
  readonly bytesVerified: number;
  readonly mismatches: number;
  readonly failures: readonly string[];
  readonly faultsExpected: number;
  readonly faultsUnexpected: number;
  readonly violations: readonly Violation[];
  readonly histograms: readonly Histogram[];
  readonly failedDevices: readonly string[];
  readonly scriptError: string;
  readonly maps: number;
  readonly unmaps: number;
  readonly switches: number;
  readonly audits: number;
  readonly devices?: DeviceReport;
  readonly notes: readonly string[];
  readonly moved: boolean;
  readonly checksFailed: number;
  readonly notesCut: number;
  readonly interrupted: boolean;
  readonly vgpus: readonly VgpuResult[];
  readonly lost: string;
}

export interface VgpuResult {
  readonly name: string;
  readonly model: string;
  readonly type: string;
  readonly gpu: number;
  readonly sharePpm: number;
  readonly operations: number;
  readonly busyUs: number;
  readonly waitedUs: number;
  readonly preemptions: number;
  readonly clockUs: number;
  readonly histograms: readonly Histogram[];
  readonly report?: DeviceReport;
  readonly failure: string;
}

export interface HostResult {
  readonly rssBefore: number;
  readonly rssReady: number;
  readonly devices: number;
  readonly guests: number;
  readonly devicesStartUs: number;
  readonly devicesRss: number;
  readonly baselineWorkers: number;
  readonly baselineStartUs: number;
  readonly baselineRss: number;
  readonly traceFrames: number;
  readonly traceDropped: number;
  readonly traceError: string;
}

export interface RunAbort {
  readonly reason: string;
}

export interface DeviceRequest {
  readonly uuid: string;
}

export type DeviceReleased = Record<string, never>;

export type RunEnd = Record<string, never>;

export type VmArrived = Record<string, never>;

export type VmBooted = Record<string, never>;

export interface LoadStart {
  readonly startUs: number;
}

export interface LoadStop {
  readonly reason: string;
}

export interface VmAct {
  readonly action: string;
  readonly event: number;
  readonly to: number;
  readonly clearRam: boolean;
  readonly isLast: boolean;
  readonly stopsDevices: boolean;
}

export interface VmActDone {
  readonly event: number;
  readonly error: string;
}

export interface VmMetrics {
  readonly second: number;
  readonly changes: readonly MetricChange[];
  readonly engineUse: readonly number[];
  readonly iterations: readonly IterationSpan[];
}

export interface IterationSpan {
  readonly vgpu: number;
  readonly stage: string;
  readonly workload: string;
  readonly vu: number;
  readonly startUs: number;
  readonly tookUs: number;
}

export interface MetricChange {
  readonly name: string;
  readonly type: number;
  readonly unit: string;
  readonly tags: readonly string[];
  readonly count: number;
  readonly sum: number;
  readonly min: number;
  readonly max: number;
  readonly last: number;
  readonly buckets: readonly number[];
  readonly counts: readonly number[];
}

export interface VmAddressSpaces {
  readonly devices: readonly AddressSpaceChange[];
}

export interface AddressSpaceChange {
  readonly device: number;
  readonly segments: readonly StripSegment[];
  readonly switches: readonly StripSwitch[];
}

export interface StripSegment {
  readonly startUs: number;
  readonly us: number;
  readonly gpaUs: number;
  readonly gpaBytes: number;
  readonly iovaUs: number;
  readonly iovaBytes: number;
  readonly switches: number;
}

export interface StripSwitch {
  readonly from: string;
  readonly to: string;
  readonly startUs: number;
  readonly removedUs: number;
  readonly tookUs: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

export interface ScreenshotRequest {
  readonly id: number;
}

export interface Screenshot {
  readonly id: number;
  readonly png: Uint8Array;
  readonly error: string;
}

export type DeviceReset = Record<string, never>;

export type DeviceResetDone = Record<string, never>;

export interface DeviceStateSet {
  readonly state: number;
}

export interface DeviceStateChanged {
  readonly state: number;
  readonly error: string;
}

export interface DeviceDataRead {
  readonly maxBytes: number;
}

export interface DeviceData {
  readonly data: Uint8Array;
  readonly end: boolean;
  readonly initialBytes: number;
  readonly dirtyBytes: number;
  readonly error: string;
}

export interface DeviceDataWrite {
  readonly data: Uint8Array;
}

export interface DeviceDataWritten {
  readonly error: string;
}

export interface DeviceStateRecord {
  readonly header?: DeviceStateHeader;
  readonly memory?: DeviceMemoryPages;
  readonly registers?: RegisterValues;
  readonly model?: DeviceModelState;
  readonly end?: DeviceStateEnd;
}

export interface DeviceStateHeader {
  readonly version: number;
  readonly vendorId: number;
  readonly deviceId: number;
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
  readonly modelVersion: number;
}

export interface DeviceMemoryPages {
  readonly memory: string;
  readonly offset: number;
  readonly data: Uint8Array;
  readonly zeroBytes: number;
}

export interface RegisterValues {
  readonly file: string;
  readonly values: readonly RegisterValue[];
}

export interface RegisterValue {
  readonly name: string;
  readonly low: number;
  readonly high: number;
}

export interface DeviceModelState {
  readonly state: Uint8Array;
}

export type DeviceStateEnd = Record<string, never>;

export interface EncodedState {
  readonly kind: string;
  readonly version: number;
  readonly fields: readonly StateField[];
}

export interface StateField {
  readonly name: string;
  readonly type: string;
  readonly data: Uint8Array;
}

export interface MigrationStart {
  readonly version: number;
  readonly config: string;
}

export type MigrationReady = Record<string, never>;

export interface RamPages {
  readonly gpa: number;
  readonly data: Uint8Array;
  readonly compare: boolean;
}

export interface ZeroPages {
  readonly gpa: number;
  readonly bytes: number;
  readonly compare: boolean;
}

export interface DeviceStream {
  readonly data: Uint8Array;
  readonly end: boolean;
  readonly interrupts: readonly number[];
}

export interface IommuState {
  readonly state: Uint8Array;
}

export interface GuestState {
  readonly state: Uint8Array;
}

export interface MigrationLoad {
  readonly expectations: string;
}

export type MigrationLoaded = Record<string, never>;

export type MigrationCompare = Record<string, never>;

export interface MigrationCompared {
  readonly comparedBytes: number;
  readonly differentBytes: number;
  readonly firstDifference: number;
}

export type MigrationResume = Record<string, never>;

export type MigrationRunning = Record<string, never>;

export interface MigrationFailed {
  readonly reason: string;
}

export function writeDeviceReady(m: DeviceReady, w: Writer): Writer {
  if (m.threadId !== 0) w.uint32(8).uint32(m.threadId);
  if (m.model !== '') w.uint32(18).string(m.model);
  return w;
}

export function readDeviceReady(r: Reader, end: number): DeviceReady {
  const m: Draft<DeviceReady> = { threadId: 0, model: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.threadId = r.uint32();
        break;
      case 18:
        m.model = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDmaUnmap(m: DmaUnmap, w: Writer): Writer {
  if (m.iova !== 0) w.uint32(8).uint64(m.iova);
  if (m.size !== 0) w.uint32(16).uint64(m.size);
  return w;
}

export function readDmaUnmap(r: Reader, end: number): DmaUnmap {
  const m: Draft<DmaUnmap> = { iova: 0, size: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.iova = Number(r.uint64());
        break;
      case 16:
        m.size = Number(r.uint64());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDmaUnmapDone(m: DmaUnmapDone, w: Writer): Writer {
  if (m.iova !== 0) w.uint32(8).uint64(m.iova);
  if (m.size !== 0) w.uint32(16).uint64(m.size);
  if (m.released !== 0) w.uint32(24).uint32(m.released);
  return w;
}

export function readDmaUnmapDone(r: Reader, end: number): DmaUnmapDone {
  const m: Draft<DmaUnmapDone> = { iova: 0, size: 0, released: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.iova = Number(r.uint64());
        break;
      case 16:
        m.size = Number(r.uint64());
        break;
      case 24:
        m.released = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDmaFault(m: DmaFault, w: Writer): Writer {
  if (m.iova !== 0) w.uint32(8).uint64(m.iova);
  if (m.write !== false) w.uint32(16).bool(m.write);
  if (m.denied !== false) w.uint32(24).bool(m.denied);
  return w;
}

export function readDmaFault(r: Reader, end: number): DmaFault {
  const m: Draft<DmaFault> = { iova: 0, write: false, denied: false };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.iova = Number(r.uint64());
        break;
      case 16:
        m.write = r.bool();
        break;
      case 24:
        m.denied = r.bool();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceStop(_m: DeviceStop, w: Writer): Writer {
  return w;
}

export function readDeviceStop(r: Reader, end: number): DeviceStop {
  const m: Draft<DeviceStop> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceReport(m: DeviceReport, w: Writer): Writer {
  if (m.pins !== 0) w.uint32(40).uint64(m.pins);
  if (m.unpins !== 0) w.uint32(48).uint64(m.unpins);
  if (m.faults !== 0) w.uint32(56).uint64(m.faults);
  if (m.faultsDropped !== 0) w.uint32(64).uint64(m.faultsDropped);
  if (m.stalls !== 0) w.uint32(72).uint64(m.stalls);
  if (m.interrupts !== 0) w.uint32(80).uint64(m.interrupts);
  for (const value of m.unimplemented) writeUnimplementedAccess(value, w.uint32(90).fork()).ldelim();
  if (m.unimplementedOthers !== 0) w.uint32(96).uint64(m.unimplementedOthers);
  for (const value of m.metrics) writeMetric(value, w.uint32(106).fork()).ldelim();
  return w;
}

export function readDeviceReport(r: Reader, end: number): DeviceReport {
  const unimplemented: UnimplementedAccess[] = [];
  const metrics: Metric[] = [];
  const m: Draft<DeviceReport> = {
    pins: 0,
    unpins: 0,
    faults: 0,
    faultsDropped: 0,
    stalls: 0,
    interrupts: 0,
    unimplemented,
    unimplementedOthers: 0,
    metrics,
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 40:
        m.pins = Number(r.uint64());
        break;
      case 48:
        m.unpins = Number(r.uint64());
        break;
      case 56:
        m.faults = Number(r.uint64());
        break;
      case 64:
        m.faultsDropped = Number(r.uint64());
        break;
      case 72:
        m.stalls = Number(r.uint64());
        break;
      case 80:
        m.interrupts = Number(r.uint64());
        break;
      case 90:
        unimplemented.push(readUnimplementedAccess(r, r.uint32() + r.pos));
        break;
      case 96:
        m.unimplementedOthers = Number(r.uint64());
        break;
      case 106:
        metrics.push(readMetric(r, r.uint32() + r.pos));
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeUnimplementedAccess(m: UnimplementedAccess, w: Writer): Writer {
  if (m.offset !== 0) w.uint32(8).uint32(m.offset);
  if (m.count !== 0) w.uint32(16).uint32(m.count);
  if (m.bar !== 0) w.uint32(24).uint32(m.bar);
  if (m.write !== false) w.uint32(32).bool(m.write);
  return w;
}

export function readUnimplementedAccess(r: Reader, end: number): UnimplementedAccess {
  const m: Draft<UnimplementedAccess> = { offset: 0, count: 0, bar: 0, write: false };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.offset = r.uint32();
        break;
      case 16:
        m.count = r.uint32();
        break;
      case 24:
        m.bar = r.uint32();
        break;
      case 32:
        m.write = r.bool();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMetric(m: Metric, w: Writer): Writer {
  if (m.name !== '') w.uint32(10).string(m.name);
  if (m.value !== 0) w.uint32(16).uint64(m.value);
  return w;
}

export function readMetric(r: Reader, end: number): Metric {
  const m: Draft<Metric> = { name: '', value: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.name = r.string();
        break;
      case 16:
        m.value = Number(r.uint64());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceLog(m: DeviceLog, w: Writer): Writer {
  if (m.text !== '') w.uint32(10).string(m.text);
  if (m.watchdog !== false) w.uint32(16).bool(m.watchdog);
  return w;
}

export function readDeviceLog(r: Reader, end: number): DeviceLog {
  const m: Draft<DeviceLog> = { text: '', watchdog: false };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.text = r.string();
        break;
      case 16:
        m.watchdog = r.bool();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceFailed(m: DeviceFailed, w: Writer): Writer {
  if (m.reason !== '') w.uint32(10).string(m.reason);
  if (m.pinsReleased !== 0) w.uint32(16).uint32(m.pinsReleased);
  return w;
}

export function readDeviceFailed(r: Reader, end: number): DeviceFailed {
  const m: Draft<DeviceFailed> = { reason: '', pinsReleased: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.reason = r.string();
        break;
      case 16:
        m.pinsReleased = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeViolation(m: Violation, w: Writer): Writer {
  if (m.kind !== '') w.uint32(10).string(m.kind);
  if (m.detail !== '') w.uint32(18).string(m.detail);
  if (m.repeats !== 0) w.uint32(24).uint32(m.repeats);
  return w;
}

export function readViolation(r: Reader, end: number): Violation {
  const m: Draft<Violation> = { kind: '', detail: '', repeats: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.kind = r.string();
        break;
      case 18:
        m.detail = r.string();
        break;
      case 24:
        m.repeats = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeAddressSpaceSwitch(m: AddressSpaceSwitch, w: Writer): Writer {
  if (m.from !== '') w.uint32(10).string(m.from);
  if (m.to !== '') w.uint32(18).string(m.to);
  if (m.liveMappings !== 0) w.uint32(24).uint32(m.liveMappings);
  if (m.tookUs !== 0) w.uint32(32).uint64(m.tookUs);
  return w;
}

export function readAddressSpaceSwitch(r: Reader, end: number): AddressSpaceSwitch {
  const m: Draft<AddressSpaceSwitch> = { from: '', to: '', liveMappings: 0, tookUs: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.from = r.string();
        break;
      case 18:
        m.to = r.string();
        break;
      case 24:
        m.liveMappings = r.uint32();
        break;
      case 32:
        m.tookUs = Number(r.uint64());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeFaultRecorded(m: FaultRecorded, w: Writer): Writer {
  if (m.requesterId !== 0) w.uint32(8).uint32(m.requesterId);
  if (m.iova !== 0) w.uint32(16).uint64(m.iova);
  if (m.write !== false) w.uint32(24).bool(m.write);
  if (m.reason !== 0) w.uint32(32).uint32(m.reason);
  if (m.text !== '') w.uint32(42).string(m.text);
  if (m.expected !== false) w.uint32(48).bool(m.expected);
  return w;
}

export function readFaultRecorded(r: Reader, end: number): FaultRecorded {
  const m: Draft<FaultRecorded> = {
    requesterId: 0,
    iova: 0,
    write: false,
    reason: 0,
    text: '',
    expected: false,
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.requesterId = r.uint32();
        break;
      case 16:
        m.iova = Number(r.uint64());
        break;
      case 24:
        m.write = r.bool();
        break;
      case 32:
        m.reason = r.uint32();
        break;
      case 42:
        m.text = r.string();
        break;
      case 48:
        m.expected = r.bool();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeGuestPhase(m: GuestPhase, w: Writer): Writer {
  if (m.name !== '') w.uint32(10).string(m.name);
  return w;
}

export function readGuestPhase(r: Reader, end: number): GuestPhase {
  const m: Draft<GuestPhase> = { name: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.name = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeGuestDone(m: GuestDone, w: Writer): Writer {
  if (m.error !== '') w.uint32(10).string(m.error);
  return w;
}

export function readGuestDone(r: Reader, end: number): GuestDone {
  const m: Draft<GuestDone> = { error: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.error = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeRunRequest(m: RunRequest, w: Writer): Writer {
  if (m.scenario !== '') w.uint32(10).string(m.scenario);
  if (m.process !== 0) w.uint32(16).uint32(m.process);
  if (m.vms.length > 0) {
    w.uint32(26).fork();
    for (const value of m.vms) w.uint32(value);
    w.ldelim();
  }
  if (m.vgpus !== 0) w.uint32(32).uint32(m.vgpus);
  if (m.seed !== 0) w.uint32(40).uint32(m.seed);
  if (m.ramMib !== 0) w.uint32(48).uint32(m.ramMib);
  if (m.timeoutMs !== 0) w.uint32(56).uint32(m.timeoutMs);
  if (m.inject !== '') w.uint32(66).string(m.inject);
  if (m.trace !== '') w.uint32(74).string(m.trace);
  if (m.viommu !== '') w.uint32(82).string(m.viommu);
  if (m.baselineWorkers !== 0) w.uint32(88).uint32(m.baselineWorkers);
  if (m.params !== '') w.uint32(98).string(m.params);
  if (m.mdevs !== undefined) writeMdevs(m.mdevs, w.uint32(106).fork()).ldelim();
  if (m.device !== undefined) writeDeviceChoice(m.device, w.uint32(114).fork()).ldelim();
  if (m.gpu !== undefined) writeGpuSettings(m.gpu, w.uint32(122).fork()).ldelim();
  if (m.migrations !== undefined) writeMigrations(m.migrations, w.uint32(130).fork()).ldelim();
  if (m.folder !== '') w.uint32(138).string(m.folder);
  for (const value of m.vmSettings) writeVmSettings(value, w.uint32(242).fork()).ldelim();
  return w;
}

export function readRunRequest(r: Reader, end: number): RunRequest {
  const vms: number[] = [];
  const vmSettings: VmSettings[] = [];
  const m: Draft<RunRequest> = {
    scenario: '',
    process: 0,
    vms,
    vgpus: 0,
    seed: 0,
    ramMib: 0,
    timeoutMs: 0,
    inject: '',
    trace: '',
    viommu: '',
    baselineWorkers: 0,
    params: '',
    folder: '',
    vmSettings,
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.scenario = r.string();
        break;
      case 16:
        m.process = r.uint32();
        break;
      case 26:
        for (const last = r.uint32() + r.pos; r.pos < last; ) vms.push(r.uint32());
        break;
      case 32:
        m.vgpus = r.uint32();
        break;
      case 40:
        m.seed = r.uint32();
        break;
      case 48:
        m.ramMib = r.uint32();
        break;
      case 56:
        m.timeoutMs = r.uint32();
        break;
      case 66:
        m.inject = r.string();
        break;
      case 74:
        m.trace = r.string();
        break;
      case 82:
        m.viommu = r.string();
        break;
      case 88:
        m.baselineWorkers = r.uint32();
        break;
      case 98:
        m.params = r.string();
        break;
      case 106:
        m.mdevs = readMdevs(r, r.uint32() + r.pos);
        break;
      case 114:
        m.device = readDeviceChoice(r, r.uint32() + r.pos);
        break;
      case 122:
        m.gpu = readGpuSettings(r, r.uint32() + r.pos);
        break;
      case 130:
        m.migrations = readMigrations(r, r.uint32() + r.pos);
        break;
      case 138:
        m.folder = r.string();
        break;
      case 242:
        vmSettings.push(readVmSettings(r, r.uint32() + r.pos));
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeVmSettings(m: VmSettings, w: Writer): Writer {
  if (m.vm !== 0) w.uint32(8).uint32(m.vm);
  if (m.load !== '') w.uint32(18).string(m.load);
  if (m.ramMib !== 0) w.uint32(24).uint32(m.ramMib);
  if (m.viommu !== '') w.uint32(34).string(m.viommu);
  for (const value of m.types) w.uint32(42).string(value);
  if (m.bootUs !== 0) w.uint32(48).uint64(m.bootUs);
  return w;
}

export function readVmSettings(r: Reader, end: number): VmSettings {
  const types: string[] = [];
  const m: Draft<VmSettings> = { vm: 0, load: '', ramMib: 0, viommu: '', types, bootUs: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.vm = r.uint32();
        break;
      case 18:
        m.load = r.string();
        break;
      case 24:
        m.ramMib = r.uint32();
        break;
      case 34:
        m.viommu = r.string();
        break;
      case 42:
        types.push(r.string());
        break;
      case 48:
        m.bootUs = Number(r.uint64());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrations(m: Migrations, w: Writer): Writer {
  for (const value of m.sockets) w.uint32(10).string(value);
  if (m.vmsMax !== 0) w.uint32(16).uint32(m.vmsMax);
  if (m.devicesMax !== 0) w.uint32(24).uint32(m.devicesMax);
  return w;
}

export function readMigrations(r: Reader, end: number): Migrations {
  const sockets: string[] = [];
  const m: Draft<Migrations> = { sockets, vmsMax: 0, devicesMax: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        sockets.push(r.string());
        break;
      case 16:
        m.vmsMax = r.uint32();
        break;
      case 24:
        m.devicesMax = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeGpuSettings(m: GpuSettings, w: Writer): Writer {
  if (m.policy !== '') w.uint32(10).string(m.policy);
  if (m.sliceUs !== 0) w.uint32(16).uint32(m.sliceUs);
  for (const value of m.types) w.uint32(26).string(value);
  return w;
}

export function readGpuSettings(r: Reader, end: number): GpuSettings {
  const types: string[] = [];
  const m: Draft<GpuSettings> = { policy: '', sliceUs: 0, types };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.policy = r.string();
        break;
      case 16:
        m.sliceUs = r.uint32();
        break;
      case 26:
        types.push(r.string());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceChoice(m: DeviceChoice, w: Writer): Writer {
  if (m.model !== '') w.uint32(10).string(m.model);
  if (m.timeoutMs !== 0) w.uint32(16).uint32(m.timeoutMs);
  if (m.source !== '') w.uint32(26).string(m.source);
  return w;
}

export function readDeviceChoice(r: Reader, end: number): DeviceChoice {
  const m: Draft<DeviceChoice> = { model: '', timeoutMs: 0, source: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.model = r.string();
        break;
      case 16:
        m.timeoutMs = r.uint32();
        break;
      case 26:
        m.source = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMdevs(m: Mdevs, w: Writer): Writer {
  for (const value of m.instances) writeMdev(value, w.uint32(10).fork()).ldelim();
  return w;
}

export function readMdevs(r: Reader, end: number): Mdevs {
  const instances: Mdev[] = [];
  const m: Draft<Mdevs> = { instances };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        instances.push(readMdev(r, r.uint32() + r.pos));
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMdev(m: Mdev, w: Writer): Writer {
  if (m.vm !== 0) w.uint32(8).uint32(m.vm);
  if (m.uuid !== '') w.uint32(18).string(m.uuid);
  if (m.parent !== '') w.uint32(26).string(m.parent);
  if (m.type !== '') w.uint32(34).string(m.type);
  return w;
}

export function readMdev(r: Reader, end: number): Mdev {
  const m: Draft<Mdev> = { vm: 0, uuid: '', parent: '', type: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.vm = r.uint32();
        break;
      case 18:
        m.uuid = r.string();
        break;
      case 26:
        m.parent = r.string();
        break;
      case 34:
        m.type = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeHostReady(m: HostReady, w: Writer): Writer {
  if (m.pid !== 0) w.uint32(8).uint32(m.pid);
  return w;
}

export function readHostReady(r: Reader, end: number): HostReady {
  const m: Draft<HostReady> = { pid: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.pid = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeProgress(m: Progress, w: Writer): Writer {
  if (m.devicesReady !== 0) w.uint32(8).uint32(m.devicesReady);
  if (m.vmsDone !== 0) w.uint32(16).uint32(m.vmsDone);
  if (m.operations !== 0) w.uint32(24).uint64(m.operations);
  if (m.bytesVerified !== 0) w.uint32(32).uint64(m.bytesVerified);
  if (m.phase !== '') w.uint32(42).string(m.phase);
  return w;
}

export function readProgress(r: Reader, end: number): Progress {
  const m: Draft<Progress> = { devicesReady: 0, vmsDone: 0, operations: 0, bytesVerified: 0, phase: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.devicesReady = r.uint32();
        break;
      case 16:
        m.vmsDone = r.uint32();
        break;
      case 24:
        m.operations = Number(r.uint64());
        break;
      case 32:
        m.bytesVerified = Number(r.uint64());
        break;
      case 42:
        m.phase = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeHistogram(m: Histogram, w: Writer): Writer {
  if (m.name !== '') w.uint32(10).string(m.name);
  if (m.data.length > 0) w.uint32(18).bytes(m.data);
  return w;
}

export function readHistogram(r: Reader, end: number): Histogram {
  const m: Draft<Histogram> = { name: '', data: NO_BYTES };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.name = r.string();
        break;
      case 18:
        m.data = r.bytes();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeVmResult(m: VmResult, w: Writer): Writer {
  if (m.operations !== 0) w.uint32(8).uint64(m.operations);
  if (m.bytesVerified !== 0) w.uint32(16).uint64(m.bytesVerified);
  if (m.mismatches !== 0) w.uint32(24).uint64(m.mismatches);
  for (const value of m.failures) w.uint32(34).string(value);
  if (m.faultsExpected !== 0) w.uint32(40).uint32(m.faultsExpected);
  if (m.faultsUnexpected !== 0) w.uint32(48).uint32(m.faultsUnexpected);
  for (const value of m.violations) writeViolation(value, w.uint32(58).fork()).ldelim();
  for (const value of m.histograms) writeHistogram(value, w.uint32(66).fork()).ldelim();
  for (const value of m.failedDevices) w.uint32(74).string(value);
  if (m.scriptError !== '') w.uint32(82).string(m.scriptError);
  if (m.maps !== 0) w.uint32(88).uint64(m.maps);
  if (m.unmaps !== 0) w.uint32(96).uint64(m.unmaps);
  if (m.switches !== 0) w.uint32(104).uint32(m.switches);
  if (m.audits !== 0) w.uint32(112).uint32(m.audits);
  if (m.devices !== undefined) writeDeviceReport(m.devices, w.uint32(122).fork()).ldelim();
  for (const value of m.notes) w.uint32(130).string(value);
  if (m.moved !== false) w.uint32(136).bool(m.moved);
  if (m.checksFailed !== 0) w.uint32(144).uint64(m.checksFailed);
  if (m.notesCut !== 0) w.uint32(152).uint64(m.notesCut);
  if (m.interrupted !== false) w.uint32(160).bool(m.interrupted);
  for (const value of m.vgpus) writeVgpuResult(value, w.uint32(170).fork()).ldelim();
  if (m.lost !== '') w.uint32(178).string(m.lost);
  return w;
}

export function readVmResult(r: Reader, end: number): VmResult {
  const failures: string[] = [];
  const violations: Violation[] = [];
  const histograms: Histogram[] = [];
  const failedDevices: string[] = [];
  const notes: string[] = [];
  const vgpus: VgpuResult[] = [];
  const m: Draft<VmResult> = {
    operations: 0,
    bytesVerified: 0,
    mismatches: 0,
    failures,
    faultsExpected: 0,
    faultsUnexpected: 0,
    violations,
    histograms,
    failedDevices,
    scriptError: '',
    maps: 0,
    unmaps: 0,
    switches: 0,
    audits: 0,
    notes,
    moved: false,
    checksFailed: 0,
    notesCut: 0,
    interrupted: false,
    vgpus,
    lost: '',
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.operations = Number(r.uint64());
        break;
      case 16:
        m.bytesVerified = Number(r.uint64());
        break;
      case 24:
        m.mismatches = Number(r.uint64());
        break;
      case 34:
        failures.push(r.string());
        break;
      case 40:
        m.faultsExpected = r.uint32();
        break;
      case 48:
        m.faultsUnexpected = r.uint32();
        break;
      case 58:
        violations.push(readViolation(r, r.uint32() + r.pos));
        break;
      case 66:
        histograms.push(readHistogram(r, r.uint32() + r.pos));
        break;
      case 74:
        failedDevices.push(r.string());
        break;
      case 82:
        m.scriptError = r.string();
        break;
      case 88:
        m.maps = Number(r.uint64());
        break;
      case 96:
        m.unmaps = Number(r.uint64());
        break;
      case 104:
        m.switches = r.uint32();
        break;
      case 112:
        m.audits = r.uint32();
        break;
      case 122:
        m.devices = readDeviceReport(r, r.uint32() + r.pos);
        break;
      case 130:
        notes.push(r.string());
        break;
      case 136:
        m.moved = r.bool();
        break;
      case 144:
        m.checksFailed = Number(r.uint64());
        break;
      case 152:
        m.notesCut = Number(r.uint64());
        break;
      case 160:
        m.interrupted = r.bool();
        break;
      case 170:
        vgpus.push(readVgpuResult(r, r.uint32() + r.pos));
        break;
      case 178:
        m.lost = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeVgpuResult(m: VgpuResult, w: Writer): Writer {
  if (m.name !== '') w.uint32(10).string(m.name);
  if (m.model !== '') w.uint32(18).string(m.model);
  if (m.type !== '') w.uint32(26).string(m.type);
  if (m.gpu !== 0) w.uint32(32).uint32(m.gpu);
  if (m.sharePpm !== 0) w.uint32(40).uint32(m.sharePpm);
  if (m.operations !== 0) w.uint32(48).uint64(m.operations);
  if (m.busyUs !== 0) w.uint32(56).uint64(m.busyUs);
  if (m.waitedUs !== 0) w.uint32(64).uint64(m.waitedUs);
  if (m.preemptions !== 0) w.uint32(72).uint32(m.preemptions);
  if (m.clockUs !== 0) w.uint32(80).uint64(m.clockUs);
  for (const value of m.histograms) writeHistogram(value, w.uint32(90).fork()).ldelim();
  if (m.report !== undefined) writeDeviceReport(m.report, w.uint32(98).fork()).ldelim();
  if (m.failure !== '') w.uint32(106).string(m.failure);
  return w;
}

export function readVgpuResult(r: Reader, end: number): VgpuResult {
  const histograms: Histogram[] = [];
  const m: Draft<VgpuResult> = {
    name: '',
    model: '',
    type: '',
    gpu: 0,
    sharePpm: 0,
    operations: 0,
    busyUs: 0,
    waitedUs: 0,
    preemptions: 0,
    clockUs: 0,
    histograms,
    failure: '',
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.name = r.string();
        break;
      case 18:
        m.model = r.string();
        break;
      case 26:
        m.type = r.string();
        break;
      case 32:
        m.gpu = r.uint32();
        break;
      case 40:
        m.sharePpm = r.uint32();
        break;
      case 48:
        m.operations = Number(r.uint64());
        break;
      case 56:
        m.busyUs = Number(r.uint64());
        break;
      case 64:
        m.waitedUs = Number(r.uint64());
        break;
      case 72:
        m.preemptions = r.uint32();
        break;
      case 80:
        m.clockUs = Number(r.uint64());
        break;
      case 90:
        histograms.push(readHistogram(r, r.uint32() + r.pos));
        break;
      case 98:
        m.report = readDeviceReport(r, r.uint32() + r.pos);
        break;
      case 106:
        m.failure = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeHostResult(m: HostResult, w: Writer): Writer {
  if (m.rssBefore !== 0) w.uint32(8).uint64(m.rssBefore);
  if (m.rssReady !== 0) w.uint32(16).uint64(m.rssReady);
  if (m.devices !== 0) w.uint32(24).uint32(m.devices);
  if (m.guests !== 0) w.uint32(32).uint32(m.guests);
  if (m.devicesStartUs !== 0) w.uint32(40).uint64(m.devicesStartUs);
  if (m.devicesRss !== 0) w.uint32(48).uint64(m.devicesRss);
  if (m.baselineWorkers !== 0) w.uint32(56).uint32(m.baselineWorkers);
  if (m.baselineStartUs !== 0) w.uint32(64).uint64(m.baselineStartUs);
  if (m.baselineRss !== 0) w.uint32(72).uint64(m.baselineRss);
  if (m.traceFrames !== 0) w.uint32(80).uint64(m.traceFrames);
  if (m.traceDropped !== 0) w.uint32(88).uint64(m.traceDropped);
  if (m.traceError !== '') w.uint32(98).string(m.traceError);
  return w;
}

export function readHostResult(r: Reader, end: number): HostResult {
  const m: Draft<HostResult> = {
    rssBefore: 0,
    rssReady: 0,
    devices: 0,
    guests: 0,
    devicesStartUs: 0,
    devicesRss: 0,
    baselineWorkers: 0,
    baselineStartUs: 0,
    baselineRss: 0,
    traceFrames: 0,
    traceDropped: 0,
    traceError: '',
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.rssBefore = Number(r.uint64());
        break;
      case 16:
        m.rssReady = Number(r.uint64());
        break;
      case 24:
        m.devices = r.uint32();
        break;
      case 32:
        m.guests = r.uint32();
        break;
      case 40:
        m.devicesStartUs = Number(r.uint64());
        break;
      case 48:
        m.devicesRss = Number(r.uint64());
        break;
      case 56:
        m.baselineWorkers = r.uint32();
        break;
      case 64:
        m.baselineStartUs = Number(r.uint64());
        break;
      case 72:
        m.baselineRss = Number(r.uint64());
        break;
      case 80:
        m.traceFrames = Number(r.uint64());
        break;
      case 88:
        m.traceDropped = Number(r.uint64());
        break;
      case 98:
        m.traceError = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeRunAbort(m: RunAbort, w: Writer): Writer {
  if (m.reason !== '') w.uint32(10).string(m.reason);
  return w;
}

export function readRunAbort(r: Reader, end: number): RunAbort {
  const m: Draft<RunAbort> = { reason: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.reason = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceRequest(m: DeviceRequest, w: Writer): Writer {
  if (m.uuid !== '') w.uint32(10).string(m.uuid);
  return w;
}

export function readDeviceRequest(r: Reader, end: number): DeviceRequest {
  const m: Draft<DeviceRequest> = { uuid: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.uuid = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceReleased(_m: DeviceReleased, w: Writer): Writer {
  return w;
}

export function readDeviceReleased(r: Reader, end: number): DeviceReleased {
  const m: Draft<DeviceReleased> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeRunEnd(_m: RunEnd, w: Writer): Writer {
  return w;
}

export function readRunEnd(r: Reader, end: number): RunEnd {
  const m: Draft<RunEnd> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeVmArrived(_m: VmArrived, w: Writer): Writer {
  return w;
}

export function readVmArrived(r: Reader, end: number): VmArrived {
  const m: Draft<VmArrived> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeVmBooted(_m: VmBooted, w: Writer): Writer {
  return w;
}

export function readVmBooted(r: Reader, end: number): VmBooted {
  const m: Draft<VmBooted> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeLoadStart(m: LoadStart, w: Writer): Writer {
  if (m.startUs !== 0) w.uint32(8).uint64(m.startUs);
  return w;
}

export function readLoadStart(r: Reader, end: number): LoadStart {
  const m: Draft<LoadStart> = { startUs: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.startUs = Number(r.uint64());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeLoadStop(m: LoadStop, w: Writer): Writer {
  if (m.reason !== '') w.uint32(10).string(m.reason);
  return w;
}

export function readLoadStop(r: Reader, end: number): LoadStop {
  const m: Draft<LoadStop> = { reason: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.reason = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeVmAct(m: VmAct, w: Writer): Writer {
  if (m.action !== '') w.uint32(10).string(m.action);
  if (m.event !== 0) w.uint32(16).uint32(m.event);
  if (m.to !== 0) w.uint32(24).uint32(m.to);
  if (m.clearRam !== false) w.uint32(32).bool(m.clearRam);
  if (m.isLast !== false) w.uint32(40).bool(m.isLast);
  if (m.stopsDevices !== false) w.uint32(48).bool(m.stopsDevices);
  return w;
}

export function readVmAct(r: Reader, end: number): VmAct {
  const m: Draft<VmAct> = {
    action: '',
    event: 0,
    to: 0,
    clearRam: false,
    isLast: false,
    stopsDevices: false,
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.action = r.string();
        break;
      case 16:
        m.event = r.uint32();
        break;
      case 24:
        m.to = r.uint32();
        break;
      case 32:
        m.clearRam = r.bool();
        break;
      case 40:
        m.isLast = r.bool();
        break;
      case 48:
        m.stopsDevices = r.bool();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeVmActDone(m: VmActDone, w: Writer): Writer {
  if (m.event !== 0) w.uint32(8).uint32(m.event);
  if (m.error !== '') w.uint32(18).string(m.error);
  return w;
}

export function readVmActDone(r: Reader, end: number): VmActDone {
  const m: Draft<VmActDone> = { event: 0, error: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.event = r.uint32();
        break;
      case 18:
        m.error = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeVmMetrics(m: VmMetrics, w: Writer): Writer {
  if (m.second !== 0) w.uint32(8).uint32(m.second);
  for (const value of m.changes) writeMetricChange(value, w.uint32(18).fork()).ldelim();
  if (m.engineUse.length > 0) {
    w.uint32(26).fork();
    for (const value of m.engineUse) w.uint64(value);
    w.ldelim();
  }
  for (const value of m.iterations) writeIterationSpan(value, w.uint32(34).fork()).ldelim();
  return w;
}

export function readVmMetrics(r: Reader, end: number): VmMetrics {
  const changes: MetricChange[] = [];
  const engineUse: number[] = [];
  const iterations: IterationSpan[] = [];
  const m: Draft<VmMetrics> = { second: 0, changes, engineUse, iterations };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.second = r.uint32();
        break;
      case 18:
        changes.push(readMetricChange(r, r.uint32() + r.pos));
        break;
      case 26:
        for (const last = r.uint32() + r.pos; r.pos < last; ) engineUse.push(Number(r.uint64()));
        break;
      case 34:
        iterations.push(readIterationSpan(r, r.uint32() + r.pos));
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeIterationSpan(m: IterationSpan, w: Writer): Writer {
  if (m.vgpu !== 0) w.uint32(8).uint32(m.vgpu);
  if (m.stage !== '') w.uint32(18).string(m.stage);
  if (m.workload !== '') w.uint32(26).string(m.workload);
  if (m.vu !== 0) w.uint32(32).uint32(m.vu);
  if (m.startUs !== 0) w.uint32(40).uint64(m.startUs);
  if (m.tookUs !== 0) w.uint32(48).uint64(m.tookUs);
  return w;
}

export function readIterationSpan(r: Reader, end: number): IterationSpan {
  const m: Draft<IterationSpan> = { vgpu: 0, stage: '', workload: '', vu: 0, startUs: 0, tookUs: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.vgpu = r.uint32();
        break;
      case 18:
        m.stage = r.string();
        break;
      case 26:
        m.workload = r.string();
        break;
      case 32:
        m.vu = r.uint32();
        break;
      case 40:
        m.startUs = Number(r.uint64());
        break;
      case 48:
        m.tookUs = Number(r.uint64());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMetricChange(m: MetricChange, w: Writer): Writer {
  if (m.name !== '') w.uint32(10).string(m.name);
  if (m.type !== 0) w.uint32(16).uint32(m.type);
  if (m.unit !== '') w.uint32(26).string(m.unit);
  for (const value of m.tags) w.uint32(34).string(value);
  if (m.count !== 0) w.uint32(40).uint64(m.count);
  if (m.sum !== 0) w.uint32(49).double(m.sum);
  if (m.min !== 0) w.uint32(57).double(m.min);
  if (m.max !== 0) w.uint32(65).double(m.max);
  if (m.last !== 0) w.uint32(73).double(m.last);
  if (m.buckets.length > 0) {
    w.uint32(82).fork();
    for (const value of m.buckets) w.uint32(value);
    w.ldelim();
  }
  if (m.counts.length > 0) {
    w.uint32(90).fork();
    for (const value of m.counts) w.uint64(value);
    w.ldelim();
  }
  return w;
}

export function readMetricChange(r: Reader, end: number): MetricChange {
  const tags: string[] = [];
  const buckets: number[] = [];
  const counts: number[] = [];
  const m: Draft<MetricChange> = {
    name: '',
    type: 0,
    unit: '',
    tags,
    count: 0,
    sum: 0,
    min: 0,
    max: 0,
    last: 0,
    buckets,
    counts,
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.name = r.string();
        break;
      case 16:
        m.type = r.uint32();
        break;
      case 26:
        m.unit = r.string();
        break;
      case 34:
        tags.push(r.string());
        break;
      case 40:
        m.count = Number(r.uint64());
        break;
      case 49:
        m.sum = r.double();
        break;
      case 57:
        m.min = r.double();
        break;
      case 65:
        m.max = r.double();
        break;
      case 73:
        m.last = r.double();
        break;
      case 82:
        for (const last = r.uint32() + r.pos; r.pos < last; ) buckets.push(r.uint32());
        break;
      case 90:
        for (const last = r.uint32() + r.pos; r.pos < last; ) counts.push(Number(r.uint64()));
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeVmAddressSpaces(m: VmAddressSpaces, w: Writer): Writer {
  for (const value of m.devices) writeAddressSpaceChange(value, w.uint32(10).fork()).ldelim();
  return w;
}

export function readVmAddressSpaces(r: Reader, end: number): VmAddressSpaces {
  const devices: AddressSpaceChange[] = [];
  const m: Draft<VmAddressSpaces> = { devices };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        devices.push(readAddressSpaceChange(r, r.uint32() + r.pos));
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeAddressSpaceChange(m: AddressSpaceChange, w: Writer): Writer {
  if (m.device !== 0) w.uint32(8).uint32(m.device);
  for (const value of m.segments) writeStripSegment(value, w.uint32(18).fork()).ldelim();
  for (const value of m.switches) writeStripSwitch(value, w.uint32(26).fork()).ldelim();
  return w;
}

export function readAddressSpaceChange(r: Reader, end: number): AddressSpaceChange {
  const segments: StripSegment[] = [];
  const switches: StripSwitch[] = [];
  const m: Draft<AddressSpaceChange> = { device: 0, segments, switches };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.device = r.uint32();
        break;
      case 18:
        segments.push(readStripSegment(r, r.uint32() + r.pos));
        break;
      case 26:
        switches.push(readStripSwitch(r, r.uint32() + r.pos));
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeStripSegment(m: StripSegment, w: Writer): Writer {
  if (m.startUs !== 0) w.uint32(8).uint64(m.startUs);
  if (m.us !== 0) w.uint32(16).uint64(m.us);
  if (m.gpaUs !== 0) w.uint32(24).uint64(m.gpaUs);
  if (m.gpaBytes !== 0) w.uint32(32).uint64(m.gpaBytes);
  if (m.iovaUs !== 0) w.uint32(40).uint64(m.iovaUs);
  if (m.iovaBytes !== 0) w.uint32(48).uint64(m.iovaBytes);
  if (m.switches !== 0) w.uint32(56).uint32(m.switches);
  return w;
}

export function readStripSegment(r: Reader, end: number): StripSegment {
  const m: Draft<StripSegment> = {
    startUs: 0,
    us: 0,
    gpaUs: 0,
    gpaBytes: 0,
    iovaUs: 0,
    iovaBytes: 0,
    switches: 0,
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.startUs = Number(r.uint64());
        break;
      case 16:
        m.us = Number(r.uint64());
        break;
      case 24:
        m.gpaUs = Number(r.uint64());
        break;
      case 32:
        m.gpaBytes = Number(r.uint64());
        break;
      case 40:
        m.iovaUs = Number(r.uint64());
        break;
      case 48:
        m.iovaBytes = Number(r.uint64());
        break;
      case 56:
        m.switches = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeStripSwitch(m: StripSwitch, w: Writer): Writer {
  if (m.from !== '') w.uint32(10).string(m.from);
  if (m.to !== '') w.uint32(18).string(m.to);
  if (m.startUs !== 0) w.uint32(24).uint64(m.startUs);
  if (m.removedUs !== 0) w.uint32(32).uint64(m.removedUs);
  if (m.tookUs !== 0) w.uint32(40).uint64(m.tookUs);
  if (m.bytesBefore !== 0) w.uint32(48).uint64(m.bytesBefore);
  if (m.bytesAfter !== 0) w.uint32(56).uint64(m.bytesAfter);
  return w;
}

export function readStripSwitch(r: Reader, end: number): StripSwitch {
  const m: Draft<StripSwitch> = {
    from: '',
    to: '',
    startUs: 0,
    removedUs: 0,
    tookUs: 0,
    bytesBefore: 0,
    bytesAfter: 0,
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.from = r.string();
        break;
      case 18:
        m.to = r.string();
        break;
      case 24:
        m.startUs = Number(r.uint64());
        break;
      case 32:
        m.removedUs = Number(r.uint64());
        break;
      case 40:
        m.tookUs = Number(r.uint64());
        break;
      case 48:
        m.bytesBefore = Number(r.uint64());
        break;
      case 56:
        m.bytesAfter = Number(r.uint64());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeScreenshotRequest(m: ScreenshotRequest, w: Writer): Writer {
  if (m.id !== 0) w.uint32(8).uint32(m.id);
  return w;
}

export function readScreenshotRequest(r: Reader, end: number): ScreenshotRequest {
  const m: Draft<ScreenshotRequest> = { id: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.id = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeScreenshot(m: Screenshot, w: Writer): Writer {
  if (m.id !== 0) w.uint32(8).uint32(m.id);
  if (m.png.length > 0) w.uint32(18).bytes(m.png);
  if (m.error !== '') w.uint32(26).string(m.error);
  return w;
}

export function readScreenshot(r: Reader, end: number): Screenshot {
  const m: Draft<Screenshot> = { id: 0, png: NO_BYTES, error: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.id = r.uint32();
        break;
      case 18:
        m.png = r.bytes();
        break;
      case 26:
        m.error = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceReset(_m: DeviceReset, w: Writer): Writer {
  return w;
}

export function readDeviceReset(r: Reader, end: number): DeviceReset {
  const m: Draft<DeviceReset> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceResetDone(_m: DeviceResetDone, w: Writer): Writer {
  return w;
}

export function readDeviceResetDone(r: Reader, end: number): DeviceResetDone {
  const m: Draft<DeviceResetDone> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceStateSet(m: DeviceStateSet, w: Writer): Writer {
  if (m.state !== 0) w.uint32(8).uint32(m.state);
  return w;
}

export function readDeviceStateSet(r: Reader, end: number): DeviceStateSet {
  const m: Draft<DeviceStateSet> = { state: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.state = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceStateChanged(m: DeviceStateChanged, w: Writer): Writer {
  if (m.state !== 0) w.uint32(8).uint32(m.state);
  if (m.error !== '') w.uint32(18).string(m.error);
  return w;
}

export function readDeviceStateChanged(r: Reader, end: number): DeviceStateChanged {
  const m: Draft<DeviceStateChanged> = { state: 0, error: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.state = r.uint32();
        break;
      case 18:
        m.error = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceDataRead(m: DeviceDataRead, w: Writer): Writer {
  if (m.maxBytes !== 0) w.uint32(8).uint32(m.maxBytes);
  return w;
}

export function readDeviceDataRead(r: Reader, end: number): DeviceDataRead {
  const m: Draft<DeviceDataRead> = { maxBytes: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.maxBytes = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceData(m: DeviceData, w: Writer): Writer {
  if (m.data.length > 0) w.uint32(10).bytes(m.data);
  if (m.end !== false) w.uint32(16).bool(m.end);
  if (m.initialBytes !== 0) w.uint32(24).uint64(m.initialBytes);
  if (m.dirtyBytes !== 0) w.uint32(32).uint64(m.dirtyBytes);
  if (m.error !== '') w.uint32(42).string(m.error);
  return w;
}

export function readDeviceData(r: Reader, end: number): DeviceData {
  const m: Draft<DeviceData> = { data: NO_BYTES, end: false, initialBytes: 0, dirtyBytes: 0, error: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.data = r.bytes();
        break;
      case 16:
        m.end = r.bool();
        break;
      case 24:
        m.initialBytes = Number(r.uint64());
        break;
      case 32:
        m.dirtyBytes = Number(r.uint64());
        break;
      case 42:
        m.error = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceDataWrite(m: DeviceDataWrite, w: Writer): Writer {
  if (m.data.length > 0) w.uint32(10).bytes(m.data);
  return w;
}

export function readDeviceDataWrite(r: Reader, end: number): DeviceDataWrite {
  const m: Draft<DeviceDataWrite> = { data: NO_BYTES };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.data = r.bytes();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceDataWritten(m: DeviceDataWritten, w: Writer): Writer {
  if (m.error !== '') w.uint32(10).string(m.error);
  return w;
}

export function readDeviceDataWritten(r: Reader, end: number): DeviceDataWritten {
  const m: Draft<DeviceDataWritten> = { error: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.error = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceStateRecord(m: DeviceStateRecord, w: Writer): Writer {
  if (m.header !== undefined) writeDeviceStateHeader(m.header, w.uint32(10).fork()).ldelim();
  if (m.memory !== undefined) writeDeviceMemoryPages(m.memory, w.uint32(18).fork()).ldelim();
  if (m.registers !== undefined) writeRegisterValues(m.registers, w.uint32(26).fork()).ldelim();
  if (m.model !== undefined) writeDeviceModelState(m.model, w.uint32(34).fork()).ldelim();
  if (m.end !== undefined) writeDeviceStateEnd(m.end, w.uint32(42).fork()).ldelim();
  return w;
}

export function readDeviceStateRecord(r: Reader, end: number): DeviceStateRecord {
  const m: Draft<DeviceStateRecord> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.header = readDeviceStateHeader(r, r.uint32() + r.pos);
        break;
      case 18:
        m.memory = readDeviceMemoryPages(r, r.uint32() + r.pos);
        break;
      case 26:
        m.registers = readRegisterValues(r, r.uint32() + r.pos);
        break;
      case 34:
        m.model = readDeviceModelState(r, r.uint32() + r.pos);
        break;
      case 42:
        m.end = readDeviceStateEnd(r, r.uint32() + r.pos);
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceStateHeader(m: DeviceStateHeader, w: Writer): Writer {
  if (m.version !== 0) w.uint32(8).uint32(m.version);
  if (m.vendorId !== 0) w.uint32(16).uint32(m.vendorId);
  if (m.deviceId !== 0) w.uint32(24).uint32(m.deviceId);
  if (m.subsystemVendorId !== 0) w.uint32(32).uint32(m.subsystemVendorId);
  if (m.subsystemId !== 0) w.uint32(40).uint32(m.subsystemId);
  if (m.modelVersion !== 0) w.uint32(48).uint32(m.modelVersion);
  return w;
}

export function readDeviceStateHeader(r: Reader, end: number): DeviceStateHeader {
  const m: Draft<DeviceStateHeader> = {
    version: 0,
    vendorId: 0,
    deviceId: 0,
    subsystemVendorId: 0,
    subsystemId: 0,
    modelVersion: 0,
  };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.version = r.uint32();
        break;
      case 16:
        m.vendorId = r.uint32();
        break;
      case 24:
        m.deviceId = r.uint32();
        break;
      case 32:
        m.subsystemVendorId = r.uint32();
        break;
      case 40:
        m.subsystemId = r.uint32();
        break;
      case 48:
        m.modelVersion = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceMemoryPages(m: DeviceMemoryPages, w: Writer): Writer {
  if (m.memory !== '') w.uint32(10).string(m.memory);
  if (m.offset !== 0) w.uint32(16).uint64(m.offset);
  if (m.data.length > 0) w.uint32(26).bytes(m.data);
  if (m.zeroBytes !== 0) w.uint32(32).uint64(m.zeroBytes);
  return w;
}

export function readDeviceMemoryPages(r: Reader, end: number): DeviceMemoryPages {
  const m: Draft<DeviceMemoryPages> = { memory: '', offset: 0, data: NO_BYTES, zeroBytes: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.memory = r.string();
        break;
      case 16:
        m.offset = Number(r.uint64());
        break;
      case 26:
        m.data = r.bytes();
        break;
      case 32:
        m.zeroBytes = Number(r.uint64());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeRegisterValues(m: RegisterValues, w: Writer): Writer {
  if (m.file !== '') w.uint32(10).string(m.file);
  for (const value of m.values) writeRegisterValue(value, w.uint32(18).fork()).ldelim();
  return w;
}

export function readRegisterValues(r: Reader, end: number): RegisterValues {
  const values: RegisterValue[] = [];
  const m: Draft<RegisterValues> = { file: '', values };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.file = r.string();
        break;
      case 18:
        values.push(readRegisterValue(r, r.uint32() + r.pos));
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeRegisterValue(m: RegisterValue, w: Writer): Writer {
  if (m.name !== '') w.uint32(10).string(m.name);
  if (m.low !== 0) w.uint32(16).uint32(m.low);
  if (m.high !== 0) w.uint32(24).uint32(m.high);
  return w;
}

export function readRegisterValue(r: Reader, end: number): RegisterValue {
  const m: Draft<RegisterValue> = { name: '', low: 0, high: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.name = r.string();
        break;
      case 16:
        m.low = r.uint32();
        break;
      case 24:
        m.high = r.uint32();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceModelState(m: DeviceModelState, w: Writer): Writer {
  if (m.state.length > 0) w.uint32(10).bytes(m.state);
  return w;
}

export function readDeviceModelState(r: Reader, end: number): DeviceModelState {
  const m: Draft<DeviceModelState> = { state: NO_BYTES };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.state = r.bytes();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceStateEnd(_m: DeviceStateEnd, w: Writer): Writer {
  return w;
}

export function readDeviceStateEnd(r: Reader, end: number): DeviceStateEnd {
  const m: Draft<DeviceStateEnd> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeEncodedState(m: EncodedState, w: Writer): Writer {
  if (m.kind !== '') w.uint32(10).string(m.kind);
  if (m.version !== 0) w.uint32(16).uint32(m.version);
  for (const value of m.fields) writeStateField(value, w.uint32(26).fork()).ldelim();
  return w;
}

export function readEncodedState(r: Reader, end: number): EncodedState {
  const fields: StateField[] = [];
  const m: Draft<EncodedState> = { kind: '', version: 0, fields };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.kind = r.string();
        break;
      case 16:
        m.version = r.uint32();
        break;
      case 26:
        fields.push(readStateField(r, r.uint32() + r.pos));
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeStateField(m: StateField, w: Writer): Writer {
  if (m.name !== '') w.uint32(10).string(m.name);
  if (m.type !== '') w.uint32(18).string(m.type);
  if (m.data.length > 0) w.uint32(26).bytes(m.data);
  return w;
}

export function readStateField(r: Reader, end: number): StateField {
  const m: Draft<StateField> = { name: '', type: '', data: NO_BYTES };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.name = r.string();
        break;
      case 18:
        m.type = r.string();
        break;
      case 26:
        m.data = r.bytes();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrationStart(m: MigrationStart, w: Writer): Writer {
  if (m.version !== 0) w.uint32(8).uint32(m.version);
  if (m.config !== '') w.uint32(18).string(m.config);
  return w;
}

export function readMigrationStart(r: Reader, end: number): MigrationStart {
  const m: Draft<MigrationStart> = { version: 0, config: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.version = r.uint32();
        break;
      case 18:
        m.config = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrationReady(_m: MigrationReady, w: Writer): Writer {
  return w;
}

export function readMigrationReady(r: Reader, end: number): MigrationReady {
  const m: Draft<MigrationReady> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeRamPages(m: RamPages, w: Writer): Writer {
  if (m.gpa !== 0) w.uint32(8).uint64(m.gpa);
  if (m.data.length > 0) w.uint32(18).bytes(m.data);
  if (m.compare !== false) w.uint32(24).bool(m.compare);
  return w;
}

export function readRamPages(r: Reader, end: number): RamPages {
  const m: Draft<RamPages> = { gpa: 0, data: NO_BYTES, compare: false };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.gpa = Number(r.uint64());
        break;
      case 18:
        m.data = r.bytes();
        break;
      case 24:
        m.compare = r.bool();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeZeroPages(m: ZeroPages, w: Writer): Writer {
  if (m.gpa !== 0) w.uint32(8).uint64(m.gpa);
  if (m.bytes !== 0) w.uint32(16).uint64(m.bytes);
  if (m.compare !== false) w.uint32(24).bool(m.compare);
  return w;
}

export function readZeroPages(r: Reader, end: number): ZeroPages {
  const m: Draft<ZeroPages> = { gpa: 0, bytes: 0, compare: false };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.gpa = Number(r.uint64());
        break;
      case 16:
        m.bytes = Number(r.uint64());
        break;
      case 24:
        m.compare = r.bool();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeDeviceStream(m: DeviceStream, w: Writer): Writer {
  if (m.data.length > 0) w.uint32(10).bytes(m.data);
  if (m.end !== false) w.uint32(16).bool(m.end);
  if (m.interrupts.length > 0) {
    w.uint32(26).fork();
    for (const value of m.interrupts) w.uint32(value);
    w.ldelim();
  }
  return w;
}

export function readDeviceStream(r: Reader, end: number): DeviceStream {
  const interrupts: number[] = [];
  const m: Draft<DeviceStream> = { data: NO_BYTES, end: false, interrupts };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.data = r.bytes();
        break;
      case 16:
        m.end = r.bool();
        break;
      case 26:
        for (const last = r.uint32() + r.pos; r.pos < last; ) interrupts.push(r.uint32());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeIommuState(m: IommuState, w: Writer): Writer {
  if (m.state.length > 0) w.uint32(10).bytes(m.state);
  return w;
}

export function readIommuState(r: Reader, end: number): IommuState {
  const m: Draft<IommuState> = { state: NO_BYTES };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.state = r.bytes();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeGuestState(m: GuestState, w: Writer): Writer {
  if (m.state.length > 0) w.uint32(10).bytes(m.state);
  return w;
}

export function readGuestState(r: Reader, end: number): GuestState {
  const m: Draft<GuestState> = { state: NO_BYTES };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.state = r.bytes();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrationLoad(m: MigrationLoad, w: Writer): Writer {
  if (m.expectations !== '') w.uint32(10).string(m.expectations);
  return w;
}

export function readMigrationLoad(r: Reader, end: number): MigrationLoad {
  const m: Draft<MigrationLoad> = { expectations: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.expectations = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrationLoaded(_m: MigrationLoaded, w: Writer): Writer {
  return w;
}

export function readMigrationLoaded(r: Reader, end: number): MigrationLoaded {
  const m: Draft<MigrationLoaded> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrationCompare(_m: MigrationCompare, w: Writer): Writer {
  return w;
}

export function readMigrationCompare(r: Reader, end: number): MigrationCompare {
  const m: Draft<MigrationCompare> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrationCompared(m: MigrationCompared, w: Writer): Writer {
  if (m.comparedBytes !== 0) w.uint32(8).uint64(m.comparedBytes);
  if (m.differentBytes !== 0) w.uint32(16).uint64(m.differentBytes);
  if (m.firstDifference !== 0) w.uint32(24).uint64(m.firstDifference);
  return w;
}

export function readMigrationCompared(r: Reader, end: number): MigrationCompared {
  const m: Draft<MigrationCompared> = { comparedBytes: 0, differentBytes: 0, firstDifference: 0 };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 8:
        m.comparedBytes = Number(r.uint64());
        break;
      case 16:
        m.differentBytes = Number(r.uint64());
        break;
      case 24:
        m.firstDifference = Number(r.uint64());
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrationResume(_m: MigrationResume, w: Writer): Writer {
  return w;
}

export function readMigrationResume(r: Reader, end: number): MigrationResume {
  const m: Draft<MigrationResume> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrationRunning(_m: MigrationRunning, w: Writer): Writer {
  return w;
}

export function readMigrationRunning(r: Reader, end: number): MigrationRunning {
  const m: Draft<MigrationRunning> = {};
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

export function writeMigrationFailed(m: MigrationFailed, w: Writer): Writer {
  if (m.reason !== '') w.uint32(10).string(m.reason);
  return w;
}

export function readMigrationFailed(r: Reader, end: number): MigrationFailed {
  const m: Draft<MigrationFailed> = { reason: '' };
  while (r.pos < end) {
    const tag = r.uint32();
    switch (tag) {
      case 10:
        m.reason = r.string();
        break;
      default:
        r.skipType(tag & 7);
    }
  }
  return m;
}

/** Messages that a frame can carry, by the name of their field. */
export interface FrameBodies {
  deviceReady: DeviceReady;
  dmaUnmap: DmaUnmap;
  dmaUnmapDone: DmaUnmapDone;
  dmaFault: DmaFault;
  deviceStop: DeviceStop;
  deviceReport: DeviceReport;
  deviceFailed: DeviceFailed;
  violation: Violation;
  addressSpaceSwitch: AddressSpaceSwitch;
  faultRecorded: FaultRecorded;
  guestPhase: GuestPhase;
  guestDone: GuestDone;
  runRequest: RunRequest;
  hostReady: HostReady;
  progress: Progress;
  vmResult: VmResult;
  hostResult: HostResult;
  runAbort: RunAbort;
  deviceRequest: DeviceRequest;
  deviceReleased: DeviceReleased;
  deviceLog: DeviceLog;
  runEnd: RunEnd;
  vmArrived: VmArrived;
  vmBooted: VmBooted;
  loadStart: LoadStart;
  loadStop: LoadStop;
  vmMetrics: VmMetrics;
  vmAct: VmAct;
  vmActDone: VmActDone;
  vmAddressSpaces: VmAddressSpaces;
  screenshotRequest: ScreenshotRequest;
  screenshot: Screenshot;
  deviceStateSet: DeviceStateSet;
  deviceStateChanged: DeviceStateChanged;
  deviceDataRead: DeviceDataRead;
  deviceData: DeviceData;
  deviceDataWrite: DeviceDataWrite;
  deviceDataWritten: DeviceDataWritten;
  deviceReset: DeviceReset;
  deviceResetDone: DeviceResetDone;
  migrationStart: MigrationStart;
  migrationReady: MigrationReady;
  ramPages: RamPages;
  zeroPages: ZeroPages;
  deviceStream: DeviceStream;
  iommuState: IommuState;
  guestState: GuestState;
  migrationLoad: MigrationLoad;
  migrationLoaded: MigrationLoaded;
  migrationResume: MigrationResume;
  migrationRunning: MigrationRunning;
  migrationFailed: MigrationFailed;
  migrationCompare: MigrationCompare;
  migrationCompared: MigrationCompared;
}

/** Tags of the other fields of a frame. */
export const FRAME_TAGS = { timeUs: 8, process: 16, vm: 24, device: 32 } as const;

/** Codec of each message. */
export const BODY_CODECS: {
  readonly [K in keyof FrameBodies]: BodyCodec<FrameBodies[K]>;
} = {
  deviceReady: { tag: 82, write: writeDeviceReady, read: readDeviceReady },
  dmaUnmap: { tag: 90, write: writeDmaUnmap, read: readDmaUnmap },
  dmaUnmapDone: { tag: 98, write: writeDmaUnmapDone, read: readDmaUnmapDone },
  dmaFault: { tag: 106, write: writeDmaFault, read: readDmaFault },
  deviceStop: { tag: 114, write: writeDeviceStop, read: readDeviceStop },
  deviceReport: { tag: 122, write: writeDeviceReport, read: readDeviceReport },
  deviceFailed: { tag: 130, write: writeDeviceFailed, read: readDeviceFailed },
  violation: { tag: 138, write: writeViolation, read: readViolation },
  addressSpaceSwitch: { tag: 146, write: writeAddressSpaceSwitch, read: readAddressSpaceSwitch },
  faultRecorded: { tag: 154, write: writeFaultRecorded, read: readFaultRecorded },
  guestPhase: { tag: 162, write: writeGuestPhase, read: readGuestPhase },
  guestDone: { tag: 170, write: writeGuestDone, read: readGuestDone },
  runRequest: { tag: 322, write: writeRunRequest, read: readRunRequest },
  hostReady: { tag: 330, write: writeHostReady, read: readHostReady },
  progress: { tag: 338, write: writeProgress, read: readProgress },
  vmResult: { tag: 346, write: writeVmResult, read: readVmResult },
  hostResult: { tag: 354, write: writeHostResult, read: readHostResult },
  runAbort: { tag: 362, write: writeRunAbort, read: readRunAbort },
  deviceRequest: { tag: 370, write: writeDeviceRequest, read: readDeviceRequest },
  deviceReleased: { tag: 378, write: writeDeviceReleased, read: readDeviceReleased },
  deviceLog: { tag: 386, write: writeDeviceLog, read: readDeviceLog },
  runEnd: { tag: 394, write: writeRunEnd, read: readRunEnd },
  vmArrived: { tag: 402, write: writeVmArrived, read: readVmArrived },
  vmBooted: { tag: 434, write: writeVmBooted, read: readVmBooted },
  loadStart: { tag: 442, write: writeLoadStart, read: readLoadStart },
  loadStop: { tag: 450, write: writeLoadStop, read: readLoadStop },
  vmMetrics: { tag: 458, write: writeVmMetrics, read: readVmMetrics },
  vmAct: { tag: 562, write: writeVmAct, read: readVmAct },
  vmActDone: { tag: 570, write: writeVmActDone, read: readVmActDone },
  vmAddressSpaces: { tag: 466, write: writeVmAddressSpaces, read: readVmAddressSpaces },
  screenshotRequest: { tag: 578, write: writeScreenshotRequest, read: readScreenshotRequest },
  screenshot: { tag: 586, write: writeScreenshot, read: readScreenshot },
  deviceStateSet: { tag: 482, write: writeDeviceStateSet, read: readDeviceStateSet },
  deviceStateChanged: { tag: 490, write: writeDeviceStateChanged, read: readDeviceStateChanged },
  deviceDataRead: { tag: 498, write: writeDeviceDataRead, read: readDeviceDataRead },
  deviceData: { tag: 506, write: writeDeviceData, read: readDeviceData },
  deviceDataWrite: { tag: 514, write: writeDeviceDataWrite, read: readDeviceDataWrite },
  deviceDataWritten: { tag: 522, write: writeDeviceDataWritten, read: readDeviceDataWritten },
  deviceReset: { tag: 530, write: writeDeviceReset, read: readDeviceReset },
  deviceResetDone: { tag: 538, write: writeDeviceResetDone, read: readDeviceResetDone },
  migrationStart: { tag: 642, write: writeMigrationStart, read: readMigrationStart },
  migrationReady: { tag: 650, write: writeMigrationReady, read: readMigrationReady },
  ramPages: { tag: 658, write: writeRamPages, read: readRamPages },
  zeroPages: { tag: 666, write: writeZeroPages, read: readZeroPages },
  deviceStream: { tag: 674, write: writeDeviceStream, read: readDeviceStream },
  iommuState: { tag: 682, write: writeIommuState, read: readIommuState },
  guestState: { tag: 690, write: writeGuestState, read: readGuestState },
  migrationLoad: { tag: 698, write: writeMigrationLoad, read: readMigrationLoad },
  migrationLoaded: { tag: 706, write: writeMigrationLoaded, read: readMigrationLoaded },
  migrationResume: { tag: 714, write: writeMigrationResume, read: readMigrationResume },
  migrationRunning: { tag: 722, write: writeMigrationRunning, read: readMigrationRunning },
  migrationFailed: { tag: 730, write: writeMigrationFailed, read: readMigrationFailed },
  migrationCompare: { tag: 738, write: writeMigrationCompare, read: readMigrationCompare },
  migrationCompared: { tag: 746, write: writeMigrationCompared, read: readMigrationCompared },
};
