/**
 * The option `--dashboard [PORT]` of `mdevsim run`.
 */
import { Dashboard } from '../dashboard/dashboard.ts';

/** Thrown if the dashboard cannot be started. The run has not started. */
export class DashboardError extends Error {
  override name = 'DashboardError';
}

/**
 * Starts the dashboard if it is wanted, and prints its address.
 *
 * @param port true for any free one; undefined for no dashboard
 * @throws DashboardError
 */
export async function startDashboard(port: number | true | undefined): Promise<Dashboard | undefined> {
  if (port === undefined) return undefined;
  try {
    const dashboard = await Dashboard.start(port === true ? 0 : port);
    process.stderr.write(`dashboard      ${dashboard.url}\n`);
    return dashboard;
  } catch (error) {
    throw new DashboardError(`--dashboard ${port}: ${(error as Error).message}; accepted: a free port`);
  }
}
