/**
 * The `model` setting of a run: one device model for all devices, or a list that a VM's devices take in turn.
 */
const SEPARATOR = ',';

/** Returns the names in a list of built-in models. The URL of a file counts as one name. */
export const modelNames = (models: string): readonly string[] =>
  models.startsWith('file:') ? [models] : models.split(SEPARATOR).map((name) => name.trim());

/** Returns the model of a VM's device. */
export function modelAt(models: string, index: number): string {
  const names = modelNames(models);
  return names[index % names.length]!;
}

/** Returns whether a device of this model may need a slot on a physical GPU. A user-defined model may be a GPU. */
export const usesGpu = (model: string): boolean => model === 'vgpu' || model.startsWith('file:');
