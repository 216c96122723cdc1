/**
 * Device models by name, as a run is told of them: one for all devices, or several, which a VM's devices take in turn.
 */
const SEPARATOR = ',';

/** The names in a list of built-in models; a URL, of a file, is one. */
export const modelNames = (models: string): readonly string[] =>
  models.startsWith('file:') ? [models] : models.split(SEPARATOR).map((name) => name.trim());

/** The model of a VM's device. */
export function modelAt(models: string, index: number): string {
  const names = modelNames(models);
  return names[index % names.length]!;
}

/** Whether a device of this model may have use for a part of a physical GPU: a user's may be any device. */
export const usesGpu = (model: string): boolean => model === 'vgpu' || model.startsWith('file:');
