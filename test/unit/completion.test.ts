/**
 * Shell completion: the scripts are loaded by the real shells.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { expect } from 'chai';
import { describe, it } from 'mocha';
import { completionScript, type Shell } from '../../src/cli/completion.ts';
import { program } from '../../src/cli/main.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const isInstalled = (shell: Shell): boolean => spawnSync(shell, ['-c', 'true']).status === 0;

describe('shell completion', () => {
  const inFolder = temporaryFolder();

  /** Returns the completions of the last of `words` in bash. */
  function complete(...words: string[]): string[] {
    const script = inFolder('completion.bash');
    writeFileSync(script, completionScript('bash', program()));
    const text = execFileSync(
      'bash',
      [
        '--norc',
        '-c',
        `set -e; . "$0"; complete -p mdevsim > /dev/null; COMP_WORDS=(mdevsim "$@"); COMP_CWORD=$#; set +e
         _mdevsim; printf '%s\\n' "\${COMPREPLY[@]}"`,
        script,
        ...words,
      ],
      { cwd: inFolder('.'), encoding: 'utf8' },
    );
    return text.split('\n').filter((line) => line !== '' && line !== 'completion.bash');
  }

  it('completes commands, options, choices, scenarios and files in bash', () => {
    writeFileSync(inFolder('first test.yaml'), '');
    expect(complete('ru')).to.deep.equal(['run']);
    expect(complete('s')).to.include.members(['scenarios', 'schema', 'serve', 'sysfs']);
    expect(complete('run', '--vi')).to.deep.equal(['--viommu']);
    expect(complete('run', '--viommu', 'in')).to.deep.equal(['intel', 'intel-scalable']);
    expect(complete('run', 'fi')).to.deep.equal(['first-light', 'first test.yaml']);
    expect(complete('run', 'x', '--trace', 'fi')).to.deep.equal(['first test.yaml']);
    expect(complete('run', 'x', '-p', 'zz')).to.deep.equal([]);
    expect(complete('completion', '')).to.deep.equal(['bash', 'zsh', 'fish']);
    expect(complete('run', '--json', 'web')).to.deep.equal(['web-and-batch']);
  });

  it('has every command and every long option in each script', () => {
    const { commands } = program();
    for (const shell of ['bash', 'zsh', 'fish'] as const) {
      const script = completionScript(shell, program());
      for (const command of commands) {
        expect(script, shell).to.include(command.name());
        for (const { long } of command.options)
          expect(script, shell).to.include(shell === 'fish' ? `-l ${long?.slice(2)}` : long);
      }
    }
  });

  for (const shell of ['zsh', 'fish'] as const)
    it(`loads in ${shell}`, function () {
      if (!isInstalled(shell)) {
        console.log(`        ${shell} is not installed`);
        this.skip();
      }
      const script = inFolder(`completion.${shell}`);
      writeFileSync(script, completionScript(shell, program()));
      const [args, expected] =
        shell === 'fish'
          ? [
              ['--no-config', '-c', `source ${script}; complete -C 'mdevsim run --viommu in'`],
              ['intel', 'intel-scalable'],
            ]
          : [
              ['-f', '-c', `autoload -U compinit; compinit -u -D; source ${script}; echo $_comps[mdevsim]`],
              ['_mdevsim'],
            ];
      const text = execFileSync(shell, args, { encoding: 'utf8' });
      expect(
        text
          .trim()
          .split('\n')
          .map((line) => line.split('\t')[0]),
      ).to.deep.equal(expected);
    });
});
