import { type Command, defineCommand } from './command.ts'
import { UsageError } from './errors.ts'
import { print } from './terminal.ts'

const bash = `_kmq() {
  local word cur=\${COMP_LINE:0:COMP_POINT} words
  read -ra words <<< "$cur"
  [[ $cur == *[[:space:]] ]] && words+=('')
  word=\${words[-1]}
  COMPREPLY=()
  while IFS=$'\\t' read -r candidate _; do
    # It is put into the line as it is, and anybody may name a queue.
    printf -v candidate %q "$candidate"
    COMPREPLY+=("$candidate")
  done < <(kmq __complete "\${words[@]:1}" 2> /dev/null)
  # Readline has cut the word at its colons.
  if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
    COMPREPLY=("\${COMPREPLY[@]#"\${word%"\${word##*:}"}"}")
  fi
  [[ \${#COMPREPLY[@]} -eq 0 ]] && compopt -o default
}
complete -F _kmq kmq`

const zsh = `#compdef kmq
_kmq() {
  local -a candidates
  local word meaning
  while IFS=$'\\t' read -r word meaning; do
    candidates+=("\${word//:/\\\\:}:\${meaning}")
  done < <(kmq __complete "\${(@)words[2,CURRENT]}" 2> /dev/null)
  if (( \${#candidates} )); then _describe kmq candidates; else _files; fi
}
if [[ $funcstack[1] == _kmq ]]; then _kmq; else compdef _kmq kmq; fi`

const fish = `function __kmq_complete
  set -l words (commandline -opc) (commandline -ct)
  kmq __complete $words[2..-1] 2> /dev/null
end
complete -c kmq -n 'test -n "$(__kmq_complete)"' -f -a '(__kmq_complete)'`

const SCRIPTS: Readonly<Record<string, string>> = { bash, zsh, fish }

export const completion: Command = defineCommand({
  name: 'completion',
  summary: 'print what completes kmq in a shell',
  operands: 'SHELL',
  description: [
    'Prints a script that completes commands, options and the queues that there are. SHELL is bash, zsh or fish.',
  ],
  options: {},
  examples: [
    ['source <(kmq completion bash)', 'in ~/.bashrc'],
    ['source <(kmq completion zsh)', 'in ~/.zshrc, after compinit'],
    ['kmq completion fish > ~/.config/fish/completions/kmq.fish', 'once'],
  ],
  async run({ operands: [shell = ''] }) {
    const script = Object.hasOwn(SCRIPTS, shell) ? SCRIPTS[shell] : undefined
    if (script === undefined) throw new UsageError(`SHELL is bash, zsh or fish, not '${shell}'`)
    await print(script)
    return 0
  },
})
