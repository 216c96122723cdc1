/**
 * Saved state of a virtio-iommu: transport and configuration, endpoints and their domains, and the domains' mappings.
 * Nothing is cached, so nothing is dropped. QEMU saves domains with endpoints and mappings, and `bypass`. It loses the
 * endpoints whose ATTACH has failed; `unattached` keeps them.
 */

import * as format from '../../abi/virtio-iommu.ts';
import { hex } from '../../memory/address.ts';
import { decodeState, encodeState, type StateReader } from '../../proto/state-codec.ts';
import { registerValues, restoreRegisters } from '../../registers/register-state.ts';
import type { MmioTransport } from '../../virtio/mmio-transport.ts';
import { checkQuirks, type Quirks } from '../quirks.ts';
import type { ConfigFile } from './config.ts';
import { Domain, type DomainMapping } from './domain.ts';
import { ENDPOINT_LIMIT } from './endpoints.ts';
import { type RequestContext, refusal } from './requests.ts';

const KIND = 'virtio-iommu';
const VERSION = 1;

/** Requester IDs have 16 bits, endpoint and domain ids in requests 32. */
const FUNCTION_MAX = 0xffff;
const ID_MAX = 0xffff_ffff;
/** Numbers of a domain in `domains`: id, bypass, count of endpoints, count of mappings. */
const DOMAIN_NUMBERS = 4;
/** Bytes of a mapping in `mappings`: start, end and target of 64 bits, flags of 32 bits; little endian. */
const MAPPING_BYTES = 28;
const MAP_FLAGS = format.MAP_F_READ | format.MAP_F_WRITE | format.MAP_F_MMIO;

/** The parts of a unit that have state. */
export interface VirtioIommuParts {
  readonly transport: MmioTransport;
  readonly config: ConfigFile;
  readonly context: RequestContext;
  readonly quirks: Quirks;
}

/** Returns the state of a unit. Nothing may be in progress. @throws Error while the transport resets */
export function saveUnit({ transport, config, context, quirks }: VirtioIommuParts): Uint8Array {
  const { endpoints } = context;
  const domains = [...endpoints.domains()];
  return encodeState(KIND, VERSION, {
    quirks,
    transport: transport.save(),
    ...registerValues(config),
    functions: endpoints.functions,
    unattached: endpoints.unattached,
    domains: domains.flatMap(({ id, bypass, endpoints: { size }, size: mappings }) => [
      id,
      bypass ? 1 : 0,
      size,
      mappings,
    ]),
    members: domains.flatMap((domain) => [...domain.endpoints]),
    mappings: writeMappings(domains, endpoints.mappings),
  });
}

function writeMappings(domains: readonly Domain[], count: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(MAPPING_BYTES * count));
  let at = 0;
  for (const domain of domains)
    for (const { start, end, phys, flags } of domain.mappings()) {
      view.setBigUint64(at, start, true);
      view.setBigUint64(at + 8, end, true);
      view.setBigUint64(at + 16, phys, true);
      view.setUint32(at + 24, flags, true);
      at += MAPPING_BYTES;
    }
  return new Uint8Array(view.buffer);
}

/**
 * Restores the state of another unit with the same limits.
 * @returns the value of BYPASS
 * @throws StateError
 */
export function restoreUnit(bytes: Uint8Array, parts: VirtioIommuParts): boolean {
  const { transport, config, context } = parts;
  const state = decodeState(bytes, KIND, VERSION);
  checkQuirks(state, parts.quirks);
  transport.restore(state.bytes('transport'));
  restoreRegisters(config, state, {});
  const bypass = config.get32('BYPASS');
  if (bypass > 1) throw state.error('BYPASS', `is ${bypass}; accepted: 0, 1`);
  const functions = ids(state, 'functions', FUNCTION_MAX + 1, FUNCTION_MAX);
  const unattached = ids(state, 'unattached', ENDPOINT_LIMIT, ID_MAX);
  const members = ids(state, 'members', ENDPOINT_LIMIT, ID_MAX);
  checkEndpoints(state, functions, [...unattached, ...members], context);
  context.endpoints.restore(functions, unattached, readDomains(state, members, context));
  return bypass === 1;
}

function ids(state: StateReader, name: string, limit: number, most: number): number[] {
  const found = state.numbers(name, limit);
  const odd = found.find((id) => !(Number.isInteger(id) && id >= 0 && id <= most));
  if (odd !== undefined) throw state.error(name, `names ${odd}; accepted: integers up to ${most}`);
  if (new Set(found).size < found.length) throw state.error(name, 'names an id twice; accepted: once');
  return found;
}

function checkEndpoints(
  state: StateReader,
  functions: readonly number[],
  known: readonly number[],
  { behaviour }: RequestContext,
): void {
  if (known.length > ENDPOINT_LIMIT)
    throw state.error('members', `and unattached are ${known.length}; accepted: up to ${ENDPOINT_LIMIT}`);
  if (new Set(known).size < known.length)
    throw state.error('unattached', 'names an endpoint that is in a domain');
  // An id that wraps may outlive the function by which it was found.
  if (behaviour.endpointsWrap) return;
  const behind = new Set(functions);
  const unknown = known.find((id) => !behind.has(id));
  if (unknown !== undefined)
    throw state.error('members', `or unattached name endpoint ${unknown}; accepted: functions`);
}

function readDomains(state: StateReader, members: readonly number[], context: RequestContext): Domain[] {
  const { endpoints, mappingLimit } = context;
  const rows = readRows(state, context);
  const total = rows.reduce((sum, { mappings }) => sum + mappings, 0);
  if (total > mappingLimit)
    throw state.error('domains', `have ${total} mappings; accepted: up to ${mappingLimit}`);
  if (rows.reduce((sum, { size }) => sum + size, 0) !== members.length)
    throw state.error('members', `are ${members.length}; accepted: as many as the domains have`);
  const bytes = state.bytes('mappings', MAPPING_BYTES * total);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let [member, mapping] = [0, 0];
  return rows.map(({ id, bypass, size, mappings }) => {
    const domain = new Domain(id, bypass, endpoints.meter);
    for (const last = member + size; member < last; member++) domain.endpoints.add(members[member] as number);
    for (const last = mapping + mappings; mapping < last; mapping++)
      addMapping(state, domain, view, MAPPING_BYTES * mapping, context);
    return domain;
  });
}

interface DomainRow {
  readonly id: number;
  readonly bypass: boolean;
  readonly size: number;
  readonly mappings: number;
}

/** Every domain has an endpoint, so there are at most as many domains as endpoints. */
function readRows(state: StateReader, { limits }: RequestContext): DomainRow[] {
  const [first, last] = limits.domains;
  const numbers = state.numbers('domains', DOMAIN_NUMBERS * ENDPOINT_LIMIT);
  const rows: DomainRow[] = [];
  const seen = new Set<number>();
  for (let at = 0; at < numbers.length; at += DOMAIN_NUMBERS) {
    const [id, kind, size, mappings] = numbers.slice(at, at + DOMAIN_NUMBERS) as [
      number,
      number,
      number,
      number,
    ];
    const whole = [id, kind, size, mappings].every((value) => Number.isInteger(value) && value >= 0);
    if (!whole || id < first || id > last || seen.has(id))
      throw state.error('domains', `have ${id} at ${at}; accepted: ids from ${first} to ${last}, once`);
    if (kind > 1 || size < 1 || (kind === 1 && mappings > 0))
      throw state.error(
        'domains',
        `have ${kind}, ${size}, ${mappings} for ${id}; accepted: bypass 0 or 1, endpoints from 1, ` +
          'mappings without bypass',
      );
    seen.add(id);
    rows.push({ id, bypass: kind === 1, size, mappings });
  }
  return rows;
}

/** Adds a mapping with the checks of MAP, except those of features: the features may have been negotiated later. */
function addMapping(
  state: StateReader,
  domain: Domain,
  view: DataView,
  at: number,
  context: RequestContext,
): void {
  const mapping: DomainMapping = {
    start: view.getBigUint64(at, true),
    end: view.getBigUint64(at + 8, true),
    phys: view.getBigUint64(at + 16, true),
    flags: view.getUint32(at + 24, true),
  };
  const refuse = (wrong: string) =>
    state.error('mappings', `have ${hex(mapping.start)} in domain ${domain.id}: ${wrong}`);
  if (mapping.end < mapping.start) throw refuse('its end is below its start');
  if ((mapping.flags & ~MAP_FLAGS) !== 0) throw refuse(`flags ${mapping.flags}; accepted: ${MAP_FLAGS}`);
  if (domain.overlaps(mapping)) throw refuse('it overlaps another');
  const featureless = { ...context, negotiated: () => false };
  if (context.behaviour.mapChecked && refusal(mapping, featureless))
    throw refuse('it is reserved or not aligned');
  domain.add(mapping);
}
