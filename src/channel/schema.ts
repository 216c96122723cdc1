// Generated from proto/mdevsim.proto by `npm run proto`; do not edit.

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
  readonly commands: number;
  readonly bytesFilled: number;
  readonly bytesCopied: number;
  readonly bytesSummed: number;
  readonly pins: number;
  readonly unpins: number;
  readonly faults: number;
  readonly faultsDropped: number;
  readonly stalls: number;
  readonly interrupts: number;
  readonly unimplemented: readonly UnimplementedAccess[];
}

export interface UnimplementedAccess {
  readonly offset: number;
  readonly count: number;
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
  readonly bareWorkers: number;
  readonly params: string;
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
}

export interface HostResult {
  readonly rssBefore: number;
  readonly rssReady: number;
  readonly devices: number;
  readonly guests: number;
  readonly devicesStartUs: number;
  readonly devicesRss: number;
  readonly bareWorkers: number;
  readonly bareStartUs: number;
  readonly bareRss: number;
  readonly traceFrames: number;
  readonly traceDropped: number;
}

export interface RunAbort {
  readonly reason: string;
}

/** The messages a frame can carry, by the name of their field. */
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
}

export const DESCRIPTOR: string =
  '{"nested":{"mdevsim":{"nested":{"Frame":{"oneofs":{"body":{"oneof":["deviceReady","dmaUnmap","dmaUnmapDone","dmaFault","deviceStop","deviceReport","deviceFailed","violation","addressSpaceSwitch","faultRecorded","guestPhase","guestDone","runRequest","hostReady","progress","vmResult","hostResult","runAbort"]}},"fields":{"timeUs":{"type":"uint64","id":1,"protoName":"time_us"},"process":{"type":"uint32","id":2},"vm":{"type":"uint32","id":3},"device":{"type":"uint32","id":4},"deviceReady":{"type":"DeviceReady","id":10,"protoName":"device_ready"},"dmaUnmap":{"type":"DmaUnmap","id":11,"protoName":"dma_unmap"},"dmaUnmapDone":{"type":"DmaUnmapDone","id":12,"protoName":"dma_unmap_done"},"dmaFault":{"type":"DmaFault","id":13,"protoName":"dma_fault"},"deviceStop":{"type":"DeviceStop","id":14,"protoName":"device_stop"},"deviceReport":{"type":"DeviceReport","id":15,"protoName":"device_report"},"deviceFailed":{"type":"DeviceFailed","id":16,"protoName":"device_failed"},"violation":{"type":"Violation","id":17},"addressSpaceSwitch":{"type":"AddressSpaceSwitch","id":18,"protoName":"address_space_switch"},"faultRecorded":{"type":"FaultRecorded","id":19,"protoName":"fault_recorded"},"guestPhase":{"type":"GuestPhase","id":20,"protoName":"guest_phase"},"guestDone":{"type":"GuestDone","id":21,"protoName":"guest_done"},"runRequest":{"type":"RunRequest","id":40,"protoName":"run_request"},"hostReady":{"type":"HostReady","id":41,"protoName":"host_ready"},"progress":{"type":"Progress","id":42},"vmResult":{"type":"VmResult","id":43,"protoName":"vm_result"},"hostResult":{"type":"HostResult","id":44,"protoName":"host_result"},"runAbort":{"type":"RunAbort","id":45,"protoName":"run_abort"}}},"DeviceReady":{"fields":{"threadId":{"type":"uint32","id":1,"protoName":"thread_id"},"model":{"type":"string","id":2}}},"DmaUnmap":{"fields":{"iova":{"type":"uint64","id":1},"size":{"type":"uint64","id":2}}},"DmaUnmapDone":{"fields":{"iova":{"type":"uint64","id":1},"size":{"type":"uint64","id":2},"released":{"type":"uint32","id":3}}},"DmaFault":{"fields":{"iova":{"type":"uint64","id":1},"write":{"type":"bool","id":2},"denied":{"type":"bool","id":3}}},"DeviceStop":{"fields":{}},"DeviceReport":{"fields":{"commands":{"type":"uint64","id":1},"bytesFilled":{"type":"uint64","id":2,"protoName":"bytes_filled"},"bytesCopied":{"type":"uint64","id":3,"protoName":"bytes_copied"},"bytesSummed":{"type":"uint64","id":4,"protoName":"bytes_summed"},"pins":{"type":"uint64","id":5},"unpins":{"type":"uint64","id":6},"faults":{"type":"uint64","id":7},"faultsDropped":{"type":"uint64","id":8,"protoName":"faults_dropped"},"stalls":{"type":"uint64","id":9},"interrupts":{"type":"uint64","id":10},"unimplemented":{"rule":"repeated","type":"UnimplementedAccess","id":11}}},"UnimplementedAccess":{"fields":{"offset":{"type":"uint32","id":1},"count":{"type":"uint32","id":2}}},"DeviceFailed":{"fields":{"reason":{"type":"string","id":1},"pinsReleased":{"type":"uint32","id":2,"protoName":"pins_released"}}},"Violation":{"fields":{"kind":{"type":"string","id":1},"detail":{"type":"string","id":2},"repeats":{"type":"uint32","id":3}}},"AddressSpaceSwitch":{"fields":{"from":{"type":"string","id":1},"to":{"type":"string","id":2},"liveMappings":{"type":"uint32","id":3,"protoName":"live_mappings"},"tookUs":{"type":"uint64","id":4,"protoName":"took_us"}}},"FaultRecorded":{"fields":{"requesterId":{"type":"uint32","id":1,"protoName":"requester_id"},"iova":{"type":"uint64","id":2},"write":{"type":"bool","id":3},"reason":{"type":"uint32","id":4},"text":{"type":"string","id":5},"expected":{"type":"bool","id":6}}},"GuestPhase":{"fields":{"name":{"type":"string","id":1}}},"GuestDone":{"fields":{"error":{"type":"string","id":1}}},"RunRequest":{"fields":{"scenario":{"type":"string","id":1},"process":{"type":"uint32","id":2},"vms":{"rule":"repeated","type":"uint32","id":3},"vgpus":{"type":"uint32","id":4},"seed":{"type":"uint32","id":5},"ramMib":{"type":"uint32","id":6,"protoName":"ram_mib"},"timeoutMs":{"type":"uint32","id":7,"protoName":"timeout_ms"},"inject":{"type":"string","id":8},"trace":{"type":"string","id":9},"viommu":{"type":"string","id":10},"bareWorkers":{"type":"uint32","id":11,"protoName":"bare_workers"},"params":{"type":"string","id":12}}},"HostReady":{"fields":{"pid":{"type":"uint32","id":1}}},"Progress":{"fields":{"devicesReady":{"type":"uint32","id":1,"protoName":"devices_ready"},"vmsDone":{"type":"uint32","id":2,"protoName":"vms_done"},"operations":{"type":"uint64","id":3},"bytesVerified":{"type":"uint64","id":4,"protoName":"bytes_verified"},"phase":{"type":"string","id":5}}},"Histogram":{"fields":{"name":{"type":"string","id":1},"data":{"type":"bytes","id":2}}},"VmResult":{"fields":{"operations":{"type":"uint64","id":1},"bytesVerified":{"type":"uint64","id":2,"protoName":"bytes_verified"},"mismatches":{"type":"uint64","id":3},"failures":{"rule":"repeated","type":"string","id":4},"faultsExpected":{"type":"uint32","id":5,"protoName":"faults_expected"},"faultsUnexpected":{"type":"uint32","id":6,"protoName":"faults_unexpected"},"violations":{"rule":"repeated","type":"Violation","id":7},"histograms":{"rule":"repeated","type":"Histogram","id":8},"failedDevices":{"rule":"repeated","type":"string","id":9,"protoName":"failed_devices"},"scriptError":{"type":"string","id":10,"protoName":"script_error"},"maps":{"type":"uint64","id":11},"unmaps":{"type":"uint64","id":12},"switches":{"type":"uint32","id":13},"audits":{"type":"uint32","id":14},"devices":{"type":"DeviceReport","id":15},"notes":{"rule":"repeated","type":"string","id":16}}},"HostResult":{"fields":{"rssBefore":{"type":"uint64","id":1,"protoName":"rss_before"},"rssReady":{"type":"uint64","id":2,"protoName":"rss_ready"},"devices":{"type":"uint32","id":3},"guests":{"type":"uint32","id":4},"devicesStartUs":{"type":"uint64","id":5,"protoName":"devices_start_us"},"devicesRss":{"type":"uint64","id":6,"protoName":"devices_rss"},"bareWorkers":{"type":"uint32","id":7,"protoName":"bare_workers"},"bareStartUs":{"type":"uint64","id":8,"protoName":"bare_start_us"},"bareRss":{"type":"uint64","id":9,"protoName":"bare_rss"},"traceFrames":{"type":"uint64","id":10,"protoName":"trace_frames"},"traceDropped":{"type":"uint64","id":11,"protoName":"trace_dropped"}}},"RunAbort":{"fields":{"reason":{"type":"string","id":1}}}}}}}';
