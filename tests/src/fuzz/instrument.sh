#!/bin/sh
# Stands before rustc (RUSTC_WORKSPACE_WRAPPER) while the fuzzer is built: our own crates count
# which of their code is reached, and what is compared there. Others' crates are the ones that
# every build shares.
case " $* " in
    # A build script runs alone, without the fuzzer that these counters report to.
    *" --crate-name build_script_build "*) exec "$@" ;;
esac
exec "$@" --cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
