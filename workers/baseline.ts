/**
 * Entry of a worker that does nothing: what a vGPU's memory and start-up time are compared with.
 */
import { baselineWorkerBody } from '../src/coordinator/host/baseline-worker.ts';

export default baselineWorkerBody;
