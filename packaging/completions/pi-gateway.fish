# Completion of pi-gateway for fish. Commands, their words and options are what `pi-gateway help` says.
function __pi_gateway_words
    set -l command (commandline -opc)[2]
    pi-gateway help 2>/dev/null | string match -r "^  $command(?: .*)?\$" | string replace -r '^  (.*?)  .*' '$1' |
        string match -ra -- '--[a-z-]+|\[[a-z]+(?:\|[a-z]+)+' | string split '|' | string trim -c '['
    echo -- --config
end
complete -c pi-gateway -f -n 'test (count (commandline -opc)) = 1' -a "(pi-gateway help 2>/dev/null | string match -rg '^  ([a-z][a-z-]*)')"
complete -c pi-gateway -f -n 'test (count (commandline -opc)) -gt 1' -a '(__pi_gateway_words)'
