# Completions of devmem-tcp for fish: the tool itself says what can follow.
function __devmem_tcp_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] complete -- $words[2..-1] "$current" 2>/dev/null)
    set -l option (string match -r -- '^-[^=]*=' "$current")
    set -l path (string replace -r -- '^-[^=]*=' '' "$current")
    switch "$lines[1]"
        case :files
            string replace -r -- '^' "$option" (__fish_complete_path "$path")
        case :directories
            string replace -r -- '^' "$option" (__fish_complete_directories "$path" '')
        case ''
        case '*'
            printf '%s\n' $lines
    end
end
complete -c devmem-tcp -f -a '(__devmem_tcp_complete)'
