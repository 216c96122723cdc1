/**
 * Errors in the use of the command line: each names the nearest known name, and the accepted ones.
 */
import type { Command, CommanderError } from 'commander';
import { nearest } from '../platform/nearest.ts';

/** Thrown for a command line that cannot be parsed. */
export class UsageError extends Error {
  override name = 'UsageError';
}

/** Replaces the messages of a command and its subcommands by those of a UsageError. */
export function explainUsage(command: Command): void {
  for (const each of [command, ...command.commands])
    each
      .showSuggestionAfterError(false)
      .configureOutput({ outputError: () => {} })
      .exitOverride((error) => {
        if (error.exitCode === 0 || error.code === 'commander.help') throw error;
        throw new UsageError(usageText(each, error));
      });
}

/** Returns the names of a command's options, those without a long form last. */
const optionNames = (command: Command): string[] => [
  ...command.options.flatMap(({ long, short }) => long ?? short ?? []),
  '--help',
];

function usageText(command: Command, { code, message }: CommanderError): string {
  const text = message.replace(/^error: /, '');
  const name = /'([^']*)'/.exec(text)?.[1] ?? '';
  const help = `${pathOf(command)} --help`;
  if (code === 'commander.unknownCommand') {
    const names = command.commands.map((each) => each.name());
    return `no command '${name}'; nearest: ${nearest(name, names)}; accepted: ${names.join(', ')}`;
  }
  if (code === 'commander.unknownOption') {
    const names = optionNames(command);
    return `no option '${name}' of ${pathOf(command)}; nearest: ${nearest(name, names)}; accepted: ${names.join(', ')}`;
  }
  return `${nearestChoice(text)} (${help})`;
}

/** Adds the nearest accepted choice to the message about an unknown one, and brings values into the form of other errors. */
function nearestChoice(text: string): string {
  const [, value, list] = /'([^']*)' is invalid.*\. Allowed choices are (.*)\.$/.exec(text) ?? [];
  if (value === undefined || list === undefined) return text.replace(/\. (?=accepted: )/, '; ');
  const names = list.split(', ');
  return text.replace(/\. Allowed choices are .*$/, `; nearest: ${nearest(value, names)}; accepted: ${list}`);
}

/** Returns the words that call a command. */
function pathOf(command: Command): string {
  return command.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name();
}
