/**
 * The module `mdevsim/explore`, for harnesses of device models and of protocols on shared words.
 */
export { DeviceRig } from './device-rig.ts';
export * from './sdk.ts';
