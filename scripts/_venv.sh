# Sourced by the other scripts: goes to the repository root and makes `.venv` ready, installing again only when
# pyproject.toml, constraints.txt or the interpreter changed.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

for link in circuits hooks kernels; do
  if [ ! -L "interp/$link" ] || [ ! -d "interp/$link" ]; then
    echo "interp/$link is not a symbolic link to a folder: this checkout lost its links." >&2
    echo "  fix:   git config core.symlinks true && git checkout -- interp" >&2
    exit 6
  fi
done

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if is_new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  echo "interp needs Python 3.11 or newer; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>/dev/null || echo missing)." >&2
  echo "  fix:   install it, or name it: PYTHON=/path/to/python3.12 $0" >&2
  exit 6
}

wanted_stamp() { { .venv/bin/python --version; pwd; cat pyproject.toml constraints.txt; } | cksum; }

make_venv() {
  local python
  python="$(find_python)"
  echo "making .venv (once; torch is a large download)" >&2
  "$python" -m venv .venv
  local install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt)
  "${install[@]}" "$(grep '^torch==' constraints.txt)" # first, so that nothing else chooses its version
  "${install[@]}" -e '.[dev]'
  wanted_stamp > .venv/interp.stamp
}

if [ ! -x .venv/bin/python ] || [ "$(wanted_stamp)" != "$(cat .venv/interp.stamp 2>/dev/null)" ]; then
  make_venv >&2
fi
export PATH="$PWD/.venv/bin:$PATH"
