/**
 * A run while it runs, for the dashboard: what its record has so far, and pictures of its devices.
 */
import type { LiveRecord } from '../report/html/live-page.ts';
import type { HostProcesses, RunProgress } from './host-processes.ts';
import type { RunLoad } from './run-load.ts';
import { stageRecords } from './run-record.ts';
import type { ScenarioSettings } from './scenario.ts';
import { Screenshots } from './screenshots.ts';

interface LiveParts {
  readonly settings: ScenarioSettings;
  readonly processes: number;
  readonly load: RunLoad;
  readonly hosts: Pick<HostProcesses, 'requestScreenshot'>;
}

export class LiveRun {
  /** The last reports of the host processes; undefined before the first one. */
  progress: RunProgress | undefined;
  readonly screenshots: Screenshots;
  readonly #parts: LiveParts;

  constructor(parts: LiveParts) {
    this.#parts = parts;
    this.screenshots = new Screenshots((...args) => parts.hosts.requestScreenshot(...args));
  }

  record(): LiveRecord {
    const { settings, processes, load } = this.#parts;
    const { operations = 0, bytesVerified = 0, phase = '' } = this.progress ?? {};
    return {
      scenario: settings.name,
      question: settings.question,
      vms: settings.vms,
      processes,
      operations,
      bytesVerified,
      phase,
      stages: stageRecords(settings),
      results: [],
      ...load.soFar,
      ...load.history,
    };
  }
}
