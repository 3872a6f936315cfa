_avatarctl_completion() {
    local IFS=$'
'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \
                   COMP_CWORD=$COMP_CWORD \
                   _AVATARCTL_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -o filenames -F _avatarctl_completion avatarctl
