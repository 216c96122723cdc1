/**
 * Entry of a baseline worker: it only waits. A vGPU's memory and start-up time are compared with it.
 */
import { baselineWorkerBody } from '../src/coordinator/host/baseline-worker.ts';

export default baselineWorkerBody;
