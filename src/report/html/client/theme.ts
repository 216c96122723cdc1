/**
 * Colours of the charts. They are the variables of the style sheet, which has a light and a dark set.
 */

const NAMES = [
  'text',
  'muted',
  'grid',
  'card',
  'stage',
  'event',
  'gpa',
  'iova',
  'none',
  'c0',
  'c1',
  'c2',
  'c3',
  'c4',
  'c5',
] as const;

export type Colours = Readonly<Record<(typeof NAMES)[number], string>>;

export function colours(): Colours {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(
    NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
  ) as Colours;
}

/** Returns the colour of line or part `i`. */
export const colourOf = (all: Colours, i: number): string =>
  [all.c0, all.c1, all.c2, all.c3, all.c4, all.c5][i % 6] as string;

export const FONT = '12px system-ui, sans-serif';

/** Heat from cold to hot, the same in both themes. */
const HEAT: readonly (readonly [number, number, number])[] = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [253, 231, 37],
];

/** Returns the colour of a heat from 0 to 1. */
export function heatColour(heat: number): string {
  const at = Math.min(1, Math.max(0, heat)) * (HEAT.length - 1);
  const low = Math.min(HEAT.length - 2, Math.floor(at));
  const [a, b] = [HEAT[low], HEAT[low + 1]];
  if (!a || !b) return 'transparent';
  const mix = a.map((channel, i) => Math.round(channel + ((b[i] as number) - channel) * (at - low)));
  return `rgb(${mix.join(',')})`;
}

/** Calls `listener` when the system changes between light and dark. */
export function onThemeChange(listener: () => void): void {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', listener);
}
