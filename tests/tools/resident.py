#!/usr/bin/env python3
"""Runs a command and says how much memory it had resident over its time; its exit status is the command's.

    resident.py REPORT COMMAND...      writes to REPORT, in KiB: the peak, then samples at 1/4, 1/2, 3/4 and the end of the run
"""
import resource
import subprocess
import sys
import time


def sample(pid):
    with open("/proc/%d/status" % pid) as f:
        return [int(line.split()[1]) for line in f if line.startswith("VmRSS")]


def main(report, command):
    process = subprocess.Popen(command)
    samples = []
    while process.poll() is None:
        try:
            samples += sample(process.pid)  # nothing when it just ended
        except OSError:
            pass
        time.sleep(0.1)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    n = len(samples)
    at = [samples[i] for i in (n // 4, n // 2, n * 3 // 4, n - 1)] if n else []
    with open(report, "w") as f:
        print(peak, *at, file=f)
    sys.exit(process.returncode if process.returncode >= 0 else 128 - process.returncode)


if len(sys.argv) < 3:
    sys.exit(__doc__)
main(sys.argv[1], sys.argv[2:])
