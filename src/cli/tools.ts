/**
 * Declarations of the commands around runs: the machine, starters, lists and completion.
 */
import { Argument, type Command } from 'commander';
import { HOSTS_LIMIT, RAM_MIB_MAX, RAM_MIB_MIN, VGPUS_LIMIT } from '../scenario/scenario.ts';
import { completionScript, SHELLS } from './completion.ts';
import { integer } from './option-parsers.ts';

/** Adds the commands. Their modules are imported only when they are called. */
export function addTools(command: Command): void {
  addDoctor(command);
  addSetup(command);
  command
    .command('completion')
    .addArgument(new Argument('<shell>', 'shell of the script').choices(SHELLS))
    .description('print a script that completes commands, options and names in a shell')
    .action((shell) => {
      process.stdout.write(completionScript(shell, command));
    });
}

function addDoctor(command: Command): void {
  command
    .command('doctor')
    .description('count the vGPUs that this machine carries, and find optional tools')
    .option('--vgpus <n>', 'count of vGPUs per VM', integer(1, VGPUS_LIMIT), 4)
    .option('--ram <MiB>', 'RAM of each VM', integer(RAM_MIB_MIN, RAM_MIB_MAX), 64)
    .option('--processes <n>', 'count of host processes for the VMs', integer(1, HOSTS_LIMIT), 1)
    .option('--json', 'print the report as JSON')
    .action(async (options) => {
      const { doctorCommand } = await import('./doctor.ts');
      process.exitCode = await doctorCommand(options);
    });
}

function addSetup(command: Command): void {
  command
    .command('init [file]')
    .description('write a starter scenario that runs: .yaml, .json or .ts (default: load.yaml)')
    .action(async (file) => (await import('./setup.ts')).initCommand(file));
  command
    .command('schema')
    .description('print the JSON Schema of scenario files, for editors')
    .action(async () => (await import('./setup.ts')).schemaCommand());
  command
    .command('workloads')
    .description('list the ready-made workloads')
    .option('--json', 'print JSON')
    .action(async (options) => (await import('./setup.ts')).workloadsCommand(options));
  command
    .command('scenarios')
    .description('list the built-in scenarios with their questions')
    .option('--json', 'print JSON')
    .action(async (options) => (await import('./setup.ts')).scenariosCommand(options));
}
