/**
 * Patches: changes of a source's text, as mutants of a corpus.
 */

/** A change of a module's text: `find` occurs once in the file whose path ends with `file`. */
export interface Patch {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

/** Thrown for a file that cannot be loaded into the model. */
export class ModelLoadError extends Error {
  override name = 'ModelLoadError';
}

/** Returns a patched text. @throws ModelLoadError if the text to replace does not occur once */
export function patched(text: string, { file, find, replace }: Patch): string {
  const parts = text.split(find);
  if (parts.length !== 2)
    throw new ModelLoadError(`${file}: a patch's text occurs ${parts.length - 1} times; accepted: once`);
  return parts.join(replace);
}
