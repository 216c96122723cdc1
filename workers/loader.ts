/**
 * Entry of the process that loads a user's file before a run, in a worker thread. It is a process of its own because the
 * file may print, exit or crash.
 */
import { serveLoader } from '../src/scenario/loader.ts';

serveLoader();
