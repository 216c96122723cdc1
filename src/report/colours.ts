/**
 * Colours for people: only on a terminal, and never against NO_COLOR.
 */
import picocolors from 'picocolors';

const wanted = (stream: { readonly isTTY?: boolean }): boolean =>
  stream.isTTY === true && (process.env.NO_COLOR ?? '') === '';

/** For what goes to stdout. */
export const colours = picocolors.createColors(wanted(process.stdout));
/** For progress on stderr. */
export const progressColours = picocolors.createColors(wanted(process.stderr));
