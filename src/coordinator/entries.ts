/**
 * Where the entry modules of workers and host processes are: beside `src/`, in source and in the build alike.
 */
export type EntryName = 'device' | 'guest' | 'host' | 'scenario' | 'model' | 'bare';

const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';

export const workerEntry = (name: EntryName): URL =>
  new URL(`../../workers/${name}.${extension}`, import.meta.url);
