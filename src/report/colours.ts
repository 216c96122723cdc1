/**
 * Terminal colours. Off if the output is no terminal or NO_COLOR is set.
 */
import picocolors from 'picocolors';

const wanted = (stream: { readonly isTTY?: boolean }): boolean =>
  stream.isTTY === true && (process.env.NO_COLOR ?? '') === '';

/** Colours on stdout. */
export const colours = picocolors.createColors(wanted(process.stdout));
/** Colours of the progress on stderr. */
export const progressColours = picocolors.createColors(wanted(process.stderr));
