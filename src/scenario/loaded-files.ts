/**
 * The user's files that this thread has loaded, for messages about their errors. It imports nothing, because every
 * device worker loads it.
 */

/** Maximum count of remembered files: the last ones. */
const FILES_LIMIT = 64;

/** Folders of this package's own modules, in the sources and in a build. */
const OWN = ['../../src/', '../../workers/', '../../bundle/'].map(
  (path) => new URL(path, import.meta.url).href,
);

const loaded: string[] = [];

/** Remembers a file, unless it is a module of this package or below node_modules. */
export function rememberFile(url: string): void {
  if (!url.startsWith('file:') || url.includes('/node_modules/') || OWN.some((own) => url.startsWith(own)))
    return;
  loaded.push(url);
  if (loaded.length > FILES_LIMIT) loaded.shift();
}

/** Returns the URLs of the remembered files, in the order of loading. */
export const loadedFiles = (): readonly string[] => loaded;
