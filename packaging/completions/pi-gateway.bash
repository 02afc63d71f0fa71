# Completion of pi-gateway for bash. Commands, their words and options are what `pi-gateway help` says.
_pi_gateway() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} usage line
    COMPREPLY=()
    case $before in
        --config | --write)
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
    esac
    usage=$(pi-gateway help 2>/dev/null)
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(sed -n 's/^  \([a-z][a-z-]*\).*/\1/p' <<<"$usage")" -- "$current")
        return
    fi
    line=$(grep -e "^  ${COMP_WORDS[1]}\( \|\$\)" <<<"$usage" | sed 's/^  //; s/  .*//')
    # Options, and the second word of commands that have one.
    mapfile -t COMPREPLY < <(compgen -W "--config $(grep -oE -e '--[a-z-]+' <<<"$line")" -- "$current")
    [ "$COMP_CWORD" != 2 ] || mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(
        compgen -W "$(sed -n 's/^[a-z-]* \([a-z][a-z]*\) .*/\1/p' <<<"$line")" -- "$current"
    )
}
complete -F _pi_gateway pi-gateway
