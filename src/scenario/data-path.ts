/**
 * Names of data files. The module that reads them loads a parser, which guests do without.
 */

/** Returns whether a path or URL names a data file. */
export const isDataFile = (path: string): boolean => /\.(ya?ml|json)$/i.test(path);
