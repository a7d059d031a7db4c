# shellcheck shell=bash
# Completions of devmem-tcp for bash: the tool itself says what can follow.
_devmem_tcp() {
    local words=() i word rest=${COMP_LINE:0:COMP_POINT} typed=${2-} before lines line
    # Readline parts words at COMP_WORDBREAKS, = and : among them. Where no space is, none ends.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((i == 0)) || [[ $rest == [[:space:]]* ]]; then words+=(''); fi
        rest=${rest#"${rest%%[![:space:]]*}"}
        ((i < COMP_CWORD)) || word=$rest # up to the cursor
        rest=${rest#"$word"}
        words[${#words[@]} - 1]+=$word
    done
    word=${words[-1]}
    [[ $typed != [=:] ]] || typed=
    before=${word%"$typed"} # stays on the line as it is

    COMPREPLY=()
    # Not <(...): that takes /dev/fd.
    mapfile -t lines <<<"$("$1" complete -- "${words[@]:1}" 2>/dev/null)"
    case ${lines[0]-} in
    :files) compopt -o default 2>/dev/null; return 0 ;;
    :directories) compopt -o dirnames 2>/dev/null; return 0 ;;
    esac
    for line in "${lines[@]}"; do
        line=${line%%$'\t'*}
        [ -n "$line" ] || continue
        COMPREPLY+=("${line#"$before"}")
    done
    if [[ ${#COMPREPLY[@]} = 1 && ${COMPREPLY[0]} = *: ]]; then compopt -o nospace 2>/dev/null; fi
    return 0
}
complete -F _devmem_tcp devmem-tcp
