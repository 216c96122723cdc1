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
export const EVENTS_LIMIT = 4096;
export const HOSTS_LIMIT = 64;
/** Actions of events on a VM, each with its options. */
const ACTIONS = {
  migrate: ['to'],
  reboot: ['ram'],
  crash: [],
  shutdown: [],
  boot: [],
  pause: ['devices'],
  resume: [],
} as const satisfies Record<string, readonly string[]>;
export type ActionName = keyof typeof ACTIONS;
const ACTION_NAMES = Object.keys(ACTIONS) as ActionName[];

const VM_ACCEPTED = 'accepted: GROUP/NUMBER, such as web/1; without groups all/NUMBER';

const vmShape = (does: string) =>
  z
    .string({ error: ({ input }) => `${given(input)}; ${VM_ACCEPTED}` })
    .describe(`VM that ${does}: its group and its number there, from 0`)
    .optional();

const eventShape = z
  .strictObject(
    {
      at: pauseShape.describe("time on the run's clock"),
      migrate: vmShape('moves to another host process'),
      to: range('int', 0, HOSTS_LIMIT - 1)
        .optional()
        .describe('number of the host process, from 0; default: the next one'),
      reboot: vmShape('boots again, after a reset of its platform'),
      crash: vmShape('ends between two instructions, and is closed while its devices work'),
      shutdown: vmShape('lets go of its devices, and is closed'),
      boot: vmShape('boots again, after a crash or a shutdown'),
      pause: vmShape('stops its virtual CPUs'),
      resume: vmShape('continues after a pause'),
      devices: z
        .enum(['run', 'stop'], { error: ({ input }) => `${given(input)}; accepted: run, stop` })
        .optional()
        .describe('devices of a VM that pauses: they run, or stop as well; default: run'),
      ram: z
        .enum(['keep', 'clear'], { error: ({ input }) => `${given(input)}; accepted: keep, clear` })
        .optional()
        .describe('RAM at a reboot; default: keep'),
    },
    {
      error: (issue) =>
        issue.code === 'unrecognized_keys'
          ? `no action '${issue.keys[0]}'; nearest: ${nearest(issue.keys[0] as string, ACTION_NAMES)}; ` +
            `accepted: ${ACTION_NAMES.join(', ')}, with at`
          : `${given(issue.input)}; accepted: { at, ${ACTION_NAMES.join(' | ')}, … }`,
    },
  )
  .check(({ value, issues }) => {
    const refuse = (path: string[], message: string) =>
      void issues.push({ code: 'custom', path, message, input: value });
    const [action, other] = ACTION_NAMES.filter((name) => value[name] !== undefined);
    if (!action) refuse([], `no action; accepted: one of ${ACTION_NAMES.join(', ')}`);
    else if (other) refuse([other], `a second action, beside ${action}; accepted: one`);
    else
      for (const option of Object.values(ACTIONS).flat())
        if (value[option] !== undefined && !(ACTIONS[action] as readonly string[]).includes(option))
          refuse(
            [option],
            `not an option of ${action}; accepted: ${ACTIONS[action].join(', ') || 'only at'}`,
          );
  });

const LIST_ACCEPTED = `accepted: a list of up to ${EVENTS_LIMIT} events such as { at: 2s, migrate: web/1, to: 1 }`;
export const eventsShape = z.array(eventShape, LIST_ACCEPTED).max(EVENTS_LIMIT, LIST_ACCEPTED);
export type EventSettings = z.infer<typeof eventsShape>;

/** An action on a VM at a time of the run's clock. */
export interface VmEvent {
  readonly atUs: number;
  readonly action: ActionName;
  readonly vm: number;
  /** Name of the VM, such as `web/1`. */
  readonly name: string;
  /** Of `migrate`: number of the host process; undefined for the next one. */
  readonly to: number | undefined;
  /** Of `reboot`: true if RAM is zeroed. */
  readonly clearRam: boolean;
  /** Of `pause`: true if the devices stop as well. */
  readonly stopsDevices: boolean;
  /** Of `crash` and `shutdown`: true if the VM does not boot again. */
  readonly isLast: boolean;
}

interface EventfulScenario extends GroupedScenario {
  readonly events: EventSettings;
}

/** Returns the events in order of time. Names that no VM has are left out. */
export function compileEvents(scenario: EventfulScenario): readonly VmEvent[] {
  const vms = vmNames(scenario);
  return scenario.events
    .flatMap((event) => {
      const [action, name] = actionOf(event);
      const member = vms.get(name);
      const { at, to, ram, devices } = event;
      if (!member) return [];
      const { vm } = member;
      const options = { to, clearRam: ram === 'clear', stopsDevices: devices === 'stop' };
      return [{ atUs: parseDuration(at) ?? 0, action, vm, name, ...options }];
    })
    .sort((a, b) => a.atUs - b.atUs)
    .map((event, i, all) => ({ ...event, isLast: !all.slice(i + 1).some(isBootOf(event.vm)) }));
}

const isBootOf =
  (number: number) =>
  ({ vm, action }: { readonly vm: number; readonly action: ActionName }): boolean =>
    vm === number && action === 'boot';

/** Returns the action of a valid event, and the VM's name. */
function actionOf(event: EventSettings[number]): [ActionName, string] {
  const action = ACTION_NAMES.find((name) => event[name] !== undefined) ?? 'migrate';
  return [action, event[action] ?? ''];
}

/** Returns the least count of host processes that the events need. */
export function hostsFor(events: EventSettings): number {
  return Math.max(
    1,
    ...events.map(({ migrate, to = 0 }) => (migrate === undefined ? 1 : Math.max(2, to + 1))),
  );
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
  return events.flatMap((event, i) => {
    const { at } = event;
    const [action, name] = actionOf(event);
    const member = vms.get(name);
    if (!member) return [{ path: ['events', i, action], message: unknownVm(scenario, name) }];
    const us = parseDuration(at) ?? 0;
    if (us < member.bootUs)
      return [{ path: ['events', i, 'at'], message: `${at} is before the boot of ${name}` }];
    if (us >= loadEndUs)
      return [{ path: ['events', i, 'at'], message: `${at} is after the end of the last stage` }];
    if (action === 'pause' && !endsPause(events, i, name))
      return [
        {
          path: ['events', i, 'pause'],
          message: `${name} stays paused; accepted: with a later resume or crash`,
        },
      ];
    return [];
  });
}

/** Returns true if an event after number `pause` ends the pause of the VM. Events of the same time are in order. */
function endsPause(events: EventSettings, pause: number, name: string): boolean {
  const timeOf = (index: number) => parseDuration(events[index]?.at ?? '') ?? 0;
  return events.some(
    ({ resume, crash }, index) =>
      (resume === name || crash === name) &&
      (timeOf(index) > timeOf(pause) || (timeOf(index) === timeOf(pause) && index > pause)),
  );
}

/** Returns the VMs by the names that events have for them. */
export const vmNames = (scenario: GroupedScenario): ReadonlyMap<string, GroupVm> =>
  new Map(vmsOf(scenario).map((member) => [`${member.name}/${member.share.index}`, member]));

function unknownVm(scenario: GroupedScenario, name: string): string {
  const ranges = groupsOf(scenario).map(({ name: group, vms }) =>
    vms === 1 ? `${group}/0` : `${group}/0 to ${group}/${vms - 1}`,
  );
  return `no VM '${name}'; nearest: ${nearest(name, vmNames(scenario).keys())}; accepted: ${ranges.join(', ')}`;
}
