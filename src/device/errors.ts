/**
 * Errors of a device model's definition.
 */

/** A definition, or the export of a model file, that cannot be used: what is wrong, and what is accepted. */
export class DeviceDefinitionError extends Error {
  override name = 'DeviceDefinitionError';
}
