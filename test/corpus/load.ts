/**
 * Loading of the corpus into the model.
 */
import type { Harness } from '../../src/explore/harness.ts';
import { loadIntoModel } from '../../src/explore/transform/loader.ts';
import type { CorpusEntry } from './entry.ts';

const ROOT = new URL('../../', import.meta.url);

async function load(place: string, patches: CorpusEntry['patches']): Promise<Harness> {
  const [path = '', name = ''] = place.split('#');
  const exported = await loadIntoModel(new URL(path, ROOT).href, patches);
  const harness = exported[name];
  if (harness === undefined) throw new Error(`${path} exports no ${name}`);
  return harness as Harness;
}

/** Returns an entry's program with its fault. */
export const loadFaulty = (entry: CorpusEntry): Promise<Harness> => load(entry.harness, entry.patches);

/** Returns an entry's program without its fault. */
export const loadCorrect = (entry: CorpusEntry): Promise<Harness> =>
  load(entry.correct ?? entry.harness, undefined);
