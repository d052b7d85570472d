# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Completion of luctl(1) for bash.

_luctl_sessions() {
	luctl list --json 2>/dev/null | sed -n 's/^ *"name": "\([A-Za-z0-9._-]*\)",*$/\1/p' | sort -u
}

_luctl() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command='' sub='' i
	local commands='status list formats dump report preserve drop retrieve finish renew kexec'
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--socket) ((i++)) ;;
		-*) ;;
		*)
			if [[ -z $command ]]; then command=${COMP_WORDS[i]}; else sub=${sub:-${COMP_WORDS[i]}}; fi
			;;
		esac
	done

	local words='--help --json'
	case $before in
	--socket | --check | --svg | --key-file | --initrd | --formats)
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		compopt -o filenames
		return
		;;
	--policy) words='finish deadline keep' ;;
	--deadline | --timeout | --append) return ;;
	*)
		case $command:$sub in
		:) words="--help --version --socket $commands" ;;
		dump:) words+=' in out' ;;
		formats:*) words+=' --check' ;;
		report:*) words+=' --svg' ;;
		list: | drop: | finish: | retrieve: | renew:) words+=" $(_luctl_sessions)" ;;
		kexec:) words='load unload preflight go --help' ;;
		kexec:load) words+=' --initrd --append' ;;
		kexec:preflight) words+=' --formats' ;;
		kexec:go) words+=' --formats --timeout --force --lose --now' ;;
		esac
		case $command in
		preserve) words+=' --policy --deadline --key-file --hold' ;;
		retrieve) words+=' --key-file --finish --force' ;;
		finish) words+=' --discard' ;;
		esac
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
	# Paths, where a file is asked for.
	case $command:$sub in
	preserve:?* | retrieve:?* | kexec:load)
		if [[ $word != -* ]]; then
			local path=${word#*=} prefix=''
			[[ $word != *=* ]] || prefix=${word%%=*}=
			mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -P "$prefix" -f -- "$path")
			compopt -o filenames
		fi
		;;
	esac
}

complete -F _luctl luctl
