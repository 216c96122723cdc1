/**
 * Entry of a host process: a coordinator thread with its VMs.
 */
import { serveParent } from '../src/coordinator/host/host-process.ts';

serveParent();
