"""Runs the kickstart's scripts as Anaconda does: each with a log, and no input but the terminal."""

import os
import subprocess
import tempfile

from ks import Script
from storage import SYSROOT
from system import EarlyFailed, Failed, log

TIMEOUT = 3600  # seconds; a %pre script may wait for a person
# `bootc install ensure-completion` knows by this variable that Anaconda runs it.
ENVIRONMENT = {**os.environ, "ANA_INSTALL_PATH": SYSROOT}


def run_scripts(scripts: tuple[Script, ...], section: str, *, strict: bool = True) -> None:
    """Run SCRIPTS of the kickstart's SECTION in order.

    With STRICT, Failed is raised when a script that must succeed does not, EarlyFailed for one of %pre.
    """
    for script in scripts:
        code, last_line = run_script(script)
        log(f"{section} script of line {script.line} ended with {code}")
        if code and script.must_succeed and strict:
            raise (EarlyFailed if section == "%pre" else Failed)(
                f"the kickstart's {section} script of line {script.line} ended with {code}: "
                f"{last_line or 'it said nothing'}"
            )


def run_script(script: Script) -> tuple[int, str]:
    """Run one SCRIPT; its exit code and the last line that it wrote (at most 300 characters).

    Its log is outside the new system unless --log says otherwise. As in a shell, 124 means that it took too
    long, and 127 that its interpreter could not be started.
    """
    root = SYSROOT if script.in_chroot and os.path.ismount(SYSROOT) else ""
    fd, path = tempfile.mkstemp(prefix="ks-script-", dir=f"{root}/tmp")
    with os.fdopen(fd, "w") as out:
        out.write(script.text)
    os.chmod(path, 0o700)
    path_in_root = f"/tmp/{os.path.basename(path)}"
    log_path = f"{root}{script.log}" if script.log else f"{path_in_root}.log"
    argv = [*(["chroot", root] if root else []), script.interpreter, path_in_root]
    with open(log_path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
        try:
            code = subprocess.run(argv, stdout=out, stderr=out, timeout=TIMEOUT, env=ENVIRONMENT).returncode
        except subprocess.TimeoutExpired:
            code = 124
        except OSError as error:
            out.write(f"{script.interpreter}: {error.strerror}\n")
            code = 127
    os.unlink(path)
    with open(log_path, errors="replace") as written:
        lines = [line.strip() for line in written if line.strip()]
    return code, lines[-1][:300] if lines else ""
