/**
 * Requests of a virtio-iommu (virtio 1.3 sections 5.13.6.3 to 5.13.6.7): decoding, checks in order, effects.
 */
import * as format from '../../abi/virtio-iommu.ts';
import type { Completion } from '../../platform/completion.ts';
import type { VirtioIommuLimits } from './config.ts';
import type { Domain, DomainMapping, WideRange } from './domain.ts';
import type { Endpoints, Outcome } from './endpoints.ts';
import type { Behaviour } from './quirks.ts';

/** A range of IOVAs that no domain may map. PROBE reports it. */
export interface ReservedRegion extends WideRange {
  /** RESV_MEM_T_*. */
  readonly type: number;
}

export interface RequestContext {
  readonly behaviour: Behaviour;
  readonly limits: VirtioIommuLimits;
  readonly reserved: readonly ReservedRegion[];
  readonly endpoints: Endpoints;
  readonly mappingLimit: number;
  /** True if the driver has accepted this feature. */
  negotiated(feature: bigint): boolean;
}

/** Bytes for the writable part of a chain, each piece at its offset, and the used length. */
export interface Answer {
  readonly pieces: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
  readonly length: number;
  readonly work?: Completion;
}

interface Kind {
  /** Device-readable bytes, head included. */
  readonly bytes: number;
  readonly run: (request: DataView, context: RequestContext) => Outcome;
}

const INVALID: Outcome = { status: format.S_INVAL };

const KINDS: Readonly<Record<number, Kind>> = {
  [format.T_ATTACH]: { bytes: format.ATTACH_BYTES, run: attach },
  [format.T_DETACH]: { bytes: format.DETACH_BYTES, run: detach },
  [format.T_MAP]: { bytes: format.MAP_BYTES, run: map },
  [format.T_UNMAP]: { bytes: format.UNMAP_BYTES, run: unmap },
  [format.T_PROBE]: { bytes: format.PROBE_BYTES, run: probe },
};

/**
 * Runs one request.
 * @param request its device-readable part: `length` bytes, at least HEAD_BYTES; may be reused after the call
 * @param writable bytes of its device-writable part, at least TAIL_BYTES
 */
export function execute(
  request: DataView,
  length: number,
  writable: number,
  context: RequestContext,
): Answer {
  const type = request.getUint8(0);
  const kind = KINDS[type];
  if (!kind) {
    if (!context.behaviour.unknownAnswered) return { pieces: [], length: 0 };
    return plain({ status: format.S_UNSUPP });
  }
  const outcome = length < kind.bytes ? INVALID : kind.run(request, context);
  return type === format.T_PROBE ? probed(outcome.status, writable, context) : plain(outcome);
}

const tail = (status: number): Uint8Array => Uint8Array.of(status, 0, 0, 0);

/** Answers with only a status, by status. They are shared: a guest makes hundreds of thousands of requests a second. */
const PLAIN: readonly Answer[] = Array.from({ length: format.S_NOMEM + 1 }, (_, status) => ({
  pieces: [{ offset: 0, bytes: tail(status) }],
  length: format.TAIL_BYTES,
}));

function plain({ status, work }: Outcome): Answer {
  const answer = PLAIN[status] as Answer;
  return work ? { ...answer, work } : answer;
}

function attach(request: DataView, context: RequestContext): Outcome {
  const { behaviour, endpoints, limits } = context;
  const domain = request.getUint32(4, true);
  const flags = request.getUint32(12, true);
  const bypass = (flags & format.ATTACH_F_BYPASS) !== 0;
  if ((flags & ~format.ATTACH_F_BYPASS) !== 0) return INVALID;
  const endpoint = request.getUint32(8, true);
  if (!endpoints.exists(endpoint)) return { status: format.S_NOENT };
  if (behaviour.reservedChecked && request.getUint32(16, true) !== 0) return INVALID;
  if (bypass && behaviour.featuresGate && !context.negotiated(format.F_BYPASS_CONFIG)) return INVALID;
  if (domain < limits.domains[0] || domain > limits.domains[1]) return { status: format.S_NOENT };
  return endpoints.attach(endpoint, domain, bypass);
}

function detach(request: DataView, { endpoints }: RequestContext): Outcome {
  return endpoints.detach(request.getUint32(8, true), request.getUint32(4, true));
}

function map(request: DataView, context: RequestContext): Outcome {
  const { behaviour, endpoints } = context;
  const mapping: DomainMapping = {
    start: request.getBigUint64(8, true),
    end: request.getBigUint64(16, true),
    phys: request.getBigUint64(24, true),
    flags: request.getUint32(32, true),
  };
  if ((mapping.flags & ~(format.MAP_F_READ | format.MAP_F_WRITE | format.MAP_F_MMIO)) !== 0) return INVALID;
  if (mapping.end < mapping.start) return INVALID;
  const domain = endpoints.domain(request.getUint32(4, true));
  if (!domain) return { status: format.S_NOENT };
  if (domain.bypass || domain.overlaps(mapping)) return INVALID;
  const mmio = (mapping.flags & format.MAP_F_MMIO) !== 0;
  if (mmio && behaviour.featuresGate && !context.negotiated(format.F_MMIO)) return INVALID;
  const refused = behaviour.mapChecked ? refusal(mapping, context) : undefined;
  if (refused) return refused;
  if (endpoints.mappings >= context.mappingLimit) return { status: format.S_NOMEM };
  domain.add(mapping);
  return { status: format.S_OK, work: endpoints.sync(domain, mapping.start, mapping.end) };
}

/** Checks a mapping by 5.13.6.5.2. Returns undefined if it is allowed. */
export function refusal({ start, end, phys }: DomainMapping, context: RequestContext): Outcome | undefined {
  const { limits, reserved } = context;
  if (reserved.some((region) => start <= region.end && end >= region.start)) return INVALID;
  // A granule is below 2^32, so the low words suffice.
  const low = (value: bigint) => Number(BigInt.asUintN(32, value));
  const unaligned = (low(start) | (low(end) + 1) | low(phys)) & (limits.granule - 1);
  const beyond = BigInt.asUintN(limits.awBits, end) !== end && context.negotiated(format.F_INPUT_RANGE);
  return unaligned !== 0 || beyond ? { status: format.S_RANGE } : undefined;
}

function unmap(request: DataView, context: RequestContext): Outcome {
  const { behaviour, endpoints } = context;
  const range = { start: request.getBigUint64(8, true), end: request.getBigUint64(16, true) };
  if (range.end < range.start) return INVALID;
  const domain = endpoints.domain(request.getUint32(4, true));
  if (!domain) return { status: format.S_NOENT };
  if (domain.bypass) return INVALID;
  const found = domain.within(range);
  const split = found.findIndex(({ start, end }) => start < range.start || end > range.end);
  const status = split < 0 ? format.S_OK : format.S_RANGE;
  if (split >= 0) found.length = behaviour.unmapIsAtomic ? 0 : split;
  return { status, work: removeAll(domain, found, endpoints) };
}

function removeAll(domain: Domain, mappings: readonly DomainMapping[], endpoints: Endpoints): Completion {
  const [first, last] = [mappings[0], mappings.at(-1)];
  if (!first || !last) return undefined;
  for (const mapping of mappings) domain.remove(mapping);
  return endpoints.sync(domain, first.start, last.end);
}

function probe(request: DataView, { endpoints }: RequestContext): Outcome {
  return { status: endpoints.exists(request.getUint32(4, true)) ? format.S_OK : format.S_NOENT };
}

/** Returns the answer to a PROBE (5.13.6.7): the properties, then the tail. */
function probed(status: number, writable: number, { behaviour, limits, reserved }: RequestContext): Answer {
  const { probeSize } = limits;
  const length = probeSize + format.TAIL_BYTES;
  const properties =
    status === format.S_OK ? resvMemProperties(reserved, probeSize) : new Uint8Array(probeSize);
  if (writable >= length)
    return {
      pieces: [
        { offset: 0, bytes: properties },
        { offset: probeSize, bytes: tail(status) },
      ],
      length,
    };
  if (behaviour.shortProbeFilled) {
    const whole = new Uint8Array(length);
    whole.set(properties);
    whole.set(tail(format.S_DEVERR));
    return { pieces: [{ offset: 0, bytes: whole.subarray(0, writable) }], length: format.TAIL_BYTES };
  }
  const empty = new Uint8Array(writable);
  empty[writable - format.TAIL_BYTES] = status === format.S_OK ? format.S_INVAL : status;
  return { pieces: [{ offset: 0, bytes: empty }], length: writable };
}

function resvMemProperties(reserved: readonly ReservedRegion[], probeSize: number): Uint8Array {
  const bytes = new Uint8Array(probeSize);
  const view = new DataView(bytes.buffer);
  const step = format.HEAD_BYTES + format.PROBE_RESV_MEM_BYTES;
  for (const [i, { type, start, end }] of reserved.entries()) {
    if ((i + 1) * step > probeSize) break;
    view.setUint16(i * step, format.PROBE_T_RESV_MEM, true);
    view.setUint16(i * step + 2, format.PROBE_RESV_MEM_BYTES, true);
    view.setUint8(i * step + 4, type);
    view.setBigUint64(i * step + 8, start, true);
    view.setBigUint64(i * step + 16, end, true);
  }
  return bytes;
}
