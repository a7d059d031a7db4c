#compdef devmem-tcp
# Completions of devmem-tcp for zsh: the tool itself says what can follow.
_devmem-tcp() {
    local -a lines closed open
    local line word
    lines=("${(@f)$("${(Q)words[1]}" complete -- "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
    case $lines[1] in
    :files|:directories)
        [[ $PREFIX != -*=* ]] || compset -P '*='
        if [[ $lines[1] = :files ]]; then _files; else _files -/; fi
        return ;;
    esac
    for line in $lines; do
        word=${line%%$'\t'*}
        if [[ $word = *: ]]; then
            open+=("$word")
        else
            closed+=("${word//:/\\:}:${line#*$'\t'}")
        fi
    done
    (( ! $#open )) || compadd -S '' -- $open
    (( ! $#closed )) || _describe -t values devmem-tcp closed
}
if [[ ${funcstack[1]} = _devmem-tcp ]]; then
    _devmem-tcp "$@"
else
    compdef _devmem-tcp devmem-tcp
fi
