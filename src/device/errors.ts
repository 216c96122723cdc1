/**
 * Errors of device model definitions.
 */

/**
 * Thrown for an invalid definition or an invalid export of a model file. The message names the fault and the accepted
 * values.
 */
export class DeviceDefinitionError extends Error {
  override name = 'DeviceDefinitionError';
}
