/**
 * Recorded vectors and sysfs trees in test/data.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

const DATA = new URL('../data/', import.meta.url);
const SUFFIX = '.json.gz';

/** Returns the names of the recordings in a folder of test/data, sorted, without their suffix. */
export const recordedNames = (folder: string): string[] =>
  readdirSync(new URL(`${folder}/`, DATA))
    .filter((name) => name.endsWith(SUFFIX))
    .map((name) => name.slice(0, -SUFFIX.length))
    .sort();

/** Returns the parsed contents of a recording. */
export const readRecorded = (folder: string, name: string): unknown =>
  JSON.parse(gunzipSync(readFileSync(new URL(`${folder}/${name}${SUFFIX}`, DATA))).toString());
