/** Count of rounds of each vGPU in own.ts. */
export const ROUNDS: number = 3;
