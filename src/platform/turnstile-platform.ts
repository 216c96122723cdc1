/**
 * `#host` of scheduled threads (`--conditions=sched`): its clock counts steps.
 */
import { nowUs as productionNowUs, yieldTurn as productionYieldTurn } from './platform.ts';
import { StepKind } from './schedule-trace.ts';
import { turnstile } from './turnstile.ts';

export * from './platform.ts';

export const nowUs = (): number => turnstile()?.nowUs ?? productionNowUs();

export async function yieldTurn(): Promise<void> {
  const turn = turnstile();
  if (turn) turn.step(StepKind.yield, 'host.yield', 0, () => 0);
  else await productionYieldTurn();
}
