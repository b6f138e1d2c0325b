"""Runs the kickstart's scripts as Anaconda does: from a file in /tmp, output to a log beside it, no input but
the terminal.
"""

import os
import subprocess
import tempfile

from ks import Script
from storage import SYSROOT
from system import Failed, log

TIMEOUT = 3600  # a %pre script may wait for a person
ENVIRONMENT = {
    **os.environ,
    "ANA_INSTALL_PATH": SYSROOT,
}  # by which `bootc install ensure-completion` knows Anaconda


def run_scripts(scripts: tuple[Script, ...], kind: str, *, strict: bool = True) -> None:
    """Run SCRIPTS in order. Raises Failed when one that must succeed doesn't, with STRICT."""
    for script in scripts:
        code, said = run_script(script)
        log(f"{kind} script of line {script.line} ended with {code}")
        if code and script.must_succeed and strict:
            raise Failed(
                f"the kickstart's {kind} script of line {script.line} ended with {code}: "
                f"{said or 'it said nothing'}"
            )


def run_script(script: Script) -> tuple[int, str]:
    """Run one; its exit code and the last line it wrote. Its log is outside the new system unless --log says
    otherwise.
    """
    root = SYSROOT if script.in_chroot and os.path.ismount(SYSROOT) else ""
    fd, path = tempfile.mkstemp(prefix="ks-script-", dir=f"{root}/tmp")
    with os.fdopen(fd, "w") as out:
        out.write(script.text)
    os.chmod(path, 0o700)
    inside = f"/tmp/{os.path.basename(path)}"
    messages = f"{root}{script.log}" if script.log else f"{inside}.log"
    argv = [*(["chroot", root] if root else []), script.interpreter, inside]
    with open(messages, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
        try:
            code = subprocess.run(argv, stdout=out, stderr=out, timeout=TIMEOUT, env=ENVIRONMENT).returncode
        except subprocess.TimeoutExpired:
            code = 124
        except OSError as error:
            out.write(f"{script.interpreter}: {error.strerror}\n")
            code = 127
    os.unlink(path)
    with open(messages, errors="replace") as written:
        lines = [line.strip() for line in written if line.strip()]
    return code, lines[-1][:300] if lines else ""
