# awk -v results=DIR -f table.awk SKIPS JOBS: reads the KTAP that `guest` left in DIR,
# prints a table of suite, case and verdicts, what a case that failed said of it, and
# fails unless all is well.
# SKIPS has lines `suite case | "what the suite says": why`, JOBS "suite=whose". A SKIP passes only
# if it says exactly that.

FILENAME != "-" {
    if ($0 ~ /^#/ || !NF) next
    at = index($0, " | ")
    split(substr($0, 1, at), name, " ")
    why_skipped = substr($0, at + 3)
    if (!at || !match(why_skipped, /^"[^"]+": ./)) {
        print FILENAME ": not a line `suite case | \"text\": why`: " $0
        malformed = 1
        exit 1
    }
    listed_text[name[1], name[2]] = substr(why_skipped, 2, RLENGTH - 5)
    reason[name[1], name[2]] = substr(why_skipped, RLENGTH)
    next
}

{ split($0, job, "="); read_ktap(job[1], job[2]) }

# One result: the case in the order of its first appearance.
function note(suite, case_, whose, verdict, text, said_before) {
    if (!((suite, case_) in known)) {
        known[suite, case_] = ++rows
        suite_of[rows] = suite
        case_of[rows] = case_
    }
    said[suite, case_, whose] = verdict
    if (verdict == "ok") { good++; return }
    if (verdict == "SKIP" && (suite, case_) in reason) {
        if (text == listed_text[suite, case_]) {
            listed++
            used[suite, case_] = text
            return
        }
        said_before = "\n    the listed reason is: " listed_text[suite, case_] said_before
    }
    bad++
    why[++whys] = suite " " case_ " (" whose "): " verdict (text ? ", " text : "") said_before
}

function read_ktap(suite, whose,    file, line, plan, count, failed, verdict, text, said_before, name, status) {
    name = suite
    gsub("/", ".", name)
    file = results "/" name "." whose
    plan = -1
    while ((getline line < (file ".tap")) > 0) {
        if (line ~ /^1\.\.[0-9]+$/) plan = substr(line, 4) + 0
        if (line ~ /^# /) said_before = said_before "\n    " line
        if (line !~ /^(not )?ok [0-9]+ /) continue
        count++
        verdict = line ~ /^not/ ? "not ok" : "ok"
        failed += verdict == "not ok"
        text = ""
        if (match(line, / # (SKIP|XFAIL)/)) {
            text = substr(line, RSTART + RLENGTH + 1)
            verdict = substr(line, RSTART + 3, RLENGTH - 3)
            line = substr(line, 1, RSTART - 1)
        }
        sub(/^(not )?ok [0-9]+ [^.]*\.?/, "", line)
        note(suite, line, whose, verdict, text, said_before)
        said_before = ""
    }
    close(file ".tap")
    status = "none"
    getline status < (file ".status")
    close(file ".status")
    if (plan < 0) note(suite, "(plan)", whose, "missing", "exit status " status)
    else if (plan != count) note(suite, "(plan)", whose, "not ok", (count + 0) " of " plan " cases came, exit status " status)
    else if (!plan) note(suite, "(plan)", whose, "not ok", "no case at all")
    else if (status == "none") note(suite, "(end)", whose, "missing", "the suite did not end")
    else if (status != 0 && !failed) note(suite, "(end)", whose, "not ok", "exit status " status)
}

function cell(i, whose) {
    return (suite_of[i], case_of[i], whose) in said ? said[suite_of[i], case_of[i], whose] : "-"
}

END {
    if (malformed) exit 1
    wide = 4
    for (i = 1; i <= rows; i++) if (length(case_of[i]) > wide) wide = length(case_of[i])
    form = "%-20s %-" wide "s  %-7s  %s\n"
    printf "\n" form, "suite", "case", "ours", "upstream"
    for (i = 1; i <= rows; i++) printf form, suite_of[i], case_of[i], cell(i, "ours"), cell(i, "upstream")
    for (key in used) {
        if (!shown++) print "\nRightly skipped:"
        split(key, name, SUBSEP)
        printf "  %s %s (%s)\n    %s\n", name[1], name[2], used[key], reason[key]
    }
    if (whys) print "\nNot as it should be:"
    for (i = 1; i <= whys; i++) print "  " why[i]
    printf "\n%d ok, %d failed, %d skipped\n", good, bad, listed
    exit bad > 0 || good == 0
}
