/**
 * Shell completion: scripts for bash, zsh and fish, made of the declared commands, options and choices.
 *
 * The scripts are static, because a start of Node at every key would be felt. An argument with choices or a scenario
 * completes those; everything else completes to files.
 */
import type { Argument, Command, Option } from 'commander';
import { builtInScenarios } from '../scenario/built-in.ts';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** A subcommand, as the scripts need it. */
interface CompletedCommand {
  readonly name: string;
  readonly description: string;
  readonly options: readonly CompletedOption[];
  /** Words of the first argument. */
  readonly words: readonly string[];
  /** True if that argument may be a file, too. */
  readonly takesFiles: boolean;
}

interface CompletedOption {
  /** `--viommu`; of an option without a long form, `-p`. */
  readonly flag: string;
  readonly short: string | undefined;
  readonly description: string;
  readonly takesValue: boolean;
  /** Accepted values; empty for others than a fixed set. */
  readonly values: readonly string[];
}

/** Returns the script of a shell for the commands of `program`. */
export function completionScript(shell: Shell, program: Command): string {
  const commands = program.commands.map(completedCommand);
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](commands);
}

const completedCommand = (command: Command): CompletedCommand => ({
  name: command.name(),
  description: firstLine(command.description()),
  options: [...command.options.filter(({ hidden }) => !hidden).map(completedOption), HELP],
  words: wordsOf(command.registeredArguments[0]),
  takesFiles: command.registeredArguments.some(({ argChoices }) => argChoices === undefined),
});

const HELP: CompletedOption = {
  flag: '--help',
  short: '-h',
  description: 'display help',
  takesValue: false,
  values: [],
};

const completedOption = ({
  long,
  short,
  description,
  required,
  optional,
  argChoices,
}: Option): CompletedOption => ({
  flag: long ?? (short as string),
  short: long ? short : undefined,
  description: firstLine(description),
  takesValue: required || optional,
  values: argChoices ?? [],
});

const wordsOf = (argument: Argument | undefined): readonly string[] =>
  argument?.name() === 'scenario' ? builtInScenarios() : (argument?.argChoices ?? []);

const firstLine = (text: string): string => text.split('\n')[0] as string;
/** Returns a text in single quotes of a POSIX shell. */
const quoted = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`;
const flagsOf = (options: readonly CompletedOption[]): string[] =>
  options.flatMap(({ flag, short }) => [flag, ...(short ? [short] : [])]);

/** bash: words by command and by previous option; other values and arguments complete to files. */
function bashScript(commands: readonly CompletedCommand[]): string {
  const valueCases = commands.flatMap(({ name, options }) =>
    options
      .filter(({ takesValue, values }) => takesValue && values.length > 0)
      .map(
        (option) =>
          `    ${flagsOf([option])
            .map((flag) => `${name}:${flag}`)
            .join('|')}) words=${quoted(option.values.join(' '))} files= ;;`,
      ),
  );
  const fileCases = commands.flatMap(({ name, options }) =>
    options
      .filter(({ takesValue, values }) => takesValue && values.length === 0)
      .flatMap((option) => flagsOf([option]).map((flag) => `${name}:${flag}`)),
  );
  const commandCases = commands.map(
    ({ name, options, words, takesFiles }) =>
      `        ${name}) options=${quoted(flagsOf(options).join(' '))} words=${quoted(words.join(' '))}${takesFiles ? '' : ' files='} ;;`,
  );
  return `# bash completion of mdevsim; load it with: source <(mdevsim completion bash)
_mdevsim() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]} command=\${COMP_WORDS[1]}
  local options= words= files=yes
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W ${quoted([...commands.map(({ name }) => name), '--help', '--version'].join(' '))} -- "$current")
    return
  fi
  case "$command:$previous" in
${valueCases.join('\n')}
    ${fileCases.join('|')}) ;;
    *)
      case "$command" in
${commandCases.join('\n')}
      esac
      ;;
  esac
  case "$current" in
    -*) mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current"; [ -z "$files" ] || compgen -f -- "$current") ;;
  esac
}
complete -o filenames -F _mdevsim mdevsim
`;
}

/** zsh: descriptions of commands and options, and choices of values. */
function zshScript(commands: readonly CompletedCommand[]): string {
  const cases = commands.map(({ name, options, words }) => {
    const specs = options.map(zshOption);
    const argument =
      words.length > 0 ? `'*:argument:{ compadd -- ${words.join(' ')}; _files }'` : "'*:file:_files'";
    return `    ${name}) _arguments -s ${[...specs, argument].join(' ')} ;;`;
  });
  const list = commands.map(({ name, description }) => `    ${quoted(`${name}:${description}`)}`);
  return `#compdef mdevsim
# zsh completion of mdevsim; load it with: source <(mdevsim completion zsh)
_mdevsim() {
  local -a commands
  commands=(
${list.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
${cases.join('\n')}
  esac
}
compdef _mdevsim mdevsim
`;
}

/** Returns the specification of an option for zsh's _arguments. */
function zshOption({ flag, short, description, takesValue, values }: CompletedOption): string {
  const text = description.replace(/[[\]:\\]/g, String.raw`\$&`);
  const value = !takesValue ? '' : values.length > 0 ? `:value:(${values.join(' ')})` : ':value:_files';
  return [flag, ...(short ? [short] : [])].map((each) => quoted(`*${each}[${text}]${value}`)).join(' ');
}

/** fish: a line for each command, option and word. */
function fishScript(commands: readonly CompletedCommand[]): string {
  const lines = commands.flatMap(({ name, description, options, words }) => {
    const condition = `-n ${quoted(`__fish_seen_subcommand_from ${name}`)}`;
    return [
      `complete -c mdevsim -f -n __fish_use_subcommand -a ${name} -d ${fishQuoted(description)}`,
      ...options.map((option) => `complete -c mdevsim ${condition} ${fishOption(option)}`),
      ...(words.length > 0 ? [`complete -c mdevsim ${condition} -a ${fishQuoted(words.join(' '))}`] : []),
    ];
  });
  return `# fish completion of mdevsim; load it with: mdevsim completion fish | source
${lines.join('\n')}
`;
}

function fishOption({ flag, short, description, takesValue, values }: CompletedOption): string {
  const name = flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`;
  const value = !takesValue ? '' : values.length > 0 ? ` -x -a ${fishQuoted(values.join(' '))}` : ' -r';
  return `${name}${short ? ` -s ${short.slice(1)}` : ''} -d ${fishQuoted(description)}${value}`;
}

/** Returns a text in single quotes of fish, where a backslash escapes. */
const fishQuoted = (text: string): string => `'${text.replace(/['\\]/g, String.raw`\$&`)}'`;
