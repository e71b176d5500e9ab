#!/usr/bin/env bash
# The action's one step: the inputs (INPUT_*) become arguments of `hitless run`, its report becomes outputs
# (GITHUB_OUTPUT). The outputs are written whatever the run came to; then its exit code is this script's.
set -euo pipefail

# A line of outputs. A value that could begin another one is refused: nothing here has more than one line.
output() {
    [[ $2 != *$'\n'* ]] || { echo "error: the value of the output $1 has more than one line" >&2; exit 2; }
    printf '%s=%s\n' "$1" "$2" >>"${GITHUB_OUTPUT:-/dev/null}"
}

# Adds `flag=line` for each line of a value that is not empty. With the `=`, no value is ever taken for a flag.
add_lines() {
    local line
    while IFS= read -r line || [[ -n $line ]]; do
        line=${line%$'\r'}
        [[ -z ${line//[[:space:]]/} ]] || arguments+=("$1=$line")
    done <<<"$2"
}

readonly report_dir=${INPUT_REPORT_DIR:-hitless-report}
readonly hitless=${INPUT_BINARY:-${RUNNER_TEMP:-/tmp}/hitless-target/release/hitless}
case ${INPUT_FAIL_ON:=inconclusive} in
    inconclusive | fail) ;;
    *) echo "error: fail-on is \`$INPUT_FAIL_ON\`; write inconclusive or fail" >&2; exit 2 ;;
esac

arguments=(run "--report-dir=$report_dir")
add_lines --image "${INPUT_IMAGE:-}"
if [[ -n ${INPUT_COMPOSE:-} ]]; then
    arguments+=(--runtime=compose "--compose=$INPUT_COMPOSE")
fi
add_lines --service "${INPUT_SERVICES:-}"
add_lines --preset "${INPUT_PRESET:-}"
add_lines --env "${INPUT_ENV:-}"
add_lines --url "${INPUT_URL:-}"
add_lines --replicas "${INPUT_REPLICAS:-}"
add_lines --rounds "${INPUT_ROUNDS:-}"
add_lines --rate "${INPUT_RATE:-}"
add_lines --cohort "${INPUT_COHORTS:-}"
add_lines --budget "${INPUT_BUDGETS:-}"
while IFS= read -r argument || [[ -n $argument ]]; do
    argument=${argument%$'\r'}
    [[ -z ${argument//[[:space:]]/} ]] || arguments+=("$argument")
done <<<"${INPUT_ARGS:-}"

# An older report in this place would be taken for this run's.
rm -f -- "$report_dir/report.json" "$report_dir/summary.md" "$report_dir/metrics.txt"

exit_code=0
"$hitless" "${arguments[@]}" || exit_code=$?

# Without a report there was no run.
verdict=error report='' summary='' requests='' failed=''
if [[ -f $report_dir/report.json ]]; then
    report=$report_dir/report.json
    case $exit_code in
        0) verdict=pass ;;
        1) verdict=fail ;;
        4) verdict=inconclusive ;;
    esac
fi
if [[ -f $report_dir/summary.md ]]; then
    summary=$report_dir/summary.md
fi
if [[ -f $report_dir/metrics.txt ]]; then
    sum() { awk -v name="$1{" 'index($0, name) == 1 { sum += $NF } END { printf "%d", sum }' "$report_dir/metrics.txt"; }
    requests=$(sum hitless_requests_total)
    failed=$(sum hitless_failed_total)
fi
output verdict "$verdict"
output requests "$requests"
output failed "$failed"
output exit-code "$exit_code"
output report "$report"
output summary "$summary"

if ((exit_code == 4)) && [[ $INPUT_FAIL_ON == fail ]]; then
    exit 0
fi
exit "$exit_code"
