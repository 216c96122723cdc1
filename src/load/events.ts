/**
 * The setting `events`: what the host does to VMs at times of the run's clock, while their declared load runs.
 */
import { z } from 'zod';
import { parseDuration } from '../metrics/units.ts';
import { nearest } from '../platform/nearest.ts';
import { endOf, type Stage } from './compile.ts';
import { type GroupedScenario, type GroupVm, groupsOf, vmsOf } from './groups.ts';
import { pauseShape } from './schema.ts';
import { given, type Problem, range } from './settings.ts';

/** Maximum count of events, and of host processes. */
const EVENTS_LIMIT = 4096;
export const HOSTS_LIMIT = 64;
/** What an event may do to a VM; each takes the VM's name. */
const ACTIONS = ['migrate'] as const;

const VM_ACCEPTED = 'accepted: GROUP/NUMBER, such as web/1; without groups all/NUMBER';

const eventShape = z.strictObject(
  {
    at: pauseShape.describe("time on the run's clock"),
    migrate: z
      .string({ error: ({ input }) => `${given(input)}; ${VM_ACCEPTED}` })
      .describe('VM that moves to another host process: its group and its number there, from 0'),
    to: range('int', 0, HOSTS_LIMIT - 1)
      .optional()
      .describe('number of the host process, from 0; default: the next one'),
  },
  {
    error: (issue) =>
      issue.code === 'unrecognized_keys'
        ? `no action '${issue.keys[0]}'; accepted: ${ACTIONS.join(', ')}, with at and to`
        : `${given(issue.input)}; accepted: { at, migrate, to }`,
  },
);

const LIST_ACCEPTED = `accepted: a list of up to ${EVENTS_LIMIT} events such as { at: 2s, migrate: web/1, to: 1 }`;
export const eventsShape = z.array(eventShape, LIST_ACCEPTED).max(EVENTS_LIMIT, LIST_ACCEPTED);
export type EventSettings = z.infer<typeof eventsShape>;

/** A migration at a time of the run's clock. */
export interface MoveEvent {
  readonly atUs: number;
  readonly vm: number;
  /** Name of the VM, such as `web/1`. */
  readonly name: string;
  /** Number of the host process; undefined for the next one. */
  readonly to: number | undefined;
}

interface EventfulScenario extends GroupedScenario {
  readonly events: EventSettings;
}

/** Returns the events in order of time. Names that no VM has are left out. */
export function compileEvents(scenario: EventfulScenario): readonly MoveEvent[] {
  const vms = vmNames(scenario);
  return scenario.events
    .flatMap(({ at, migrate, to }) => {
      const member = vms.get(migrate);
      return member ? [{ atUs: parseDuration(at) ?? 0, vm: member.vm, name: migrate, to }] : [];
    })
    .sort((a, b) => a.atUs - b.atUs);
}

/** Returns the least count of host processes that the events need. */
export function hostsFor(events: EventSettings): number {
  return Math.max(events.length > 0 ? 2 : 1, ...events.map(({ to = 0 }) => to + 1));
}

/** Returns what does not fit in events that are valid one by one. @param stages of the load; empty without one */
export function eventProblems(scenario: EventfulScenario, stages: readonly Stage[]): Problem[] {
  const { events } = scenario;
  if (events.length > 0 && stages.length === 0)
    return [
      {
        path: ['events'],
        message: 'events without load; accepted: with load, because a script migrates itself',
      },
    ];
  const vms = vmNames(scenario);
  const loadEndUs = Math.max(0, ...stages.map(endOf));
  return events.flatMap(({ at, migrate }, i) => {
    const member = vms.get(migrate);
    if (!member) return [{ path: ['events', i, 'migrate'], message: unknownVm(scenario, migrate) }];
    const us = parseDuration(at) ?? 0;
    if (us < member.bootUs)
      return [{ path: ['events', i, 'at'], message: `${at} is before the boot of ${migrate}` }];
    if (us >= loadEndUs)
      return [{ path: ['events', i, 'at'], message: `${at} is after the end of the last stage` }];
    return [];
  });
}

const vmNames = (scenario: GroupedScenario): ReadonlyMap<string, GroupVm> =>
  new Map(vmsOf(scenario).map((member) => [`${member.name}/${member.share.index}`, member]));

function unknownVm(scenario: GroupedScenario, name: string): string {
  const ranges = groupsOf(scenario).map(({ name: group, vms }) =>
    vms === 1 ? `${group}/0` : `${group}/0 to ${group}/${vms - 1}`,
  );
  return `no VM '${name}'; nearest: ${nearest(name, vmNames(scenario).keys())}; accepted: ${ranges.join(', ')}`;
}
