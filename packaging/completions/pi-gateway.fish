# Completion of pi-gateway for fish. Commands, their words and options are what `pi-gateway help` says.
function __pi_gateway_words
    set -l words (commandline -opc)
    set -l command $words[2]
    set -l lines (pi-gateway help 2>/dev/null | string match -r "^  $command(?: .*)?\$" | string replace -r '^  (.*?)  .*' '$1')
    string match -ra -- '--[a-z-]+' $lines
    test (count $words) = 2; and string match -rg -- '^ *[a-z-]+ ([a-z]+) ' $lines
    echo -- --config
end
complete -c pi-gateway -f -n 'test (count (commandline -opc)) = 1' -a "(pi-gateway help 2>/dev/null | string match -rg '^  ([a-z][a-z-]*)')"
complete -c pi-gateway -f -n 'test (count (commandline -opc)) -gt 1' -a '(__pi_gateway_words)'
