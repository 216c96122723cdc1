/** Parses the value of a command-line option. @throws RangeError if it is not an integer from `least` to `most` */
export function wholeNumber(name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (!(Number.isInteger(value) && value >= least && value <= most))
    throw new RangeError(`--${name} ${text}; accepted: ${least} to ${most}`);
  return value;
}
