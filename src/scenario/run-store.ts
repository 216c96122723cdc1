/**
 * The metrics of a scenario's run.
 */
import { compileLoad, compileThresholds } from '../load/compile.ts';
import { MetricStore } from '../metrics/store.ts';
import type { ScenarioSettings } from './scenario.ts';

/** Length of an interval of the metrics of a hand-written load, and first length of a bucket of its time series. */
export const SCRIPT_BUCKET_SECONDS = 0.25;

/** Returns the first length of the buckets of time series. */
export const bucketSecondsOf = ({ load }: ScenarioSettings): number => (load ? 1 : SCRIPT_BUCKET_SECONDS);

/** Creates a store with the scenario's thresholds. @param keepsSeconds whether the store is for a merge */
export const createStore = (settings: ScenarioSettings, keepsSeconds: boolean): MetricStore =>
  new MetricStore(compileThresholds(settings.thresholds, compileLoad(settings.load ?? {})), {
    bucketSeconds: bucketSecondsOf(settings),
    dividedBy: settings.groups ? ['stage', 'group'] : ['stage'],
    keepsSeconds,
  });
