#!/usr/bin/env bash
# Can this package's bounds be met together with what TRL's users install beside it? Asks uv, installs nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
failed=0
check() {  # check yes|no REQUIREMENT...
  local expected=$1 found=yes versions
  shift
  versions=$(printf '%s\n' "trl-negalign @ file://$PWD" "$@" | "${UV:-uv}" pip compile - --python-version 3.11 --quiet \
    --no-header --no-annotate 2>/dev/null) || found=no
  echo "$* -> $found $(grep -E '^(torch|transformers|trl|vllm)=' <<<"$versions" | tr '\n' ' ')"
  [ "$found" = "$expected" ] || { echo "  expected: $expected"; failed=1; }
}
check yes 'trl[vllm]==1.16.0' 'vllm==0.31.0'
check yes 'trl[vllm]==1.16.0' 'vllm==0.22.0'
check yes 'trl[peft,deepspeed]==1.16.0'
check no 'axolotl==0.19.0'  # pins TRL 1.9 and transformers 5.16
check no 'ms-swift==4.6.0'  # wants TRL below 1.0
exit $failed
