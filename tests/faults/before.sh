#!/usr/bin/env bash
# before.sh COMMIT [LOG...]: shows that the tests of faults fail without what mended them. Builds that commit, and runs
# the tests of this checkout that the logs name (default: docs/log/faults-*.md; ids in backticks) against it. Prints each
# id, whether it failed, and why. Exit status: 1 if one of them passes, 2 if they could not be run.
set -euo pipefail
test $# -ge 1 || { echo "before.sh COMMIT [LOG...]" >&2; exit 2; }
cd "$(git -C "$(dirname "$0")" rev-parse --show-toplevel)"
commit=$(git rev-parse --verify --quiet "$1^{commit}") || { echo "there is no commit $1" >&2; exit 2; }
shift
test $# -gt 0 || set -- docs/log/faults-*.md
test -e "$1" || { echo "there is no $1: it lists the tests" >&2; exit 2; }

python=$PWD/.venv/bin/python
before=build/before/$commit
if test ! -e "$before/.built"; then
  echo "building $commit" >&2
  source=$(mktemp -d)
  trap 'rm -rf "$source"' EXIT
  git archive "$commit" | tar x -C "$source"
  "$python" -m venv --clear --without-pip "$before"
  site=$("$before/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
  # What the package and its tests need is this checkout's; but not its .pth files, which would bring its own build.
  "$python" -c "import sys; print(*(p for p in sys.path if p.endswith('-packages')), sep='\n')" > "$site/needs.pth"
  "$python" -m pip install --quiet --no-build-isolation --no-deps --target "$site" "$source"
  touch "$before/.built"
fi

exec "$before/bin/python" - "$@" <<'PYTHON'
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ids = list(dict.fromkeys(i for log in sys.argv[1:] for i in re.findall(r"`(tests/[^`]*::[^`]*)`", Path(log).read_text())))
if not ids:
    sys.exit(f"no test ids in {sys.argv[1:]}")
with tempfile.TemporaryDirectory() as scratch:
    report = Path(scratch) / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *ids]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode not in (0, 1):
        print(done.stdout[-2000:], file=sys.stderr)
        sys.exit(2)
    cases = list(ElementTree.parse(report).iter("testcase"))

def id_of(case: ElementTree.Element) -> str:
    """As pytest takes it: the module is the last part of the class's name that is a file."""
    parts = case.attrib["classname"].split(".")
    module = next(i for i in range(len(parts), 0, -1) if Path(*parts[:i]).with_suffix(".py").is_file())
    return "::".join([Path(*parts[:module]).with_suffix(".py").as_posix(), *parts[module:], case.attrib["name"]])


passed = 0
for wanted in ids:
    outcomes = []
    for case in cases:
        name = id_of(case)
        if name == wanted or name.startswith((f"{wanted}[", f"{wanted}::")):
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            outcomes.append(bad if bad is not None else case.find("skipped"))
    if not outcomes:
        sys.exit(f"there is no test {wanted}")
    reasons = [outcome for outcome in outcomes if outcome is not None]
    failures = [reason for reason in reasons if reason.tag != "skipped"]
    verdict = "FAILED" if failures else "SKIPPED" if reasons else "PASSED"
    passed += verdict == "PASSED"
    text = (failures or reasons)[0].attrib.get("message", "") if reasons else ""
    print(f"{verdict} {wanted}", *([f"    {text.strip().splitlines()[0][:300]}"] if text.strip() else []), sep="\n")
print(f"{len(ids)} tests, {passed} of them pass on that commit")
sys.exit(1 if passed else 0)
PYTHON
